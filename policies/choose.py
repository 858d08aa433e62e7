"""Which backends a call may go to, in which order, and why.

The order: the backend of the first rule that applies, else that of the caller's cohort under the split; then the fallback order. What
cannot or should not take the call now is passed over, with the reason. Where nobody is left, those that were passed over are tried
all the same as a last resort: a call is never refused because every backend looked ill a moment ago (Source: Envoy's panic threshold).
Only a backend that does not answer this kind of call at all is never tried.

A backend that is coming back from an ejection (`policies.ramp`) takes a share of its calls that grows with its weight, by a draw for each
call; the others go on along the order, and have it as the last one to try. Where nobody else is left it takes them all.

    split {a: 0.95, b: 0.05}, fallback [b, a], the caller belongs to a
    all is well           -> a (split), b (fallback)
    a is ejected          -> b (fallback)                              a passed over: ejected
    a at a weight of 0.2  -> of five calls four: b (fallback), a (last resort)     a passed over: ramping
    both are ejected      -> a (last resort), b (last resort)          both passed over: ejected
    a ejected, b draining -> a (last resort), b (last resort)          a backend that is leaving still beats no answer
    pinned to b           -> b (pinned), whatever its state            a tester who asks for b must never be answered by a

A choice is made once for each call, so the common one (no rule, all in rotation, the caller has a key) only hashes the caller and
looks its ladder of candidates up.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from policies.cohort import Splitter, StickKey, caller_key
from policies.facts import CallFacts
from policies.rules import Rule, first_match

# No tokenizer of the models in use packs more bytes of natural language or code into a token (4 is usual for English, long runs of
# spaces apart). The estimate must err towards "it fits": an image in the body is large and costs few tokens.
MOST_BYTES_PER_TOKEN = 8
BY_CHANCE = "by chance"


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
    INCAPABLE = "incapable"  # does not answer this kind of call, or is not a backend of the model


# In this order what was passed over is tried when nobody is left: an ejected backend may be well again, a draining one is meant to
# become idle, and a context that looks too small will most likely be.
_LAST_RESORTS = (PassedOverReason.EJECTED, PassedOverReason.DRAINING, PassedOverReason.CONTEXT_TOO_SMALL)


@dataclass(frozen=True, slots=True)
class BackendView:
    """What is known of a backend now.

    `kinds`: the kinds of calls it answers, None for all. `context_tokens`: None where unknown. `weight`: the part (0..1) of its calls
    that it takes, less than 1 while it comes back from an ejection.
    """

    name: str
    in_rotation: bool
    is_draining: bool = False
    kinds: frozenset[str] | None = None
    context_tokens: int | None = None
    weight: float = 1.0

    def passes_none(self) -> bool:
        """Whether no call at all has to be kept from it."""
        is_whole = self.in_rotation and not self.is_draining and self.weight >= 1
        return is_whole and self.kinds is None and self.context_tokens is None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backend that the call may go to. `detail` says more for people: the rule's text, what the caller was recognised by."""

    backend: str
    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A backend that would have been a candidate."""

    backend: str
    reason: PassedOverReason


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
        """Why the first candidate is the first, in a few words: `split`, `fallback (a ramping)`."""
        reason = self.candidates[0].reason.value
        if not self.passed_over:
            return reason
        return f"{reason} ({', '.join(f'{passed.backend} {passed.reason.value}' for passed in self.passed_over)})"


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
    """The state that a choice is made on. `all_in_rotation`: no backend has to be passed over, whatever the call is."""

    revision: int
    views: Mapping[str, BackendView]
    all_in_rotation: bool

    @classmethod
    def of(cls, revision: int, views: Mapping[str, BackendView]) -> Snapshot:
        """The snapshot of these views; what can be known before the call is worked out here."""
        return cls(revision, views, all(view.passes_none() for view in views.values()))


def choose(facts: CallFacts, route: ModelRoute, snapshot: Snapshot, rng: random.Random) -> Choice:
    """The candidates for one call. Empty only where no backend answers this kind of call at all."""
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
    if snapshot.all_in_rotation:
        return Choice(wanted, (), cohort)
    fit, passed_over = _fit(facts, snapshot, wanted, rng)
    return Choice(fit, passed_over, cohort)


def _pinned(facts: CallFacts, pin: str, snapshot: Snapshot) -> Choice:
    """A pin is a tester's wish to see this backend, and above all one that is not well: no other may answer, no state hides it."""
    unfit = _unfit(facts, snapshot.views.get(pin))
    if unfit is PassedOverReason.INCAPABLE:
        return Choice((), (PassedOver(pin, unfit),))
    return Choice((Candidate(pin, Reason.PINNED, f"although {_WHY_NOT[unfit]}" if unfit else ""),))


def _fit(
    facts: CallFacts, snapshot: Snapshot, wanted: tuple[Candidate, ...], rng: random.Random
) -> tuple[tuple[Candidate, ...], tuple[PassedOver, ...]]:
    candidates, ramping, passed_over = [], [], []
    for candidate in wanted:
        view = snapshot.views.get(candidate.backend)
        unfit = _unfit(facts, view)
        if unfit is None and view is not None and view.weight < 1 and rng.random() >= view.weight:
            unfit = PassedOverReason.RAMPING
            ramping.append(candidate)
        if unfit is None:
            candidates.append(candidate)
        else:
            passed_over.append(PassedOver(candidate.backend, unfit))
    if candidates:
        candidates += [_although(candidate.backend, PassedOverReason.RAMPING) for candidate in ramping]
    elif ramping:
        candidates = ramping
        passed_over = [passed for passed in passed_over if passed.reason is not PassedOverReason.RAMPING]
    else:
        candidates = list(_last_resorts(passed_over))
    return tuple(candidates), tuple(passed_over)


def _unfit(facts: CallFacts, view: BackendView | None) -> PassedOverReason | None:
    """Why this backend should not take the call; what can never change comes first."""
    if view is None or (view.kinds is not None and facts.kind not in view.kinds):
        return PassedOverReason.INCAPABLE
    if view.is_draining:
        return PassedOverReason.DRAINING
    if not view.in_rotation:
        return PassedOverReason.EJECTED
    if view.context_tokens is not None and facts.prompt_bytes > view.context_tokens * MOST_BYTES_PER_TOKEN:
        return PassedOverReason.CONTEXT_TOO_SMALL
    return None


def _last_resorts(passed_over: Iterable[PassedOver]) -> Iterable[Candidate]:
    """Group by group, each in the order in which it was wanted."""
    for reason in _LAST_RESORTS:
        for passed in passed_over:
            if passed.reason is reason:
                yield _although(passed.backend, reason)


def _although(backend: str, reason: PassedOverReason) -> Candidate:
    return Candidate(backend, Reason.LAST_RESORT, f"although {_WHY_NOT[reason]}")


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
    PassedOverReason.INCAPABLE: "it does not answer this kind of call",
}


def describe(choice: Choice) -> list[str]:
    """The choice in sentences, one a line: who is tried, who was passed over, who the caller is."""
    lines = []
    for position, candidate in enumerate(choice.candidates, 1):
        detail = f" ({candidate.detail})" if candidate.detail else ""
        lines.append(f"{position}. {candidate.backend}: {_WHY[candidate.reason]}{detail}")
    if not choice.candidates:
        lines.append("No backend can answer this kind of call.")
    lines.extend(f"-  {passed.backend} was passed over: {_WHY_NOT[passed.reason]}" for passed in choice.passed_over)
    if choice.cohort is not None:
        which, value = choice.cohort
        lines.append(f"The caller is recognised by {which} = {value} and stays where it is while the split stays.")
    return lines
