"""Which backends a call may go to, in which order, and why.

The order: the backend of the first rule that applies, else that of the caller's cohort under the split; then the fallback order. What
cannot or should not take the call now is passed over, with the reason. Where nobody is left, those that were passed over are tried
all the same as a last resort: a call is never refused because every backend looked ill a moment ago (Source: Envoy's panic threshold).
Only a backend that lacks what the call needs is never tried: its answer would be a poorer one, and nobody would know.

A backend that is coming back from an ejection (`policies.ramp`) takes a share of its calls that grows with its weight, by a draw for each
call; the others go on along the order, and have it as the last one to try. Where nobody else is left it takes them all.

    split {a: 0.95, b: 0.05}, fallback [b, a], the caller belongs to a
    all is well           -> a (split), b (fallback)
    a is ejected          -> b (fallback)                              a passed over: ejected
    a at a weight of 0.2  -> of five calls four: b (fallback), a (last resort)     a passed over: ramping
    both are ejected      -> a (last resort), b (last resort)          both passed over: ejected
    a ejected, b draining -> a (last resort), b (last resort)          a backend that is leaving still beats no answer
    pinned to b           -> b (pinned), whatever its state            a tester who asks for b must never be answered by a
    logprobs, a has none  -> b (fallback)                              a passed over: incapable (logprobs)
    and b is ejected      -> b (last resort)                           down is not the same as incapable: the client may come back
    and b has none either -> nobody                                    both passed over: incapable (logprobs)

A choice is made once for each call, so the common one (no rule, all in rotation, the caller has a key) only hashes the caller and
looks its ladder of candidates up.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from policies.cohort import Splitter, StickKey, caller_key
from policies.facts import MEDIA, CallFacts
from policies.rules import Rule, first_match

# No tokenizer of the models in use packs more bytes of natural language or code into a token (4 is usual for English, long runs of
# spaces apart). The estimate must err towards "it fits": an image in the body is large and costs few tokens.
MOST_BYTES_PER_TOKEN = 8
# Of these kinds the body is one prompt. Completions and embeddings may hold many, each with a context to itself.
_ONE_PROMPT = frozenset({"chat", "responses", "messages"})
_ESCAPE = rb"\u"  # and four digits: six bytes of a body for one character, of which a token may take several
_ESCAPE_BYTES = 6
BY_CHANCE = "by chance"
NOTHING: frozenset[str] = frozenset()


class Reason(StrEnum):
    """Why a backend is a candidate."""

    PINNED = "pinned"
    RULE = "rule"
    SPLIT = "split"
    FALLBACK = "fallback"
    LAST_RESORT = "last_resort"


class PassedOverReason(StrEnum):
    """Why a backend is not, or only as a last resort."""

    EJECTED = "ejected"
    DRAINING = "draining"
    CONTEXT_TOO_SMALL = "context_too_small"
    RAMPING = "ramping"  # comes back from an ejection, and this call is not of the share that it takes yet
    ROUTE_MISSING = "route_missing"  # answered a moment ago that it has no such API
    NEED_MISSING = "need_missing"  # answered a moment ago that it was started without what this call needs
    INCAPABLE = (
        "incapable"  # lacks what the call needs, cannot be called by this version, or is not a backend of the model
    )


# In this order what was passed over is tried when nobody is left: an ejected backend may be well again, a draining one is meant to
# become idle, a context that looks too small will most likely be, and a missing API, or a missing need, comes only with another server.
_LAST_RESORTS = (
    PassedOverReason.EJECTED,
    PassedOverReason.DRAINING,
    PassedOverReason.CONTEXT_TOO_SMALL,
    PassedOverReason.ROUTE_MISSING,
    PassedOverReason.NEED_MISSING,
)


@dataclass(frozen=True, slots=True)
class BackendView:
    """What is known of a backend now.

    `lacks`: what no call gets from it: APIs (`CallFacts.api`) and needs. `missing`: what it said a moment ago to be without.
    `context_tokens`: None where unknown. `weight`: the part (0..1) of its calls that it takes, less than 1 while it comes back from an
    ejection. `is_callable`: whether it is of a kind that can be called at all.
    """

    name: str
    in_rotation: bool
    is_draining: bool = False
    lacks: frozenset[str] = NOTHING
    missing: frozenset[str] = NOTHING
    context_tokens: int | None = None
    weight: float = 1.0
    is_callable: bool = True

    def is_whole(self) -> bool:
        """Whether nothing but what a call is can keep it from this backend."""
        return self.is_callable and self.in_rotation and not self.is_draining and self.weight >= 1


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backend that the call may go to. `detail` says more for people: the rule's text, what the caller was recognised by."""

    backend: str
    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A backend that would have been a candidate. `lacking`: what the call needs and it has not."""

    backend: str
    reason: PassedOverReason
    lacking: tuple[str, ...] = ()

    def __str__(self) -> str:
        """In a few words: `b ejected`, `a incapable: logprobs`."""
        return f"{self.backend} {self.reason.value}" + (f": {', '.join(self.lacking)}" if self.lacking else "")


@dataclass(frozen=True, slots=True)
class Choice:
    """`candidates` in the order in which they are tried; `cohort` is what the caller was recognised by, (which, value).

    `cohort` is None where it decided nothing: a pin, a rule, one backend with the whole share, or a caller who has no key.
    """

    candidates: tuple[Candidate, ...]
    passed_over: tuple[PassedOver, ...] = ()
    cohort: tuple[str, str] | None = None

    @property
    def first_reason(self) -> str:
        """Why the first candidate is the first, in a few words: `split`, `fallback (a incapable: n)`; `nobody` where there is none."""
        reason = self.candidates[0].reason if self.candidates else "nobody"
        if not self.passed_over:
            return reason
        return f"{reason} ({', '.join(map(str, self.passed_over))})"


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """What the configuration says of a model: all its `backends`, and the `fallback` order after the first choice."""

    name: str
    backends: tuple[str, ...]
    splitter: Splitter
    rules: tuple[Rule, ...]
    fallback: tuple[str, ...]
    stick_by: tuple[StickKey, ...]
    _after: Mapping[str, tuple[Candidate, ...]] = field(init=False, repr=False, compare=False)
    _by_split: Mapping[tuple[str, str], tuple[Candidate, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Lay every ladder out once, so that the path of a call builds none."""
        firsts = dict.fromkeys(
            (*self.backends, *self.fallback, *(rule.use for rule in self.rules), *self.splitter.backends)
        )
        after = {
            first: tuple(Candidate(name, Reason.FALLBACK) for name in self.fallback if name != first)
            for first in firsts
        }
        details = ("", BY_CHANCE, *(key.text for key in self.stick_by))
        by_split = {
            (first, detail): (Candidate(first, Reason.SPLIT, detail), *after[first])
            for first in self.splitter.backends
            for detail in details
        }
        object.__setattr__(self, "_after", after)
        object.__setattr__(self, "_by_split", by_split)

    def by_rule(self, rule: Rule) -> tuple[Candidate, ...]:
        """The candidates of a call to which `rule` applies."""
        return (Candidate(rule.use, Reason.RULE, rule.text), *self._after[rule.use])

    def by_split(self, backend: str, detail: str) -> tuple[Candidate, ...]:
        """The candidates of a call that the split gives to `backend`; `detail` says what by."""
        return self._by_split[backend, detail]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state that a choice is made on.

    `all_in_rotation`: nobody is passed over for its own state. `lacked`: what one backend at least lacks. `safe_bytes`: no prompt of at
    most so many is too long for anybody.
    """

    revision: int
    views: Mapping[str, BackendView]
    all_in_rotation: bool
    lacked: frozenset[str] = NOTHING
    safe_bytes: float = math.inf

    @classmethod
    def of(cls, revision: int, views: Mapping[str, BackendView]) -> Snapshot:
        """The snapshot of these views; what can be known before the call is worked out here."""
        lacked = NOTHING.union(*(view.lacks | view.missing for view in views.values()))
        contexts = [view.context_tokens for view in views.values() if view.context_tokens is not None]
        safe_bytes = min(contexts) * MOST_BYTES_PER_TOKEN if contexts else math.inf
        return cls(revision, views, all(view.is_whole() for view in views.values()), lacked, safe_bytes)

    def passes_none_over(self, facts: CallFacts) -> bool:
        """Whether every backend may take this call, without a look at any."""
        return (
            self.all_in_rotation
            and facts.prompt_bytes <= self.safe_bytes
            and (facts.path or facts.kind) not in self.lacked  # its `api`, without a call: every call passes here
            and (not facts.needs or facts.needs.isdisjoint(self.lacked))
        )


def choose(facts: CallFacts, route: ModelRoute, snapshot: Snapshot, rng: random.Random) -> Choice:
    """The candidates for one call. Empty only where every backend lacks something that the call needs."""
    if facts.pin is not None:
        return _pinned(facts, facts.pin, snapshot)
    rule = first_match(route.rules, facts) if route.rules else None
    cohort = None
    if rule is not None:
        wanted = route.by_rule(rule)
    elif not route.splitter.is_divided:
        wanted = route.by_split(route.splitter.pick(None, rng), "")
    else:
        cohort = caller_key(route.stick_by, facts)
        if cohort is None:
            wanted = route.by_split(route.splitter.pick(None, rng), BY_CHANCE)
        else:
            wanted = route.by_split(route.splitter.pick(cohort[1], rng), cohort[0])
    if snapshot.passes_none_over(facts):
        return Choice(wanted, (), cohort)
    fit, passed_over = _fit(facts, snapshot, wanted, rng)
    return Choice(fit, passed_over, cohort)


def _pinned(facts: CallFacts, pin: str, snapshot: Snapshot) -> Choice:
    """A pin is a tester's wish to see this backend, and above all one that is not well: no other may answer, no state hides it."""
    unfit = _unfit(facts, pin, snapshot.views.get(pin))
    if unfit is not None and unfit.reason is PassedOverReason.INCAPABLE:
        return Choice((), (unfit,))
    return Choice((Candidate(pin, Reason.PINNED, f"although {why_not(unfit)}" if unfit else ""),))


