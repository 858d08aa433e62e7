"""One timer for the time limits of many exchanges, because to arm and cancel one for each costs 2 us a call (measured, uvloop).

The timer stands at the earliest limit that was known when it was armed. Limits move forward by assignment and nobody tells it: it rings
early then, finds that nothing is due and sleeps on until the earliest limit of that moment.

Example: answer_s = 240 and 500 calls a second: it rings every four minutes, not 500 times a second.
"""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

# A loop that is so late has stood still itself (a stopped process, a stalled machine). What came meanwhile lies unread in the sockets,
# and loops run their timers before they read: every call would be given up, and its backend blamed, for the router's own silence.
STOOD_STILL_S = 0.1
READ_FIRST_S = 0.005  # above the millisecond in which uvloop counts, so that all sockets are read once


class Limited(Protocol):
    """What has a limit, an instant of the loop's clock."""

    limit_s: float

    def is_late(self) -> None: ...


class Alarm:
    """Tells each that is watched once when its limit has passed."""

    __slots__ = ("_due_s", "_timer", "_watched")

    def __init__(self) -> None:
        self._watched: set[Limited] = set()
        self._due_s = math.inf  # of the timer; uvloop's handle of a timer that is due at once does not know it
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, limited: Limited) -> None:
        """Watch it from now on; call again where its limit has become an earlier one."""
        self._watched.add(limited)
        if limited.limit_s < self._due_s:
            self._arm(limited.limit_s)

    def forget(self, limited: Limited) -> None:
        """Its limit means nothing any more."""
        self._watched.discard(limited)

    def _arm(self, due_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due_s = due_s
        self._timer = asyncio.get_running_loop().call_at(due_s, self._ring)

    def _ring(self) -> None:
        now_s = asyncio.get_running_loop().time()
        late = [limited for limited in self._watched if limited.limit_s <= now_s]
        if late and now_s - self._due_s > STOOD_STILL_S:
            self._arm(now_s + READ_FIRST_S)
            return
        self._watched.difference_update(late)
        self._timer, self._due_s = None, math.inf
        if self._watched:
            self._arm(min(limited.limit_s for limited in self._watched))
        for limited in late:
            limited.is_late()
