"""Keeps processes running: one that ends by itself is started again, a little later each time."""

from __future__ import annotations

import threading
import time

from backends.process import SupervisedProcess, describe
from router.demo.faults import DemoFailed
from router.demo.progress import Progress

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
STEADY_S = 60.0  # after this long without an end the next one counts as the first again
GIVE_UP_AFTER = 6  # ends in a row: about a minute of waiting


class Kept:
    """One process that is to run until `stop()`. `tick()` it now and then; any thread may."""

    def __init__(self, name: str, process: SupervisedProcess, progress: Progress):
        self.name = name
        self._process = process
        self._progress = progress
        self._lock = threading.Lock()
        self._ends = 0
        self._again_at_s: float | None = None
        self._began_s = time.monotonic()
        self._is_wanted = True

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

    def stop(self) -> None:
        """End it for good."""
        with self._lock:
            self._is_wanted = False
            self._process.stop()

    def _wait_s(self, now_s: float, status: int) -> float:
        self._ends = self._ends + 1 if now_s - self._began_s < STEADY_S else 1
        if self._ends > GIVE_UP_AFTER:
            raise DemoFailed(f"{self.name} keeps ending, last with {describe(status)}; {self._process.last_words()}")
        wait_s = min(FIRST_WAIT_S * 2.0 ** (self._ends - 1), LONGEST_WAIT_S)
        self._progress.say(self.name, "ended", f"with {describe(status)}; it is started again in {wait_s:.0f} s")
        return wait_s
