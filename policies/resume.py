"""A stream broke after its commit: carried on from which backend, in which way; or ended, and why.

The two ways
------------
*Continue*: the other backend is given what was sent so far and goes on from there. It costs one prefill, and is right wherever the
engine continues a partial assistant message, or a bare prompt.
*Align*: the other backend is asked the same again; what it repeats is swallowed, and what comes after that is sent on. It costs the
whole answer again, and is right only where the model says the same twice: at temperature 0, or with a seed.

Both only between backends that serve the same model. Who has not been asked by this call comes before who has, the broken one last; among
those, one way after the other in the order of the configuration: a backend that continues is preferred to one before it in the
fallback order that could only be asked again.

| what was asked or sent                        | ways                                                                        |
| --------------------------------------------- | --------------------------------------------------------------------------- |
| several choices, logprobs                     | none: they have a state that text does not carry                            |
| a tool call begun                             | none: half a call cannot be told from a whole one                           |
| everything up to the finish_reason            | none needed: the answer is whole                                            |
| structured output, a forced tool              | align: a grammar would start anew in the middle of its text                 |
| only reasoning so far                         | align: the channel would have to be left open                               |
| an assistant message at the end of the prompt | align: the client continues one itself                                      |
| tools offered, on a harmony prompt            | align: what looks like text may be the preamble of a call                   |

Who pays: as in `policies.retry`. The first attempt on a further backend is free, a repeated one draws on the model's budget, and no
backend gets more than `attempts_per_backend` from one call; so every call ends. Another replica counts as the same backend.
One that stalled may be at it still, so it is asked again only through another replica.

Source: Dynamo's request migration (same model only, none under a grammar); LiteLLM's, which turned tool calls into prose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from policies.budget import RetryBudget
from policies.outcome import OutcomeKind
from policies.retry import MIN_USEFUL_S


class Way(StrEnum):
    """How a stream is carried on; also the metric's label."""

    CONTINUE = "continue"
    ALIGN = "align"


class Means(StrEnum):
    """How a backend is made to continue an assistant's message."""

    NONE = "none"
    CHAT = "chat"  # as the last message of the conversation, left open
    HARMONY = "harmony"  # as a bare prompt in gpt-oss's format: vLLM closes the message otherwise


@dataclass(frozen=True, slots=True)
class Skill:
    """What is known of a backend: `keeps_reasoning` and `keeps_space` (at a message's ends) say whether those reach the model."""

    means: Means
    keeps_reasoning: bool = False
    keeps_space: bool = True


NO_SKILL = Skill(Means.NONE)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the client wants that matters here. `max_tokens`: None where it set no limit; `is_open`: the answer continues a message."""

    kind: str
    has_many_choices: bool = False
    has_logprobs: bool = False
    is_structured: bool = False
    has_tools: bool = False
    is_open: bool = False
    is_one_prompt: bool = True
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """What the client has. `tokens` is an estimate from below."""

    content: str
    reasoning: str
    tokens: int
    is_plain: bool = True
    is_over_bound: bool = False
    is_finished: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """A backend that might carry on. `attempts` were made on it for this call; `is_same` is the model that the broken one serves."""

    backend: str
    is_same: bool
    skill: Skill
    attempts: int
    is_broken: bool = False
    may_be_at_it: bool = False  # it stalled, and has no other replica
    may_continue: bool = True  # False: `continues: no`
    failed: OutcomeKind | None = None  # how the latest attempt to resume here has ended
    refused: frozenset[Way] = frozenset()  # the ways that were tried here in vain

    @property
    def has_diverged(self) -> bool:
        """Whether it was asked again, and said something else."""
        return self.failed is OutcomeKind.DIVERGED and Way.ALIGN in self.refused


class ResumeReason(StrEnum):
    """Why; also the metric's label."""

    FURTHER_BACKEND = "further_backend"
    SAME_BACKEND = "same_backend"
    FINISHED = "finished"
    OFF = "off"
    MANY_CHOICES = "many_choices"
    LOGPROBS = "logprobs"
    TOOL_CALL = "tool_call"
    TOO_LONG = "too_long"
    NO_TIME_LEFT = "no_time_left"
    NO_BACKEND_LEFT = "no_backend_left"
    BUDGET_EMPTY = "budget_empty"


