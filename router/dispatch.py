"""One call's life, from the moment it has been read to the moment its outcome is on record.

    endpoint -> dispatch -> (choose -> attempt -> backend) -> relay -> record

Where a backend is chosen: `policies.choose`, once, as an ordered list of candidates with reasons; a call about a stored response goes to
the one that holds it (`call.held`). A change of the shares meanwhile moves no call that has chosen (`call.revision`).
When a call moves: after an attempt that failed before the commit, and only as `policies.retry.next_step` says.
When a second attempt runs beside a slow first one: where the model has `hedge` (`router.race`); whoever has content first goes on.
When it stops moving: with the first content sent to the client (`client.has_begun`), with the deadline, or when the list is used up.
Pings (`_keep_awake`) send the head of a stream before that, and commit nothing but its status.
When a stream breaks after that: `router.resume` carries it on from another backend, as `policies.resume` says, or it ends with an error.
Who waits: only this coroutine (in the backend's gate, for the reply, between two attempts), and in a race the two attempts, which it
ends with itself. Who counts: the attempt charges its outcome to the replica when its relay ends; `record` closes the call exactly once.
"""

from __future__ import annotations

import asyncio

import tenacity

from backends.errors import BackendError, NeedMissing, Overflow, RouteMissing
from policies.choose import choose, is_offered_by_none, may_take_more
from policies.facts import Need
from policies.outcome import Outcome
from policies.retry import Action, NextStep, Standing, next_step
from router.answer_headers import waiting_headers
from router.attempt import Attempt
from router.call import Call
from router.client import Client
from router.faults import CallFailed, Fault, fault_of, no_api, nobody_can, unable, unknown_model
from router.fleet import Binding, Fleet, LiveModel
from router.outcomes import outcome_of
from router.owners import not_found
from router.race import Race
from router.record import Recorder
from router.resume import Resumption
from router.voices import broken_event


async def dispatch(call: Call, client: Client, fleet: Fleet, recorder: Recorder) -> None:
    """Answer one call. Raises CallFailed where the client has to be told an error and nothing was sent to it yet."""
    model = fleet.models.get(call.facts.model)
    if model is None:  # it went from the file while the call waited
        raise CallFailed(unknown_model(call.facts.model))
    now_s = asyncio.get_running_loop().time()
    held = call.held
    if held is None:
        choice = choose(call.facts, model.route, model.snapshot(now_s), fleet.rng)
    elif held.backend not in model.bindings:
        raise CallFailed(not_found(held.shown))
    else:
        choice = held.choice(call.facts.needs, model.bindings[held.backend].abilities.lacks)
    call.choice = choice.first_reason
    call.revision = model.revision
    if not choice.candidates:
        raise CallFailed(nobody_can(call.facts, choice))
    model.budget.deposit(now_s)
    call.candidates = choice.candidates
    first = model.bindings[choice.candidates[0].backend]
    if first.limits.ping_after_s is not None:
        _keep_awake(call, client, model, first, call.started_s)
    try:
        if model.hedge_after_s is None or not call.facts.stream or call.priority:
            await Attempt(call, model, first, client, recorder).run()  # it pays nothing for what may follow
        else:
            await Race(call, model, client, recorder).run(model.hedge_after_s)
    except BackendError as error:
        await _after_failure(Ladder(call, model, client, recorder), error)


def _keep_awake(call: Call, client: Client, model: LiveModel, binding: Binding, from_s: float) -> None:
    """Let whoever waits for a stream from this backend be pinged, if that is asked for; counted from the instant `from_s`."""
    every_s = binding.limits.ping_after_s
    if every_s is not None and call.facts.stream and call.facts.kind != "pass":
        client.ping_from(from_s + every_s, every_s, waiting_headers(call))
    else:
        client.no_pings()


async def _after_failure(ladder: Ladder, error: BackendError) -> None:
    """Climb on while policy says so, then tell the client: an error answer before the commit; after it the rest, or one error event."""
    try:
        if not ladder.client.has_begun:
            await ladder.climb(error)
            return
    except BackendError as last:
        error = last
    if not ladder.client.has_begun:
        raise CallFailed(ladder.fault_of(error)) from error
    unresumed = await ladder.carry_on(error)  # a broken stream goes on from another backend where that can be right
    if unresumed is None:
        return
    await ladder.client.finish_broken(broken_event(unresumed, ladder.kind))
    raise unresumed


