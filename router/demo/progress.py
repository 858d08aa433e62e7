"""What the demo says: plain lines with the time, who, and which phase; as readable in a log file as on a terminal."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path

from backends.process import Command, SupervisedProcess, describe
from router.demo.faults import Stopped, Unavailable

LOOK_AGAIN_S = 0.1
SAY_AGAIN_S = 10.0  # often enough to see that it lives, seldom enough for a log file
LINE_CHARS = 100


class Progress:
    """Lines to `write`, from any thread, until `stopping` is set."""

    def __init__(self, write: Callable[[str], None], stopping: threading.Event):
        self.stopping = stopping
        self._write = write
        self._lock = threading.Lock()
        self._began_s = time.monotonic()

    def say(self, who: str, phase: str, text: str) -> None:
        """One line."""
        self.show(f"{time.monotonic() - self._began_s:5.0f} s  {who:<10} {phase:<9} {text}")

    def show(self, text: str) -> None:
        """A text as it stands, not mixed with another thread's. Where nobody can read any more, that is the wish to stop."""
        with self._lock:
            try:
                self._write(text)
            except OSError:  # the terminal has been closed, or what the output is piped into has ended
                self.stopping.set()


class Steps:
    """Runs the commands of a set-up one after the other, their output in log files, and says how they go."""

    def __init__(self, who: str, progress: Progress, logs: Path, say_again_s: float = SAY_AGAIN_S):
        self.who = who
        self.progress = progress
        self._logs = logs
        self._say_again_s = say_again_s

    def say(self, phase: str, text: str) -> None:
        """One line about this set-up."""
        self.progress.say(self.who, phase, text)

    def run(self, phase: str, text: str, *argv: str, **env: str) -> None:
        """Run a command to its end. Raises Unavailable with its last lines when it fails, Stopped when asked to stop."""
        command = Command(f"{self.who}: {phase}", argv, self._logs / f"{self.who}-{phase}.log", env, grace_s=3)
        command.log.unlink(missing_ok=True)
        self.say(phase, text)
        with SupervisedProcess(command) as process:
            self.wait(phase, lambda: process.status is not None, lambda: last_line(process))
            status = process.stop()
        if status != 0:
            raise Unavailable(f"{text} ended with {describe(status)}; {process.last_words()}")

    def wait(
        self, phase: str, is_done: Callable[[], bool], news: Callable[[], str], timeout_s: float = math.inf
    ) -> None:
        """Return when `is_done()`; says the `news` now and then. Raises Stopped, and Unavailable after `timeout_s`."""
        began_s = time.monotonic()
        say_at_s = began_s + self._say_again_s
        while not is_done():
            if self.progress.stopping.wait(LOOK_AGAIN_S):
                raise Stopped
            passed_s = time.monotonic() - began_s
            if passed_s > timeout_s:
                raise Unavailable(f"{self.who} did not get through the phase {phase!r} in {timeout_s:g} s: {news()}")
            if time.monotonic() >= say_at_s:
                say_at_s += self._say_again_s
                self.say(phase, f"… {passed_s:.0f} s; {news()}")


def last_line(process: SupervisedProcess) -> str:
    """What the process said last, on one line of a screen."""
    lines = [line for line in process.last_lines(5) if line.strip()]
    text = lines[-1].strip() if lines else "it has said nothing yet"
    return text if len(text) <= LINE_CHARS else text[: LINE_CHARS - 1] + "…"
