"""Keeps processes running: one that ends by itself is started again, a little later each time."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from backends.process import SupervisedProcess, describe
from router.demo.faults import DemoFailed
from router.demo.progress import Progress


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait before each new start, and when to give up: by default after a minute of waiting."""

    first_s: float = 1.0
    longest_s: float = 30.0
    steady_s: float = 60.0  # after this long without an end the next one counts as the first again
    ends: int = 6  # so many in a row are borne


class Kept:
    """One process that is to run until `stop()`. `tick()` it now and then; any thread may."""

    def __init__(self, name: str, process: SupervisedProcess, progress: Progress, patience: Patience = Patience()):
        self.name = name
        self._process = process
        self._progress = progress
        self._patience = patience
        self._lock = threading.Lock()
        self._ends = 0
        self._again_at_s: float | None = None
        self._began_s = time.monotonic()
        self._is_wanted = True

    @property
    def pid(self) -> int:
        """The process as it was started last."""
        return self._process.pid

    def tick(self) -> None:
        """Start it again if it has ended and its wait is over. Raises DemoFailed when it keeps ending."""
        with self._lock:
            status = self._process.status
            if not self._is_wanted or status is None:
                return
            now_s = time.monotonic()
            if self._again_at_s is None:
                self._again_at_s = now_s + self._wait_s(now_s, status)
            elif now_s >= self._again_at_s:
                self._again_at_s = None
                self._began_s = now_s
                self._process = SupervisedProcess(self._process.command)
                self._progress.say(self.name, "start", f"again, as process {self._process.pid}")

    def stop(self) -> None:
        """End it for good."""
        with self._lock:
            self._is_wanted = False
            self._process.stop()

    def _wait_s(self, now_s: float, status: int) -> float:
        patience = self._patience
        self._ends = self._ends + 1 if now_s - self._began_s < patience.steady_s else 1
        if self._ends > patience.ends:
            raise DemoFailed(f"{self.name} keeps ending, last with {describe(status)}; {self._process.last_words()}")
        wait_s = min(patience.first_s * 2.0 ** (self._ends - 1), patience.longest_s)
        self._progress.say(self.name, "ended", f"with {describe(status)}; it is started again in {wait_s:g} s")
        return wait_s
