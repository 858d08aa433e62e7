"""A supervised child process: it never outlives us, stops when asked, and its last words can be read.

Every process runs under a guardian (`guardian.py`), which ends it and all that it started when we end, even by kill -9.
The calls here are short and synchronous; `wait`, `wait_until` and `stop` block and belong in a thread (`asyncio.to_thread`)
where a loop must go on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from backends import guardian

LOOK_AGAIN_S = 0.05
GUARDIAN_MARGIN_S = guardian.ORPHANS_GRACE_S + 3.0  # what the guardian itself takes at most after the grace
TAIL_BYTES = 65_536  # enough for the longest traceback that vLLM has been seen to leave (21 kB)


class ProcessError(Exception):
    """A supervised process did not do what was asked of it; the message is a sentence with its last lines."""


class CannotStart(ProcessError):
    """The command could not be run at all."""


class EndedEarly(ProcessError):
    """The process ended before it was ready."""


class NotReady(ProcessError):
    """The process still runs, but was not ready in time."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run. `env` is added to ours; output is appended to `log`; `grace_s` lies between SIGTERM and SIGKILL."""

    name: str
    argv: tuple[str, ...]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    grace_s: float = 10.0


class SupervisedProcess:
    """A running command, from its construction to `stop()` or the end of a `with` block.

    Raises CannotStart. The process leads a session of its own: a Ctrl-C at the terminal reaches us, not it.
    """

    def __init__(self, command: Command):
        self.command = command
        self._closing = threading.Lock()
        control_read, self._control = os.pipe()
        report, report_write = os.pipe()
        try:
            self._guardian = self._start(control_read, report_write)
        except BaseException:
            os.close(self._control)
            os.close(report)
            raise
        finally:
            os.close(control_read)
            os.close(report_write)
        try:
            with os.fdopen(report, "rb") as report_file:
                said = report_file.read().decode()
        except BaseException:  # a Ctrl-C while it starts: nobody could stop it later
            self.stop()
            raise
        if not said.isdigit():
            self.stop()
            raise CannotStart(f"{command.name} cannot be started: {said or self.last_words()}")
        self.pid = int(said)

    def _start(self, control: int, report: int) -> subprocess.Popen[bytes]:
        command = self.command
        script = [sys.executable, "-I", "-S", guardian.__file__, str(control), str(report), str(command.grace_s)]
        try:
            command.log.parent.mkdir(parents=True, exist_ok=True)
            with command.log.open("ab") as log:
                return subprocess.Popen(  # noqa: S603
                    [*script, *command.argv],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=command.cwd,
                    env={**os.environ, **command.env},
                    pass_fds=(control, report),
                    start_new_session=True,
                )
        except OSError as exc:
            raise CannotStart(f"{command.name} cannot be started: {exc.strerror}: {exc.filename}") from exc

    def __enter__(self) -> SupervisedProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def status(self) -> int | None:
        """None while anything of it runs, then its exit status; negative: the signal it died of."""
        status = self._guardian.poll()
        if status is not None:
            self._release()
        return status

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Its exit status, or None when it still runs after `timeout_s`."""
        try:
            return self._guardian.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def wait_until(self, is_ready: Callable[[], bool], timeout_s: float) -> None:
        """Return once `is_ready()` says so. Raises EndedEarly or NotReady."""
        deadline_s = time.monotonic() + timeout_s
        while not is_ready():
            if self.status is not None:
                raise EndedEarly(
                    f"{self.command.name} ended with {describe(self.status)} before it was ready; {self.last_words()}"
                )
            if time.monotonic() >= deadline_s:
                raise NotReady(f"{self.command.name} was not ready after {timeout_s:g} s; {self.last_words()}")
            time.sleep(LOOK_AGAIN_S)

    def stop(self) -> int:
        """End it and all that it started: SIGTERM, SIGKILL after the grace. Returns its status; harmless when it has ended."""
        if self._guardian.poll() is None:
            self._guardian.send_signal(signal.SIGTERM)
        try:
            return self._guardian.wait(self.command.grace_s + GUARDIAN_MARGIN_S)
        except subprocess.TimeoutExpired:
            self._guardian.kill()  # stopped or starved; the kernel then kills the process itself
            return self._guardian.wait()
        finally:
            self._release()

    def _release(self) -> None:
        with self._closing:  # one thread may stop it while another asks after it
            if self._control >= 0:
                os.close(self._control)
                self._control = -1

    def last_lines(self, count: int = 20) -> list[str]:
        """The last lines of its log."""
        try:
            with self.command.log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
                return log.read().decode(errors="replace").splitlines()[-count:]
        except FileNotFoundError:
            return []

    def last_words(self) -> str:
        """The last lines as the end of a sentence, with where the rest is."""
        lines = "\n    ".join(self.last_lines())
        return f"its log {self.command.log} ends:\n    {lines}" if lines else f"its log {self.command.log} is empty"


def describe(status: int) -> str:
    """An exit status in words."""
    return f"exit status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"