def _fit(
    facts: CallFacts, snapshot: Snapshot, wanted: tuple[Candidate, ...], rng: random.Random
) -> tuple[tuple[Candidate, ...], tuple[PassedOver, ...]]:
    candidates, ramping, passed_over = [], [], []
    for candidate in wanted:
        view = snapshot.views.get(candidate.backend)
        unfit = _unfit(facts, candidate.backend, view)
        if unfit is None and view is not None and view.weight < 1 and rng.random() >= view.weight:
            unfit = PassedOver(candidate.backend, PassedOverReason.RAMPING)
            ramping.append(candidate)
        if unfit is None:
            candidates.append(candidate)
        else:
            passed_over.append(unfit)
    if candidates:
        candidates += [_although(PassedOver(each.backend, PassedOverReason.RAMPING)) for each in ramping]
    elif ramping:
        candidates = ramping
        passed_over = [passed for passed in passed_over if passed.reason is not PassedOverReason.RAMPING]
    else:
        candidates = list(_last_resorts(passed_over))
    return tuple(candidates), tuple(passed_over)


def _unfit(facts: CallFacts, backend: str, view: BackendView | None) -> PassedOver | None:
    """Why this backend should not take the call; what can never change comes first."""
    if view is None or not view.is_callable:
        return PassedOver(backend, PassedOverReason.INCAPABLE)
    if view.lacks and (lacking := _lacking(facts, view.lacks)):
        return PassedOver(backend, PassedOverReason.INCAPABLE, lacking)
    if view.missing and (missing := _lacking(facts, view.missing)):
        return PassedOver(backend, _MISSING[facts.api in view.missing], missing)
    if view.is_draining:
        return PassedOver(backend, PassedOverReason.DRAINING)
    if not view.in_rotation:
        return PassedOver(backend, PassedOverReason.EJECTED)
    if view.context_tokens is not None and _is_too_long(facts, view.context_tokens):
        return PassedOver(backend, PassedOverReason.CONTEXT_TOO_SMALL)
    return None