@dataclass(frozen=True, slots=True)
class ResumeStep:
    """What follows: `way` at `backend`; None for both: no further, and the answer `is_whole` or must be ended by an error."""

    reason: ResumeReason
    backend: str | None = None
    way: Way | None = None

    @property
    def is_whole(self) -> bool:
        return self.reason is ResumeReason.FINISHED


@dataclass(frozen=True, slots=True)
class ResumeRules:
    """`by`: the ways that may be gone, in order. `attempts_per_backend` >= 1 counts all of a call's."""

    by: tuple[Way, ...]
    attempts_per_backend: int


# After these another way may do at the same backend: it is there, and has only said that this one does not.
_OTHER_WAY = frozenset(
    {
        OutcomeKind.REJECTED,
        OutcomeKind.OVERFLOW,
        OutcomeKind.NOT_SERVED,
        OutcomeKind.ROUTE_MISSING,
        OutcomeKind.DIVERGED,
    }
)


def next_resume(asked: Asked, sent: Sent, places: Sequence[Place], rules: ResumeRules, purse: Purse) -> ResumeStep:
    """How a broken stream goes on. `places` in the order in which they are preferred. Draws on the budget only for a repeated attempt."""
    reason = _impossible(asked, sent, rules)
    if reason is not None:
        return ResumeStep(reason)
    if purse.remaining_s < MIN_USEFUL_S:
        return ResumeStep(ResumeReason.NO_TIME_LEFT)
    has_diverged = any(place.has_diverged for place in places)
    ways = [
        way for way in rules.by if way is Way.CONTINUE or not has_diverged
    ]  # who differs once does so the next time too
    free = [place for place in places if not place.attempts]
    for place, way in _possible(free, ways, asked, sent, rules):
        return ResumeStep(ResumeReason.FURTHER_BACKEND, place.backend, way)
    tried = sorted((place for place in places if place.attempts), key=lambda place: place.is_broken)
    for place, way in _possible(tried, ways, asked, sent, rules):
        if purse.budget.withdraw(purse.now_s):
            return ResumeStep(ResumeReason.SAME_BACKEND, place.backend, way)
        return ResumeStep(ResumeReason.BUDGET_EMPTY)
    return ResumeStep(ResumeReason.NO_BACKEND_LEFT)


def _possible(
    places: Sequence[Place], ways: Sequence[Way], asked: Asked, sent: Sent, rules: ResumeRules
) -> Iterator[tuple[Place, Way]]:
    """All that may be done, the better way first."""
    return ((place, way) for way in ways for place in places if _may_go(way, place, asked, sent, rules))


@dataclass(frozen=True, slots=True)
class Purse:
    """What is left to spend: seconds to the deadline, and the model's budget at `now_s`."""

    remaining_s: float
    budget: RetryBudget
    now_s: float


def _impossible(asked: Asked, sent: Sent, rules: ResumeRules) -> ResumeReason | None:
    if asked.has_many_choices:
        return ResumeReason.MANY_CHOICES
    if sent.is_finished:
        return ResumeReason.FINISHED
    if not rules.by:
        return ResumeReason.OFF
    if not sent.is_plain:
        return ResumeReason.TOOL_CALL
    if asked.has_logprobs:
        return ResumeReason.LOGPROBS
    return ResumeReason.TOO_LONG if sent.is_over_bound else None


def _may_go(way: Way, place: Place, asked: Asked, sent: Sent, rules: ResumeRules) -> bool:
    if not place.is_same or place.attempts >= rules.attempts_per_backend:
        return False
    if (place.is_broken and place.may_be_at_it) or way in place.refused:
        return False
    if place.failed is not None and place.failed not in _OTHER_WAY:
        return False
    return way is Way.ALIGN or _continues(place, asked, sent)


def _continues(place: Place, asked: Asked, sent: Sent) -> bool:
    if asked.is_structured or not place.may_continue or not sent.content:
        return False
    if asked.max_tokens is not None and sent.tokens >= asked.max_tokens:
        return False  # nothing is left to be said but the end, which only an answer of its own length brings
    if asked.kind == "completions":
        return asked.is_one_prompt and asked.max_tokens is not None  # engines have a default of their own
    skill = place.skill
    if asked.is_open or skill.means is Means.NONE:
        return False
    if skill.means is Means.HARMONY:
        return (
            not asked.has_tools and "<|" not in sent.content + sent.reasoning
        )  # it would be read as the format's own mark
    if sent.reasoning and not skill.keeps_reasoning:
        return False
    return skill.keeps_space or sent.content == sent.content.strip()
