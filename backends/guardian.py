"""The guardian: a small process between us and an engine, so that the engine never outlives us and leaves nobody behind.

Run by path with any Python, standard library only: `guardian.py CONTROL_FD REPORT_FD GRACE_S COMMAND…`. Its rules:

- It starts COMMAND in a session of its own and writes the process id to REPORT_FD (or the reason why it cannot).
- SIGTERM, or the end of CONTROL_FD (whoever held the other end is gone, however it died), asks COMMAND to stop with SIGTERM;
  what is still there after GRACE_S seconds is killed.
- When COMMAND has ended, all that it ever started is ended too, even in sessions of their own: as a subreaper the guardian
  inherits every orphan (vLLM's engine core survives its API server otherwise, with 2 GB).
- Should the guardian itself be killed, COMMAND gets SIGKILL from the kernel (PR_SET_PDEATHSIG), but its descendants do not.
- It ends as COMMAND ended: with the same exit status, or by the same signal.

Without prctl (not Linux) orphans that left COMMAND's process group are out of reach.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PROC = Path("/proc")
PR_SET_PDEATHSIG = 1  # both from Linux's include/uapi/linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36
ORPHANS_GRACE_S = 2.0  # vLLM's core and workers end within a second of SIGTERM; they hold nothing worth a longer wait
LOOK_AGAIN_S = 0.05
CANNOT_START = 127  # the shells' status for a command that is not there


class Guardian:
    """Owns one command from its start to the end of its last descendant."""

    def __init__(self, command: list[str], grace_s: float):
        self._grace_s = grace_s
        self._prctl = Prctl()
        self._prctl(PR_SET_CHILD_SUBREAPER, 1)
        self._child = subprocess.Popen(command, start_new_session=True, preexec_fn=self._in_child)  # noqa: S603, PLW1509
        self.pid = self._child.pid
        self._status: int | None = None
        self._kill_at_s: float | None = None

    def watch(self, control: int, wake: int) -> int:
        """Return COMMAND's wait status once nothing of it is left. `wake` becomes readable with every signal."""
        sources = [control, wake]
        while self._status is None:
            if self._kill_at_s is not None and time.monotonic() >= self._kill_at_s:
                self._signal_all(signal.SIGKILL)
            timeout_s = None if self._kill_at_s is None else max(self._kill_at_s - time.monotonic(), LOOK_AGAIN_S)
            readable, _, _ = select.select(sources, [], [], timeout_s)
            if wake in readable and signal.SIGTERM in os.read(wake, 4096):
                self._stop()
            if control in readable and not os.read(control, 1):
                sources.remove(control)
                self._stop()
            self._reap()
        self._end_the_rest()
        return self._status

    def _in_child(self) -> None:
        self._prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def _stop(self) -> None:
        if self._kill_at_s is None:
            self._kill_at_s = time.monotonic() + self._grace_s
            _send(self.pid, signal.SIGTERM)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid:
                self._status = status

    def _end_the_rest(self) -> None:
        self._signal_all(signal.SIGTERM)
        kill_at_s = time.monotonic() + ORPHANS_GRACE_S
        while self._descendants():
            if time.monotonic() >= kill_at_s:
                self._signal_all(signal.SIGKILL)
            time.sleep(LOOK_AGAIN_S)
            self._reap()

    def _signal_all(self, sig: signal.Signals) -> None:
        for pid in self._descendants():
            _send(pid, sig)
        if not PROC.exists():  # where there is one, the group adds nobody, and its number may be a stranger's by now
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, sig)

    def _descendants(self) -> set[int]:
        found: set[int] = set()
        front = {os.getpid()}
        while front:
            front = {child for pid in front for child in _children(pid)} - found
            found |= front
        return found


def _children(pid: int) -> list[int]:
    """The children of all threads of `pid`; zombies count, until they are reaped."""
    children: list[int] = []
    for listed in (PROC / str(pid) / "task").glob("*/children"):
        try:
            children += map(int, listed.read_text().split())
        except OSError:  # the thread has ended since it was listed
            continue
    return children


def _send(pid: int, sig: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, sig)


class Prctl:
    """prctl(2) where there is one, else nothing; the library is loaded before the fork, where loading is safe."""

    def __init__(self) -> None:
        self._call = getattr(ctypes.CDLL(None), "prctl", None)

    def __call__(self, option: int, value: int) -> None:
        if self._call is not None:
            self._call(option, value, 0, 0, 0)


def _end_as(status: int) -> None:
    """Exit as the process with this wait status did."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # one core file is enough
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def main(arguments: list[str]) -> None:
    """Guard the command of the arguments and end as it does."""
    control, report, grace_s, command = int(arguments[0]), int(arguments[1]), float(arguments[2]), arguments[3:]
    wake, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    for sig in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(sig, lambda *_: None)  # a handler, so that the number reaches the wake-up pipe
    os.set_inheritable(control, False)
    os.set_inheritable(report, False)
    try:
        guardian = Guardian(command, grace_s)
    except OSError as exc:
        os.write(report, f"{exc.strerror}: {exc.filename}".encode())
        os._exit(CANNOT_START)
    os.write(report, str(guardian.pid).encode())
    os.close(report)
    _end_as(guardian.watch(control, wake))


if __name__ == "__main__":
    main(sys.argv[1:])
