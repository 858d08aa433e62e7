"""A stream that broke after its commit, carried on: which way and where is `policies.resume`'s to say; here it is done."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import msgspec

from backends.canonical_forms import DONE_EVENT
from backends.continuing import Fields, chat_left_open, harmony_left_open, harmony_prompt, prompt_left_open
from backends.errors import BackendError, DeadlinePassed, StreamBroken
from backends.http import Limits, Outgoing
from backends.merging import Counted, Merging
from backends.transcript import Said
from policies.balance import fairest
from policies.choose import choose
from policies.ejection import State
from policies.outcome import OutcomeKind
from policies.resume import NO_SKILL, Means, Place, Purse, ResumeStep, Sent, Skill, Way, next_resume
from router.asked import asked_in
from router.attempt import Attempt
from router.call import AttemptNote, Call
from router.client import Client
from router.fleet import Binding, LiveModel, LiveReplica
from router.outcomes import kind_of
from router.reading import CallBody
from router.record import Recorder
from router.resumed import ResumedRelay
from router.skills import skill_of


class Resumption:
    """What happens to one call from the break of its stream on."""

    def __init__(self, call: Call, model: LiveModel, client: Client, recorder: Recorder):
        self._call = call
        self._model = model
        self._client = client
        self._recorder = recorder
        ran = [note.backend for note in call.trail if note.outcome is not OutcomeKind.OUTRUN]
        self._broken = ran[-1] if ran else ""
        self._stalled = False
        self._failed: dict[str, OutcomeKind] = {}
        self._refused: dict[str, set[Way]] = {}

    async def carry_on(self, error: BackendError) -> BackendError | None:
        """Bring the answer to its end from other backends. Returns what it failed of, None where the client has a whole answer."""
        transcript, last = self._call.transcript, error
        if transcript is None and self._is_whole():
            await self._end_whole()
            return None
        self._keep_awake()
        while transcript is not None and isinstance(self._call.body, CallBody):
            self._stalled = isinstance(error, StreamBroken) and error.is_stalled
            said = transcript.said()
            step, skill = await self._decide(said, self._call.body)
            if step.is_whole:
                await self._end_whole()
                return None
            if step.backend is None or step.way is None:
                self._count("none", step.reason.value)
                break
            attempt = self._attempt(step.backend, step.way, skill, said)
            try:
                await attempt.run()
                self._count(step.way.value, OutcomeKind.OK.value)
                return None
            except BackendError as failure:
                last = failure
                self._count(step.way.value, kind_of(failure).value)
                if attempt.has_said:
                    self._broken, error = step.backend, failure
                else:
                    self._failed[step.backend] = kind_of(failure)
                    self._refused.setdefault(step.backend, set()).add(step.way)
        return last if isinstance(last, DeadlinePassed) else error

    def _keep_awake(self) -> None:
        """The rest may be long in coming: whoever asked for pings in such a silence gets them."""
        every_s = self._model.bindings[self._broken].limits.ping_after_s if self._broken else None
        if every_s is not None:
            self._client.ping_from(asyncio.get_running_loop().time() + every_s, every_s, [])

    def _is_whole(self) -> bool:
        """Whether nothing was missing, of a stream of which no transcript is kept; of several choices one might not have begun."""
        answer, body = self._call.answer, self._call.body
        if answer is None or not answer.is_said or not isinstance(body, CallBody):
            return False
        return not asked_in(self._call.facts.kind, body).has_many_choices

    async def _end_whole(self) -> None:
        """Only what says nothing was missing."""
        answer = self._call.answer
        self._client.write(DONE_EVENT if answer is None else answer.ending(answer.head))
        await self._client.finish()

    async def _decide(self, said: Said, body: CallBody) -> tuple[ResumeStep, Skill]:
        now_s = asyncio.get_running_loop().time()
        asked = asked_in(self._call.facts.kind, body)
        sent = Sent(
            said.content, said.reasoning, said.deltas, said.is_plain, said.is_over_bound, is_finished=said.is_finished
        )
        places = await self._places(now_s, needs_skill=asked.kind == "chat" and not asked.is_structured)
        now_s = asyncio.get_running_loop().time()
        purse = Purse(self._call.deadline_s - now_s, self._model.budget, now_s)
        step = next_resume(asked, sent, places, self._model.resume, purse)
        skill = next((place.skill for place in places if place.backend == step.backend), NO_SKILL)
        return step, skill

    async def _places(self, now_s: float, *, needs_skill: bool) -> list[Place]:
        """Every backend that the call might go to now, in the order of a choice made anew: it may be minutes since the first."""
        model = self._model
        choice = choose(self._call.facts, model.route, model.snapshot(now_s), self._recorder.rng)
        bindings = [model.bindings[candidate.backend] for candidate in choice.candidates]
        needs_skill = needs_skill and Way.CONTINUE in model.resume.by
        skills = await asyncio.gather(
            *(
                skill_of(model, binding, self._likely(binding)) if needs_skill and self._is_same(binding) else _none()
                for binding in bindings
            )
        )
        return [self._place(binding, skill) for binding, skill in zip(bindings, skills, strict=True)]

    def _place(self, binding: Binding, skill: Skill) -> Place:
        name = binding.backend.name
        is_broken = name == self._broken
        return Place(
            name,
            is_same=self._is_same(binding),
            skill=skill,
            attempts=sum(note.backend == name for note in self._call.trail),
            is_broken=is_broken,
            may_be_at_it=is_broken and self._stalled and not self._fresh(binding),
            may_continue=binding.continues != "no",
            failed=self._failed.get(name),
            refused=frozenset(self._refused.get(name, ())),
        )

    def _is_same(self, binding: Binding) -> bool:
        broken = self._model.bindings[self._broken]
        return binding is broken or (binding.same_model and broken.same_model)

    def _fresh(self, binding: Binding) -> list[LiveReplica]:
        """The replicas that this call has not met yet."""
        met = {note.replica for note in self._call.trail}
        return [replica for replica in binding.backend.open if replica.url not in met]

    def replica_of(self, binding: Binding) -> LiveReplica:
        """The replica for an attempt: of those that this call has not met, one in rotation, else one that is due; else as for any call."""
        now_s = asyncio.get_running_loop().time()
        return binding.backend.pick(self._model.name, now_s, self._recorder.rng, self._preferred(binding, now_s))

    def _likely(self, binding: Binding) -> LiveReplica:
        """Whom an attempt would go to, as far as that can be told without taking anybody's turn to make the probing call."""
        now_s = asyncio.get_running_loop().time()
        choices = self._preferred(binding, now_s) or binding.backend.open
        return choices[fairest([replica.load(self._model.name, now_s) for replica in choices], self._recorder.rng)]

    def _preferred(self, binding: Binding, now_s: float) -> list[LiveReplica]:
        takers = [replica for replica in self._fresh(binding) if replica.takes(self._model.name, now_s)]
        return [r for r in takers if r.health[self._model.name].state is State.IN_ROTATION] or takers

    def _attempt(self, backend: str, way: Way, skill: Skill, said: Said) -> ResumeAttempt:
        binding = self._model.bindings[backend]
        return ResumeAttempt(
            self._call,
            self._model,
            binding,
            self._client,
            self._recorder,
            way=way,
            skill=skill,
            said=said,
            resumption=self,
        )

    def _count(self, how: str, result: str) -> None:
        self._recorder.metrics.resumes[self._model.name, how, result] += 1


