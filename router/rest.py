"""The time between two requests on a connection, and its end: one timer for many, because each that is armed costs 2 us (measured)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable


class Rest:
    """`is_too_long` is called when a rest has lasted `limit_s` seconds. `until_s`: the instant at which it will have; infinite outside one.

    A rest that ends leaves its timer armed; the timer finds then that nothing is due, and sleeps on or lies down.
    """

    __slots__ = ("_is_too_long", "_limit_s", "_loop", "_timer", "until_s")

    def __init__(self, limit_s: float, loop: asyncio.AbstractEventLoop, is_too_long: Callable[[], None]):
        self.until_s = math.inf
        self._limit_s = limit_s
        self._loop = loop
        self._is_too_long = is_too_long
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Nothing is asked from now on."""
        self.until_s = self._loop.time() + self._limit_s
        if self._timer is None:
            self._timer = self._loop.call_at(self.until_s, self._due)

    def end(self) -> None:
        """Something is."""
        self.until_s = math.inf

    def close(self) -> None:
        """The connection is gone, and nobody holds it any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_too_long = _nothing

    def _due(self) -> None:
        self._timer = None
        if self.until_s == math.inf:
            return
        if self._loop.time() < self.until_s:
            self._timer = self._loop.call_at(self.until_s, self._due)
        else:
            self._is_too_long()


def _nothing() -> None:
    """Nobody is left to be told."""
