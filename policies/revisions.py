"""The routing state that operators change, and what each change makes of it: a new state, one revision further; nothing is edited.

    shift jane vllm=0.25   {lmstudio: 0.95, vllm: 0.05} -> {lmstudio: 0.75, vllm: 0.25}    those not named share the rest in proportion
    rollback jane          -> the split before; a second one goes one further back, whatever other models did meanwhile
    drain vllm             -> takes no new calls, whatever the splits say

A revision holds the whole state that was in force from then on, so going back is reading, never undoing. What a rollback made stands for
the revision that it restored: so the next one knows where it is. The small steps of a ramp are parts of the revision that began it, and
are gone back over together.

    1 start {a: 1}   2 shift b=.1   3 shift b=.5   4 rollback = 2   5 rollback = 1   6 shift b=.2   7 rollback = 1
    1 start {a: 1}   2 shift b=1 over 2 h   3 .01 of it   4 .02 of it   5 rollback = 1
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

EXACT = 1e-9  # how far shares may sum beside 1: what arithmetic on decimal fractions leaves over
DIGITS = 12  # of a share that is worked out: the same change twice must be no change


class NotPossible(Exception):
    """The change cannot be made; the message is one sentence for the operator."""


class ShadowState(msgspec.Struct, frozen=True):
    """Copies of a `share` of the calls go `to` a backend."""

    to: str
    share: float


class Ramp(msgspec.Struct, frozen=True, omit_defaults=True):
    """A shift in small steps: `done` of them of the way from `start` to `target`, which takes `over_s` seconds in all.

    `at_s`: when the last step was made, in seconds of the Unix clock. A ramp that nobody drove for an hour goes on an hour later.
    """

    start: dict[str, float]
    target: dict[str, float]
    over_s: float
    at_s: float
    done: int = 0
    is_paused: bool = False


class ModelState(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of one model: its shares, copies, the step of its rollout, and the ramp that moves its shares (None: there is none)."""

    split: dict[str, float]
    shadow: ShadowState | None = None
    step: int | None = None
    ramp: Ramp | None = None

    def at_rest(self) -> ModelState:
        """The same, moving no further."""
        return msgspec.structs.replace(self, ramp=None) if self.ramp is not None else self