async def _none() -> Skill:
    return NO_SKILL


@dataclass(slots=True, kw_only=True)
class ResumeAttempt(Attempt):
    """One try of carrying `said` on from another replica. `has_said`: whether it has brought the client anything new."""

    way: Way
    skill: Skill
    said: Said
    resumption: Resumption
    has_said: bool = False

    def _pick(self, now_s: float) -> LiveReplica:
        return self.resumption.replica_of(self.binding)

    async def _answer(self, replica: LiveReplica, started_s: float) -> bytes:
        call, transcript = self.call, self.call.transcript
        assert transcript is not None, "a call without a transcript is not resumed"
        call.attempts += 1
        limits = self._limits(started_s)
        outgoing, counted = await self._asking(replica, limits)
        is_chat = call.facts.kind == "chat"
        merging = Merging(self.said, is_continued=self.way is Way.CONTINUE, is_chat=is_chat)
        canonical = self._canonical()
        canonical.carry_on(call.facts.kind, counted.add_up)
        async with replica.server.open(outgoing, limits, self._keep()) as reply:
            stream_limits = self._stream_limits(started_s)
            relay = ResumedRelay(
                reply,
                self.client,
                canonical,
                stream_limits,
                merging=merging,
                transcript=transcript,
                is_asked=self._is_asked,
            )
            await relay.until_content()
            self.recorder.heard(self.model, replica, started_s, asyncio.get_running_loop().time())
            self.has_said = True
            self.client.no_pings()
            await relay.to_the_end()
        return b""

    def _is_asked(self, said: str) -> bool:
        """Whether an answer that names this model is of the one asked for."""
        binding = self.binding
        return binding.is_same is None or said == binding.plain_name or binding.is_same(binding.plain_name, said)

    async def _asking(self, replica: LiveReplica, limits: Limits) -> tuple[Outgoing, Counted]:
        call, said = self.call, self.said
        is_chat = call.facts.kind == "chat"
        path, counted = call.path, Counted()
        assert isinstance(call.body, CallBody), "only what was read as JSON is streamed as text"
        translation = self.binding.translation(call.facts.kind)  # the broken backend's would not suit this one
        fields: Fields = call.body.sent(translation)
        if self.way is Way.CONTINUE and is_chat and self.skill.means is Means.HARMONY:
            prompt = await harmony_prompt(replica.server, fields, self.binding.plain_name, said, limits)
            path, fields = b"/v1/completions", harmony_left_open(fields, prompt)
            counted = Counted(reasoning=said.reasoning_deltas, prompt=len(prompt.conversation))
        elif self.way is Way.CONTINUE:
            fields = chat_left_open(fields, said) if is_chat else prompt_left_open(fields, said)
            counted = Counted(said.deltas, said.reasoning_deltas)
        if self.way is Way.ALIGN:
            body = call.body.write(self.binding.name, translation)
        else:
            body = (msgspec.json.encode(fields | {"model": msgspec.Raw(self.binding.name)}),)
        return Outgoing(path, body, call.content_type, call.request_id), counted

    def _note(self, kind: OutcomeKind, said: str, took_s: float, replica: str = "") -> None:
        self.call.trail.append(AttemptNote(self.binding.backend.name, kind, said, took_s, replica, self.way.value))