_MISSING = {True: PassedOverReason.ROUTE_MISSING, False: PassedOverReason.NEED_MISSING}  # whether it is the whole API


def _lacking(facts: CallFacts, lacks: frozenset[str]) -> tuple[str, ...]:
    """What the call needs of `lacks`; a whole API before what is asked of it."""
    return (facts.api,) if facts.api in lacks else tuple(sorted(facts.needs & lacks))


def _is_too_long(facts: CallFacts, context_tokens: int) -> bool:
    """Whether the prompt surely has more tokens than that. Only what is text, and one prompt, can be told by its bytes."""
    most_bytes = context_tokens * MOST_BYTES_PER_TOKEN
    if facts.prompt_bytes <= most_bytes or facts.kind not in _ONE_PROMPT or facts.needs & MEDIA:
        return False
    return facts.prompt_bytes - (_ESCAPE_BYTES - 1) * bytes(facts.messages).count(_ESCAPE) > most_bytes


def _last_resorts(passed_over: Iterable[PassedOver]) -> Iterable[Candidate]:
    """Group by group, each in the order in which it was wanted."""
    for reason in _LAST_RESORTS:
        for passed in passed_over:
            if passed.reason is reason:
                yield _although(passed)


def _although(passed: PassedOver) -> Candidate:
    return Candidate(passed.backend, Reason.LAST_RESORT, f"although {why_not(passed)}")


