"""The queue of `policies.line` with calls standing in it: a limit on how many are inside at once, for the router and for each backend.

Whoever cannot be let in in time is refused, as soon as that is clear: a call that waits longer than its client has been taken from those
who came later and helps nobody.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from policies.admission import Priority, Refusal, RefusalReason
from policies.line import Line

Place = asyncio.Future[Refusal | None]  # None: let in


class GateFull(Exception):
    """No room inside, and none in the queue or not in time. `wait_s` estimates when there may be."""

    def __init__(self, refusal: Refusal):
        super().__init__(f"{refusal.reason.value}; room is expected in {refusal.wait_s:.3g} s")
        self.reason = refusal.reason
        self.wait_s = refusal.wait_s


class Gate(Line[Place]):
    """Calls go in, or wait by class and in order of arrival. `refused` counts those that were not let in."""

    def __init__(self, limit: int, queue_size: int, queue_wait_s: float):
        super().__init__(limit, queue_size, queue_wait_s)
        self.refused: Counter[tuple[Priority, RefusalReason]] = Counter()

    async def enter(self, until_s: float, priority: Priority = Priority.INTERACTIVE) -> None:
        """Go in, or wait at most until `until_s` (an instant of the loop's clock). Raises GateFull."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        if self.enters(priority, now_s):
            return
        refusal = self.turns_away(priority, now_s, until_s - now_s)
        if refusal is None:
            place: Place = loop.create_future()
            displaced = self.stand(place, priority, now_s)
            if displaced is not None and not displaced[0].done():
                displaced[0].set_result(displaced[1])
            refusal = await self._wait(place, priority, min(until_s, now_s + self._queue_wait_s))
        if refusal is not None:
            self.refused[priority, refusal.reason] += 1
            raise GateFull(refusal)

    def leave(self) -> None:
        """Give the place to the next in the queue, or back."""
        self.inside -= 1
        if self.is_timed:
            self._let_in()

    def resize(self, limit: int) -> None:
        """Change the limit. Nobody is sent out; who waits is let in where there is room now."""
        self.limit = limit
        if self.waiting:
            self._let_in()

    def _let_in(self) -> None:
        now_s = asyncio.get_running_loop().time()
        while (place := self.next_in(now_s)) is not None:
            if place.done():  # its call has been cancelled and did not come to step out yet
                self.inside -= 1
            else:
                place.set_result(None)

    async def _wait(self, place: Place, priority: Priority, until_s: float) -> Refusal | None:
        try:
            async with asyncio.timeout_at(until_s):
                return await place
        except TimeoutError:
            self._give_up(place)
            return self.expired(priority, asyncio.get_running_loop().time())
        except asyncio.CancelledError:
            self._give_up(place)
            raise

    def _give_up(self, place: Place) -> None:
        """A place that was handed over in the very moment of giving up is passed on."""
        if not self.step_out(place) and place.done() and not place.cancelled() and place.result() is None:
            self.leave()
