"""One try of a call on one replica: open, relay, and charge exactly one outcome to the replica when the relay ends."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Protocol

from backends.apis import Shown
from backends.canonical import Canonical
from backends.canonical_forms import Answer
from backends.errors import (
    AnswerTimeout,
    BackendError,
    DeadlinePassed,
    FirstTokenTimeout,
    NeedMissing,
    NotAccepted,
    ProtocolBroken,
    Refused,
)
from backends.events import stream_of
from backends.exchange import Exchange
from backends.http import Keep, Limits, Outgoing
from backends.transcript import Transcript
from policies.contract import Judgement
from policies.outcome import OUTCOMES, OutcomeKind
from policies.retry import MIN_USEFUL_S
from router.answer_headers import Header, call_headers
from router.call import AttemptNote, Call, NoBody
from router.client import Client
from router.contract_apis import TypedContract, of_completions
from router.contract_asked import Asking
from router.contract_asked_apis import asking_of
from router.contracts import Contract, Stream
from router.fleet import Binding, LiveModel, LiveReplica
from router.gate import Gate, GateFull
from router.outcomes import outcome_of, seen_from
from router.reading import CallBody
from router.record import Recorder
from router.relay import PassRelay, StreamLimits, StreamRelay, read_answer, read_passed
from router.typed import TypedRelay, read_typed

_JSON = b"application/json"
_EVENTS = b"text/event-stream; charset=utf-8"
_SHOWS_A_LACK = frozenset({OutcomeKind.ROUTE_MISSING, OutcomeKind.NEED_MISSING})
_ANSWERS = frozenset({"responses", "messages"})  # of `backends.apis.FORMS`


class Racing(Protocol):
    """What attempts that run beside each other ask for, so that only one of them speaks to the client."""

    def commit(self, attempt: Attempt) -> None: ...
    def has_lost(self, attempt: Attempt) -> bool: ...
    def is_hedge(self, attempt: Attempt) -> bool: ...


@dataclass(slots=True)
class Attempt:
    """What one attempt needs; built anew for each. `kept`: the exchange that goes on without a reader, see `backends.leftovers`."""

    call: Call
    model: LiveModel
    binding: Binding
    client: Client
    recorder: Recorder
    race: Racing | None = None
    kept: Exchange | None = None
    canonical: Canonical = field(init=False)
    answered_as: str = field(init=False, default="")  # the model that the backend names, where it is another
    remark: str = field(init=False, default="")  # on an answer that was sent although it is none

    async def run(self) -> None:
        """Answer the client from this backend. Raises BackendError; before the commit the call may go elsewhere then."""
        backend = self.binding.backend
        if self.call.priority or not backend.gate.try_enter():
            await self._wait_at(backend.gate)
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        replica = self._pick(started_s)
        replica.in_flight += 1
        outcome, said = OUTCOMES[OutcomeKind.CLIENT_GONE], ""
        try:
            rest = await (self._answer if self.call.held is None else self._ask_owner)(replica, started_s)
            outcome, said = OUTCOMES[OutcomeKind.OK], self.remark
            if self.answered_as:
                outcome, said = OUTCOMES[OutcomeKind.OTHER_MODEL], f"answered as {self.answered_as}"
                self.recorder.alerts.about(self.model.name, backend.name, outcome.kind, loop.time(), said)
        except BackendError as raised:
            replica.server.hide_key(raised)
            error = seen_from(self.call.facts, raised)
            outcome, said = outcome_of(error), str(error)
            self.recorder.alerts.about(self.model.name, backend.name, outcome.kind, loop.time())
            if outcome.kind in _SHOWS_A_LACK and not (isinstance(error, NeedMissing) and error.of_this_call):
                lacked = error.need if isinstance(error, NeedMissing) else self.call.facts.api
                self.model.misses(self.binding, lacked, loop.time(), said)
            raise error from raised.__cause__
        except asyncio.CancelledError:
            if self.race is not None and self.race.has_lost(self):
                outcome = OUTCOMES[OutcomeKind.OUTRUN]
            raise
        finally:
            now_s = loop.time()
            if self.kept is None:
                self._leave(replica, now_s)
            else:
                self._read_on(self.kept, replica, started_s)
            self.recorder.charge(self.call, self.model, replica, outcome, (started_s, now_s))
            self._note(outcome.kind, said, now_s - started_s, replica.url)
        await self.client.finish(rest)  # a client that reads slowly now keeps no place at the backend

    def _leave(self, replica: LiveReplica, now_s: float) -> None:
        backend = self.binding.backend
        replica.in_flight -= 1
        if self.model.unwell:
            backend.fit(now_s)
        backend.gate.leave()

    def _keep(self) -> Keep | None:
        """Where an exchange goes whose client has left, if this backend must not be cut off."""
        return self._kept if self.binding.backend.leftovers is not None else None

    def _kept(self, exchange: Exchange) -> None:
        self.kept = exchange

    def _read_on(self, exchange: Exchange, replica: LiveReplica, started_s: float) -> None:
        """The place at the backend is given back when its answer has ended: until then it is at work."""
        leftovers = self.binding.backend.leftovers
        assert leftovers is not None, "nothing is kept elsewhere"
        loop = asyncio.get_running_loop()
        until_s = started_s + self.binding.limits.total_s
        leftovers.take(exchange, replica.server.pool, until_s, lambda: self._leave(replica, loop.time()))

    def _pick(self, now_s: float) -> LiveReplica:
        among = None if self.call.held is None else [self.call.held.replica]
        return self.binding.backend.pick(self.model.name, now_s, self.recorder.rng, among)

    async def _wait_at(self, gate: Gate) -> None:
        """Stand in the backend's queue. Raises Refused, for which no replica is charged."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            await gate.enter(self._until_s(began_s), self.call.priority)
        except GateFull as exc:
            self._note(OutcomeKind.REFUSED, "at its limit of concurrent calls", loop.time() - began_s)
            raise Refused("the backend is at its limit of concurrent calls", room_in_s=exc.wait_s) from exc

    def _until_s(self, now_s: float) -> float:
        """How long to stand in the backend's queue: to the deadline, but only briefly where a further candidate has room now.

        A caller is best kept where its cohort is, and its prompt in the cache, but not at the price of an idle backend beside a queue:
        so as long as a refusing backend would be waited out. Where nobody has room it is the gate that decides, by `queue_wait_s`.
        """
        is_further = self.call.attempts > 0 or (self.race is not None and self.race.is_hedge(self))
        until_s = self.call.deadline_s - (MIN_USEFUL_S if is_further else 0.0)  # no later than a further one may begin
        call, bindings = self.call, self.model.bindings
        names = [candidate.backend for candidate in call.candidates]
        here = names.index(self.binding.backend.name) + 1 if self.binding.backend.name in names else len(names)
        if any(bindings[name].backend.gate.has_room(call.priority, now_s) for name in names[here:] if name in bindings):
            return min(until_s, now_s + self.model.retry.retry_after_wait_s)
        return until_s

    async def _answer(self, replica: LiveReplica, started_s: float) -> bytes:
        """Take the answer from the replica and send all of it but the last piece, which is returned."""
        call, binding = self.call, self.binding
        call.attempts += 1
        canonical = self.canonical = self._canonical()
        sent = call.body.write(binding.name, binding.translation(call.facts.kind))
        outgoing = Outgoing(call.path, sent, call.content_type, call.request_id, call.method)
        async with replica.server.open(outgoing, self._limits(started_s), self._keep()) as reply:
            if call.facts.kind == "pass":
                return await self._pass(reply, replica, started_s)
            if call.form:
                return await self._typed(reply, replica, started_s)
            if call.facts.stream:
                return await self._stream(reply, replica, started_s)
            body = await read_answer(reply, call.facts.kind, canonical)
            contract = self._contract()
            if contract is not None and not contract.is_beyond_doubt(canonical.text, self._asks()):
                self._hold_to(contract.of_whole(self._asked_for(), body))
            elif call.facts.kind == "completions":
                self._hold_to(of_completions(self.model.contract, self._asks(), body))
            self._first_content(replica, started_s)
            return self._whole(200, _JSON, body)

    def _canonical(self) -> Canonical:
        """What this attempt's answer goes through. Whatever an attempt before it was told of tokens is not this one's."""
        call, answer = self.call, self.call.answer
        if answer is None:
            body = call.body
            answer = call.answer = Answer(
                call.facts.kind,
                wants_usage=call.facts.stream and isinstance(body, CallBody) and body.wants_usage,
                one_tool_only=call.facts.tools and isinstance(body, CallBody) and body.one_tool_only,
            )
        answer.usage = None
        return self.binding.naming.begin(answer)

    def _whole(self, status: int, content_type: bytes, body: bytes) -> bytes:
        self.client.begin(status, [*self._headers(content_type), (b"content-length", b"%d" % len(body))])
        return body

    async def _stream(self, reply: Exchange, replica: LiveReplica, started_s: float) -> bytes:
        contract = self._contract()
        transcript = Transcript() if self.model.resume.by or contract is not None else None
        watch = contract.watch(self._asked_for()) if contract is not None else None
        limits = self._stream_limits(started_s)
        canonical = self.canonical
        canonical.begin_stream(self.call.facts.kind)
        relay = StreamRelay(reply, self.client, canonical, limits, transcript, watch)
        await relay.until_content()
        if contract is not None and transcript is not None:
            stream = Stream(transcript, watch, relay.ends)
            self._hold_to(contract.before_commit(self._asked_for(), stream))
        if self.race is not None:
            self.race.commit(self)
        canonical.answer.head = canonical.head
        self.call.transcript = transcript if self.model.resume.by else None
        self._first_content(replica, started_s)
        self.client.begin(200, self._headers(_EVENTS))
        await relay.to_the_end()
        if contract is not None and transcript is not None:
            self._hold_to(contract.after_end(self._asked_for(), stream), is_sent=True)
        return b""

    def _contract(self) -> Contract | None:
        """What the answer of a chat must be; None where anything will do."""
        return self.model.contract if self.call.facts.kind == "chat" else None

    def _asked_for(self) -> Asking:
        call = self.call
        if call.asking is None:
            call.asking = asking_of(call.facts.kind, self._asks())
        return call.asking

    def _asks(self) -> CallBody:
        assert isinstance(self.call.body, CallBody), "what is judged has a body of JSON"
        return self.call.body

    def _hold_to(self, found: Judgement | None, *, is_sent: bool = False) -> None:
        """Hold the answer to its contract. Raises NotAccepted where it is none and nothing of it was sent."""
        if found is None:
            return
        self.recorder.judged(self.call, self.binding.backend.name, found)
        if found.is_violation and not is_sent:
            raise NotAccepted(found.reason)
        if found.is_violation:
            self.remark = f"sent, but not accepted: {found.reason}"

    async def _ask_owner(self, replica: LiveReplica, started_s: float) -> bytes:
        held = self.call.held
        assert held is not None, "nobody holds what the call is about"
        try:
            return await self._answer(replica, started_s)
        except BackendError as error:
            is_asked_for = isinstance(self.call.body, NoBody)
            told = error
            if isinstance(error, ProtocolBroken) and is_asked_for and self.call.facts.stream:
                told = await held.why_no_stream(error, replica.server, self._limits(started_s))
            told = held.retell(told, is_asked_for=is_asked_for)
            if told is error:
                raise
            raise told from error

    async def _typed(self, reply: Exchange, replica: LiveReplica, started_s: float) -> bytes:
        shown = self._shown(replica)
        contract = self._typed_contract(shown)
        if not self.call.facts.stream:
            body = await read_typed(reply, self.call.form, shown)
            self._hear(shown)
            self._count(shown)
            if contract is not None:
                self._hold_to(contract.of_whole())
            self._first_content(replica, started_s)
            return self._whole(200, _JSON, body)
        stream, watch = stream_of(self.call.form, shown), contract.watch if contract is not None else None
        relay = TypedRelay(reply, self.client, stream, self._stream_limits(started_s), watch)
        await relay.until_content()
        if contract is not None:
            self._hold_to(contract.before_commit(has_content=relay.has_content, is_whole=stream.is_whole))
        if self.race is not None:
            self.race.commit(self)
        self._hear(shown)
        self._first_content(replica, started_s)
        self.client.begin(200, self._headers(_EVENTS))
        await relay.to_the_end()
        self._count(shown)
        if contract is not None:
            self._hold_to(contract.after_end(), is_sent=True)
        return b""

    def _typed_contract(self, shown: Shown) -> TypedContract | None:
        """None where anything will do, and for what is no new answer: a stored response, a count."""
        contract, call = self.model.contract, self.call
        if contract is None or call.form not in _ANSWERS:
            return None
        return TypedContract(contract, self._asked_for(), shown, is_streamed=call.facts.stream)

    def _count(self, shown: Shown) -> None:
        """A response that is shown again has been counted when it was made."""
        if not isinstance(self.call.body, NoBody):
            self.canonical.answer.usage = shown.usage

    def _shown(self, replica: LiveReplica) -> Shown:
        call, binding = self.call, self.binding
        assert call.owners is not None, "ids of this API lead to an owner"
        return Shown(
            model=binding.naming.shown,
            mark=call.owners.mark(self.model.name, binding.backend.name, replica),
            made_id=f"msg_{self.recorder.rng.getrandbits(96):024x}",
            created_s=int(time.time()),
            previous_id=call.held.shown if call.held is not None and not isinstance(call.body, NoBody) else None,
        )

    def _hear(self, shown: Shown) -> None:
        if shown.said not in (None, self.binding.naming.backends, shown.model):
            self.canonical.strayed = shown.said or ""

    async def _pass(self, reply: Exchange, replica: LiveReplica, started_s: float) -> bytes:
        content_type = reply.headers.get("content-type", "application/octet-stream").encode("latin-1")
        if content_type.lower().startswith(_JSON):
            body = await read_passed(reply, self.canonical)
            self._first_content(replica, started_s)
            return self._whole(reply.status, content_type, body)
        self._first_content(replica, started_s)
        self.client.begin(reply.status, self._headers(content_type))
        self.client.write_head()
        await PassRelay(reply, self.client, self._stream_limits(started_s)).to_the_end()
        return b""

    def _limits(self, started_s: float) -> Limits:
        """How long this attempt may wait for content: its own limits or the call's deadline, whichever comes first."""
        call, durations = self.call, self.binding.limits
        if call.facts.stream:
            wait_s = durations.first_token_s + durations.first_token_per_kib_s * call.facts.prompt_bytes / 1024
        else:
            wait_s = durations.answer_s
        wait_s = min(wait_s, durations.total_s)
        until_s = min(started_s + wait_s, call.deadline_s)
        return Limits(durations.connect_s, until_s, lambda: self._late(wait_s, until_s))

    def _late(self, wait_s: float, until_s: float) -> BackendError:
        if until_s >= self.call.deadline_s:
            return DeadlinePassed("the call's deadline passed")
        if self.call.facts.stream:
            return FirstTokenTimeout(f"no content within {wait_s:.1f} s")
        return AnswerTimeout(f"no answer within {wait_s:.1f} s")

    def _stream_limits(self, started_s: float) -> StreamLimits:
        durations, deadline_s = self.binding.limits, self.call.deadline_s
        return StreamLimits(durations.between_tokens_s, min(started_s + durations.total_s, deadline_s), deadline_s)

    def _first_content(self, replica: LiveReplica, started_s: float) -> None:
        now_s = asyncio.get_running_loop().time()
        self.call.first_s = now_s
        binding, said = self.binding, self.canonical.strayed
        if said and binding.is_same is not None and not binding.is_same(binding.plain_name, said):
            self.answered_as = replica.server.shown(said)
        else:
            self.recorder.heard(self.model, replica, started_s, now_s)
        self.recorder.metrics.first_content(self.model.name, self.binding.backend.name, now_s - started_s)

    def _headers(self, content_type: bytes) -> list[Header]:
        backend = self.binding.backend.name
        return [(b"content-type", content_type), *call_headers(self.call, backend)]

    def _note(self, kind: OutcomeKind, said: str, took_s: float, replica: str = "") -> None:
        self.call.trail.append(AttemptNote(self.binding.backend.name, kind, said, took_s, replica))