_NEVER_HERE = {PassedOverReason.INCAPABLE, PassedOverReason.ROUTE_MISSING, PassedOverReason.NEED_MISSING}


def is_offered_by_none(choice: Choice) -> bool:
    """Whether nobody is left who may have what the call needs, so that coming back does not help."""
    reasons = {passed.reason for passed in choice.passed_over}
    is_last_resort = all(candidate.reason is Reason.LAST_RESORT for candidate in choice.candidates)
    return is_last_resort and reasons <= _NEVER_HERE


def may_take_more(context_tokens: int | None, refused_tokens: int | None) -> bool:
    """Whether a prompt that was too long for a context of `refused_tokens` may fit into another; None where one is not known."""
    return context_tokens is None or refused_tokens is None or context_tokens > refused_tokens


_WHY = {
    Reason.PINNED: "the caller asked for it by name",
    Reason.RULE: "a rule applies",
    Reason.SPLIT: "by the split",
    Reason.FALLBACK: "next in the fallback order",
    Reason.LAST_RESORT: "nobody better is left",
}
_WHY_NOT = {
    PassedOverReason.EJECTED: "it is ejected",
    PassedOverReason.DRAINING: "it is draining",
    PassedOverReason.CONTEXT_TOO_SMALL: "the prompt is too long for its context",
    PassedOverReason.RAMPING: "it is ramping up after an ejection",
    PassedOverReason.ROUTE_MISSING: "it answered a moment ago that it has no such API",
    PassedOverReason.NEED_MISSING: "it answered a moment ago that it was started without what the call needs",
    PassedOverReason.INCAPABLE: "it cannot be called",
}


def why_not(passed: PassedOver) -> str:
    """Why it was passed over, as half a sentence."""
    if passed.reason is PassedOverReason.INCAPABLE and passed.lacking:
        return f"it lacks what the call needs: {', '.join(passed.lacking)}"
    return _WHY_NOT[passed.reason]


def describe(choice: Choice) -> list[str]:
    """The choice in sentences, one a line: who is tried, who was passed over, who the caller is."""
    lines = []
    for position, candidate in enumerate(choice.candidates, 1):
        detail = f" ({candidate.detail})" if candidate.detail else ""
        lines.append(f"{position}. {candidate.backend}: {_WHY[candidate.reason]}{detail}")
    if not choice.candidates:
        lines.append("No backend can answer this call.")
    lines.extend(f"-  {passed.backend} was passed over: {why_not(passed)}" for passed in choice.passed_over)
    if choice.cohort is not None:
        which, value = choice.cohort
        lines.append(f"The caller is recognised by {which} = {value} and stays where it is while the split stays.")
    return lines