class Ladder:
    """The attempts of one call after the first: where it stands, and the way on. Tenacity runs the loop; policy makes every decision."""

    def __init__(self, call: Call, model: LiveModel, client: Client, recorder: Recorder):
        self.client = client
        self.kind = call.facts.kind
        self._call = call
        self._model = model
        self._candidates = call.candidates
        self._recorder = recorder
        self._position = 0
        self._attempts_here = 1
        self._waited_retry_after = False
        self._step: NextStep | None = None
        self._only_lacks = True  # whether nobody asked failed in another way, and so may answer later

    async def carry_on(self, broken: BackendError) -> BackendError | None:
        """The rest of a stream that has begun, from other backends. Returns what it failed of, None where the client has it all."""
        return await Resumption(self._call, self._model, self.client, self._recorder).carry_on(broken)

    def fault_of(self, error: BackendError) -> Fault:
        """What the client is told of the last error: that what it needs is offered by nobody only where nobody else may have it."""
        if isinstance(error, RouteMissing | NeedMissing):
            facts, now_s = self._call.facts, asyncio.get_running_loop().time()
            if isinstance(error, NeedMissing) and self._call.held is not None:
                return unable(facts, [Need(error.need)])
            if isinstance(error, NeedMissing) and error.of_this_call and self._only_lacks:
                return unable(facts, [Need(error.need)])
            choice = choose(facts, self._model.route, self._model.snapshot(now_s), self._recorder.rng)
            if facts.pin or is_offered_by_none(choice):
                return unable(facts, [Need(error.need)]) if isinstance(error, NeedMissing) else no_api(facts)
        return fault_of(error, self._call.facts.kind)

    async def climb(self, first_error: BackendError) -> None:
        """Further attempts after `first_error`. Raises the last error where none succeeded."""
        pending: list[BackendError] = [first_error]

        async def attempt() -> None:
            if pending:  # tenacity's first round stands for the attempt that was made without it
                raise pending.pop()
            self._attempts_here += 1
            binding = self._model.bindings[self._candidates[self._position].backend]
            now_s = asyncio.get_running_loop().time()
            _keep_awake(self._call, self.client, self._model, binding, now_s)
            await Attempt(self._call, self._model, binding, self.client, self._recorder).run()

        await tenacity.AsyncRetrying(
            sleep=asyncio.sleep, retry=self._goes_on, wait=self._wait_s, stop=tenacity.stop_never, reraise=True
        )(attempt)

    def _goes_on(self, state: tenacity.RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome is not None else None
        if not isinstance(error, BackendError) or self.client.has_begun:
            return False
        self._only_lacks = self._only_lacks and isinstance(error, NeedMissing)
        if isinstance(error, Overflow):
            self._pass_over_those_no_larger()
        step = self._step = self._decide(outcome_of(error))
        self._recorder.metrics.steps[self._model.name, step.reason.value] += 1
        if step.action is Action.STOP:
            return False
        if step.action is Action.MOVE:
            self._position += 1
            self._attempts_here = 0
            self._waited_retry_after = False
        elif error.retry_after_s is not None:
            self._waited_retry_after = True
        return True

    def _pass_over_those_no_larger(self) -> None:
        """Whoever is known to take no longer prompt than the one that has just refused it would only refuse it too."""
        place = self._position
        tokens = [self._model.bindings[each.backend].abilities.context_tokens for each in self._candidates]
        further = range(place + 1, len(tokens))
        kept = [self._candidates[index] for index in further if may_take_more(tokens[index], tokens[place])]
        self._candidates = (*self._candidates[: place + 1], *kept)

    def _wait_s(self, _: tenacity.RetryCallState) -> float:
        return self._step.wait_s if self._step is not None else 0.0

    def _decide(self, outcome: Outcome) -> NextStep:
        now_s = asyncio.get_running_loop().time()
        standing = Standing(
            attempts_here=self._attempts_here,
            has_next=self._position + 1 < len(self._candidates),
            remaining_s=self._call.deadline_s - now_s,
            waited_retry_after=self._waited_retry_after,
        )
        return next_step(outcome, standing, self._model.retry, self._model.budget, self._recorder.chance(now_s))
