"""The supervisor of several workers: binds the port, starts the processes that serve on it, and starts anew whichever ends.

All accept on the same sockets, which the supervisor keeps open: a worker that is killed takes no connection with it but those that it had
accepted, and while none is there they wait. (With SO_REUSEPORT each worker would have a queue of its own, and take it with it.)

    a worker ends          its limits are given back, and it is started anew: at once, or later and later where it ends at once each time
    none can start         the others are told to stop, and that is the end
    SIGTERM, SIGINT        sent on to the workers, which stop as `router.serve` says; so is a second one. Who is not gone in time is killed
    SIGHUP                 sent on; from a terminal it is the end, as SIGINT is
    the supervisor ends    however it does, a pipe tells the workers, and they stop in order

The workers lead sessions of their own, so that a Ctrl-C reaches them once, through the supervisor. No thread, no loop and no fork without
exec is here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from router.accepted import Accepted
from router.config import Config
from router.serve import LAST_WORDS_S, LEAD_S
from router.shared import Shared
from router.team import Place
from router.worker import Task, handed

ENDED_AT_ONCE_S = 5.0  # a start takes one second, and several where the processors are shared
WAITS_S = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # from the first end at once to the last and all after it
KILLED_AFTER_S = 3.0  # beyond the time in which a worker should have stopped
LONGEST_FOLDER = 95  # of the 107 bytes that the path of a unix socket may have; the rest is "/255.socket"

log = logging.getLogger("crossfade")


@dataclass(slots=True)
class Worker:
    """One of them. `quick_ends`: how often in a row it has ended at once. `has_failed`: it has ended without ever having served."""

    number: int
    hears: int
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    due_s: float = 0.0
    quick_ends: int = 0
    has_failed: bool = False


class Supervisor:
    """Runs `server.workers` processes on the `bound` sockets, with the configuration from `file`, which they follow."""

    def __init__(self, config: Config, file: Path, bound: list[socket.socket]):
        self._config = config
        self._accepted = Accepted.made(config)
        self._file = file
        self._bound = bound
        self._shared = Shared.made(config.server.workers)
        pipes = [os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) for _ in range(config.server.workers)]
        self._rings = tuple(write for _, write in pipes)
        self._workers = [Worker(number, hears) for number, (hears, _) in enumerate(pipes)]
        self._lifeline, self._life = os.pipe()
        self._wake, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._signals: list[int] = []
        self._has_served = False
        self._kill_at_s: float | None = None
        self._folder = _private_folder()

    def run(self) -> str:
        """Serve until told to stop; "" then, or a sentence why nothing could be served."""
        signal.set_wakeup_fd(self._wake_write)
        for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(sig, lambda number, _frame: self._signals.append(number))
        try:
            return self._watch()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _watch(self) -> str:
        trouble = ""
        while True:
            if self._kill_at_s is None:
                self._start_who_is_due()
            self._sleep()
            while self._signals:
                self._heard(self._signals.pop(0))
            for worker in self._workers:
                if worker.process is not None and worker.process.poll() is not None:
                    self._ended(worker, worker.process.returncode)
            if self._kill_at_s is None and not self._has_served and all(each.has_failed for each in self._workers):
                trouble = "no worker can start; the reason is in the lines above."
                self._heard(signal.SIGTERM)
            if self._kill_at_s is not None and not self._running():
                return trouble

    def _running(self) -> list[subprocess.Popen[bytes]]:
        return [worker.process for worker in self._workers if worker.process is not None]

    def _sleep(self) -> None:
        """Until a signal comes, or something is due."""
        due_s = [worker.due_s for worker in self._workers if worker.process is None]
        if self._kill_at_s is not None:
            due_s = [self._kill_at_s]
        timeout_s = max(0.0, min(due_s) - time.monotonic()) if due_s else None
        select.select([self._wake], [], [], timeout_s)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 4096)
        if self._kill_at_s is not None and time.monotonic() >= self._kill_at_s:
            for process in self._running():
                log.error("stopping: a worker (pid %d) did not end in time and is killed", process.pid)
                process.kill()
            self._kill_at_s = time.monotonic() + KILLED_AFTER_S

    def _heard(self, sig: int) -> None:
        if sig == signal.SIGHUP and os.isatty(0):
            sig = signal.SIGINT
        if sig == signal.SIGCHLD:
            return
        for process in self._running():
            process.send_signal(sig)
        if sig == signal.SIGHUP:
            return
        is_first = self._kill_at_s is None
        takes_s = LEAD_S + self._in_effect().server.drain_s if is_first else 0.0
        self._kill_at_s = time.monotonic() + takes_s + LAST_WORDS_S + KILLED_AFTER_S
        for each in self._bound:
            each.close()  # the workers have their own, and close them when others had time to hear of the stop

    # -- starting --------------------------------------------------------------------------------

    def _start_who_is_due(self) -> None:
        for worker in self._workers:
            if worker.process is None and time.monotonic() >= worker.due_s:
                self._start(worker)

    def _start(self, worker: Worker) -> None:
        listeners = tuple(each.fileno() for each in self._bound)
        place = Place(
            worker.number,
            len(self._workers),
            self._folder,
            self._shared.descriptor,
            worker.hears,
            self._rings,
            self._lifeline,
            self._accepted.descriptor,
        )
        task = handed(Task(self._in_effect(), self._file, listeners, place))
        try:
            worker.process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-m", "router.worker", str(task)],
                stdin=subprocess.DEVNULL,
                pass_fds=(task, *listeners, place.memory, place.hears, *place.rings, place.lifeline, place.accepted),
                start_new_session=True,
            )
        finally:
            os.close(task)
        worker.started_s = time.monotonic()
        self._shared.started(worker.number, worker.process.pid)

    def _in_effect(self) -> Config:
        self._config = self._accepted.last() or self._config
        return self._config

    def _ended(self, worker: Worker, status: int) -> None:
        assert worker.process is not None, "who does not run does not end"
        pid, worker.process = worker.process.pid, None
        has_served = self._shared.is_serving(worker.number)
        self._has_served = self._has_served or has_served
        worker.has_failed = worker.has_failed or not has_served
        self._shared.clear(worker.number)
        for write in self._rings:
            with contextlib.suppress(BlockingIOError):
                os.write(write, b"\0")  # its places are free
        if self._kill_at_s is not None:
            return
        now_s = time.monotonic()
        worker.quick_ends = worker.quick_ends + 1 if now_s - worker.started_s < ENDED_AT_ONCE_S else 1
        wait_s = WAITS_S[min(worker.quick_ends, len(WAITS_S)) - 1]
        worker.due_s = now_s + wait_s
        when = f"in {wait_s:g} s" if wait_s else "at once"
        log.error(
            "worker %d (pid %d) ended with %s; it is started anew %s", worker.number, pid, _described(status), when
        )


def _private_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="crossfade-"))
    if len(os.fsencode(folder)) <= LONGEST_FOLDER:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="crossfade-", dir="/tmp"))


def _described(status: int) -> str:
    return f"exit status {status}" if status >= 0 else signal.Signals(-status).name
