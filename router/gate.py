"""A limit on how many may be inside at once, with a bounded queue in front and a limit on waiting.

Whoever cannot be let in within the wait is refused, as soon as that is clear: a call that waits longer than its client has been
taken from those who came later and helps nobody. Source: HAProxy's `maxconn`, `maxqueue` and `timeout queue`.
"""

from __future__ import annotations

import asyncio
from collections import deque


class GateFull(Exception):
    """No room inside, and none in the queue or not in time. `wait_s` estimates when there may be."""

    def __init__(self, wait_s: float):
        super().__init__(f"no room for {wait_s:g} s")
        self.wait_s = wait_s


class Gate:
    """At most `limit` inside and `queue_size` waiting, in the order of arrival."""

    def __init__(self, limit: int, queue_size: int, queue_wait_s: float):
        self.limit = limit
        self.inside = 0
        self._queue_size = queue_size
        self._queue_wait_s = queue_wait_s
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """How many stand in the queue."""
        return len(self._queue)

    def try_enter(self) -> bool:
        """Go in if there is room and nobody is before you."""
        if self.inside < self.limit and not self._queue:
            self.inside += 1
            return True
        return False

    async def enter(self, until_s: float) -> None:
        """Go in, or wait at most until `until_s` (an instant of the loop's clock). Raises GateFull."""
        if self.try_enter():
            return
        loop = asyncio.get_running_loop()
        wait_s = min(self._queue_wait_s, until_s - loop.time())
        if len(self._queue) >= self._queue_size or wait_s <= 0:
            raise GateFull(self._queue_wait_s)
        place = loop.create_future()
        self._queue.append(place)
        try:
            async with asyncio.timeout(wait_s):
                await place
        except TimeoutError as exc:
            self._give_up(place)
            raise GateFull(wait_s) from exc
        except asyncio.CancelledError:
            self._give_up(place)
            raise

    def leave(self) -> None:
        """Give the place to the next in the queue, or back."""
        while self._queue:
            place = self._queue.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.inside -= 1

    def _give_up(self, place: asyncio.Future[None]) -> None:
        """A place that was handed over in the very moment of giving up is passed on."""
        if place.done() and not place.cancelled():
            self.leave()
            return
        place.cancel()
        if place in self._queue:
            self._queue.remove(place)
