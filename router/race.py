"""The first attempt of a call and, where it is slow to say anything, one beside it: whichever has content first answers the client.

Both run as tasks; the one that commits ends the other at that moment, so a client never sees two answers, and a backend never works
for nobody for longer than it takes to close a connection. A call of a model without `hedge` never comes here.
"""

from __future__ import annotations

import asyncio

from backends.errors import BackendError
from policies.choose import Reason
from policies.hedge import HedgePlace, hedge
from policies.outcome import OutcomeKind
from router.attempt import Attempt
from router.call import Call
from router.client import Client
from router.fleet import LiveModel
from router.record import Recorder


class Race:
    """Built for one call; `run` it once. What it has tried stands at the front of `call.candidates` then, the last of it first."""

    def __init__(self, call: Call, model: LiveModel, client: Client, recorder: Recorder):
        self._call = call
        self._model = model
        self._client = client
        self._recorder = recorder
        self._runners: list[tuple[Attempt, asyncio.Task[None]]] = []
        self._winner: Attempt | None = None

    async def run(self, after_s: float) -> None:
        """Answer the client. Raises the BackendError of whoever got furthest: the winner's, else that of the last one that was asked."""
        first = self._start(self._call.candidates[0].backend)
        running = {first}
        try:
            await asyncio.wait(running, timeout=after_s)
            if not first.done() and self._winner is None:
                second = self._hedge()
                if second is not None:
                    running.add(second)
            while running:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                if any(task.exception() is None for task in done if not task.cancelled()):
                    return
            await self._last()
        finally:
            await self._end_all()

    # -- for the attempts --------------------------------------------------------------------------

    def commit(self, attempt: Attempt) -> None:
        """`attempt` has content: from here on it alone speaks to the client."""
        self._winner = attempt
        for other, task in self._runners:
            if other is not attempt:
                task.cancel()

    def has_lost(self, attempt: Attempt) -> bool:
        """Whether another one was faster."""
        return self._winner is not None and self._winner is not attempt

    def is_hedge(self, attempt: Attempt) -> bool:
        """Whether `attempt` runs beside the call's first."""
        return self._runners[0][0] is not attempt

    # -- inside ------------------------------------------------------------------------------------

    def _start(self, backend: str) -> asyncio.Task[None]:
        binding = self._model.bindings[backend]
        attempt = Attempt(self._call, self._model, binding, self._client, self._recorder, race=self)
        task = asyncio.create_task(attempt.run())
        self._runners.append((attempt, task))
        return task

    def _hedge(self) -> asyncio.Task[None] | None:
        """Start one more attempt where policy says so."""
        call, now_s = self._call, asyncio.get_running_loop().time()
        _, *others = call.candidates
        places = [
            HedgePlace(
                other.backend,
                other.reason is not Reason.LAST_RESORT
                and self._model.bindings[other.backend].backend.gate.has_room(call.priority, now_s),
            )
            for other in others
        ]
        decision = hedge(places, call.deadline_s - now_s, self._model.budget, now_s)
        self._recorder.metrics.steps[self._model.name, decision.reason.value] += 1
        if decision.index is None:
            return None
        chosen = others.pop(decision.index)
        call.candidates = (chosen, *others)  # the first has had its attempt; whoever climbs on goes on from the hedge
        return self._start(chosen.backend)

    async def _last(self) -> None:
        """Raise what the call failed of: the error of the winner, else of the attempt that began last."""
        winners = [task for attempt, task in self._runners if attempt is self._winner]
        await (winners or [task for _, task in self._runners])[-1]

    async def _end_all(self) -> None:
        """Leave no task behind, and the one that answered as the last in the trail."""
        tasks = [task for _, task in self._runners]
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, BackendError):
                raise result
        self._call.trail.sort(key=lambda note: note.outcome is not OutcomeKind.OUTRUN)