class RoutingState(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything that decides where calls go. `draining`: backends, and replicas as `backend/url`, that take no new calls."""

    models: dict[str, ModelState] = {}
    draining: tuple[str, ...] = ()

    def with_model(self, name: str, model: ModelState) -> RoutingState:
        """The same with this model in the place of its own."""
        return msgspec.structs.replace(self, models={**self.models, name: model})


class Kind(StrEnum):
    """What made a revision."""

    START = "start"
    FILE = "file"
    SHIFT = "shift"
    RAMP = "ramp"
    ROLLBACK = "rollback"
    DRAIN = "drain"
    UNDRAIN = "undrain"
    ROLLOUT = "rollout"


class Revision(msgspec.Struct, frozen=True):
    """One state and how it came about. `at_s`: seconds of the Unix clock.

    `restores`: the revision from which the model's state is. `part_of`: the revision that began the ramp of which this is a step.
    """

    number: int
    at_s: float
    actor: str
    reason: str
    kind: Kind
    state: RoutingState
    model: str = ""
    restores: int | None = None
    part_of: int | None = None


def shifted(state: RoutingState, model: str, shares: Mapping[str, float], backends: Sequence[str]) -> RoutingState:
    """The state with these shares, at rest; `backends` are those that serve the model. Raises NotPossible."""
    before = model_of(state, model)
    for name, share in shares.items():
        if name not in backends:
            raise NotPossible(f"{model} is not served by {name}; it is served by {', '.join(backends)}")
        if not 0 <= share <= 1:
            raise NotPossible(f"the share of {name} is {share:g}; a share is between 0 and 1")
    rest = 1 - sum(shares.values())
    others = {name: share for name, share in before.split.items() if name not in shares and share > 0}
    if rest < -EXACT:
        raise NotPossible(f"the shares sum to {sum(shares.values()):g}; they may sum to 1 at most")
    if rest > EXACT and not others:
        raise NotPossible(
            f"the shares sum to {sum(shares.values()):g}, and no other backend has a share to take the rest; name one"
        )
    whole = sum(others.values())
    split = {name: round(share / whole * rest, DIGITS) for name, share in others.items()} if rest > EXACT else {}
    split = {name: split.get(name, shares.get(name, 0.0)) + 0.0 for name in dict.fromkeys((*before.split, *shares))}
    return state.with_model(model, msgspec.structs.replace(before, split=split, ramp=None))


@dataclass(frozen=True, slots=True)
class _Stand:
    """What one change made of a model, its steps included: it began with revision `first`, and `stands_for` one that it may restore."""

    first: int
    stands_for: int
    model: ModelState


def rolled_back(journal: Sequence[Revision], model: str, to: int | None = None) -> tuple[RoutingState, int]:
    """The state with the model as it was before, or as it was in revision `to`; and the number of the revision that is restored.

    `journal`: all revisions, oldest first. What is restored is at rest, a ramp does not go on. Raises NotPossible where there is nothing
    before.
    """
    state = journal[-1].state
    now = model_of(state, model)
    if to is not None:
        found = next((revision for revision in journal if revision.number == to), None)
        if found is None:
            raise NotPossible(f"there is no revision {to}; the last is {journal[-1].number}")
        if model not in found.state.models:
            raise NotPossible(f"revision {to} knows no model {model}")
        return state.with_model(model, found.state.models[model].at_rest()), to
    stands = list(_stands(journal, model))
    here = max(place for place, stand in enumerate(stands) if stand.first <= stands[-1].stands_for)
    for stand in reversed(stands[:here]):
        if not _alike(stand.model.at_rest(), now):
            return state.with_model(model, stand.model.at_rest()), stand.stands_for
    raise NotPossible(f"{model} has no earlier state to go back to")


def _alike(one: ModelState, other: ModelState) -> bool:
    """Whether both say the same; a share of 0 says what no share says."""
    return _given(one.split) == _given(other.split) and one == msgspec.structs.replace(other, split=one.split)


def _given(split: Mapping[str, float]) -> dict[str, float]:
    return {name: share for name, share in split.items() if share > 0}


def _stands(journal: Sequence[Revision], model: str) -> Iterator[_Stand]:
    """What became of the model, oldest first; revisions that left it as it was are passed over."""
    open_stand: _Stand | None = None
    for revision in journal:
        then = revision.state.models.get(model)
        if then is None or (open_stand is not None and then == open_stand.model):
            continue
        if open_stand is not None and revision.part_of == open_stand.first:
            open_stand = _Stand(open_stand.first, open_stand.stands_for, then)
            continue
        if open_stand is not None:
            yield open_stand
        is_restored = revision.restores is not None and revision.model == model
        stands_for = revision.restores if is_restored and revision.restores is not None else revision.number
        open_stand = _Stand(revision.number, stands_for, then)
    if open_stand is not None:
        yield open_stand


def drained(state: RoutingState, target: str) -> RoutingState:
    """The state in which the backend, or `backend/replica`, takes no new calls. Raises NotPossible where it does not already."""
    if target in state.draining:
        raise NotPossible(f"{target} is draining already")
    return msgspec.structs.replace(state, draining=(*state.draining, target))


def undrained(state: RoutingState, target: str) -> RoutingState:
    """The state in which it takes calls again. Raises NotPossible where it does already."""
    if target not in state.draining:
        raise NotPossible(f"{target} is not draining")
    return msgspec.structs.replace(state, draining=tuple(each for each in state.draining if each != target))


@dataclass(frozen=True, slots=True)
class Desired:
    """The state that a file asks for, and which backends it lets serve which model."""

    state: RoutingState
    served: Mapping[str, Sequence[str]]


def filed(
    running: RoutingState, last_file: RoutingState | None, file: RoutingState, served: Mapping[str, Sequence[str]]
) -> RoutingState:
    """What a file that asks for the state `file` makes of the running one: of file and command the later one wins, model by model.

    A model of which the file says what it said before (`last_file`) stays as commands have left it, unless a backend has a share that
    does not serve it any more (`served`: model to backends). Models that are not in the file are gone.
    """
    models = {}
    for name, asked in file.models.items():
        now = running.models.get(name)
        said_before = last_file.models.get(name) if last_file is not None else None
        is_served = now is not None and all(b in served[name] for b in _named(now))
        models[name] = now if now is not None and asked == said_before and is_served else asked
    return msgspec.structs.replace(running, models=models)


def _named(model: ModelState) -> Iterator[str]:
    """Every backend that calls go to, or will by the ramp."""
    for split in (model.split, model.ramp.target if model.ramp is not None else {}):
        yield from (name for name, share in split.items() if share > 0)


def model_of(state: RoutingState, name: str) -> ModelState:
    """The state of one model. Raises NotPossible where there is none of that name."""
    model = state.models.get(name)
    if model is None:
        raise NotPossible(f"there is no model {name}; there are {', '.join(sorted(state.models)) or 'none'}")
    return model
