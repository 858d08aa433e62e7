"""What the admin API answers with: revisions and states as documents that OpenAPI describes.

They are plain dataclasses: a thousand revisions are written as JSON without being validated once more.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from policies.differences import differences
from policies.revisions import ModelState, Revision, RoutingState


@dataclass(frozen=True, slots=True)
class ShadowDocument:
    """Copies of a `share` of the calls go `to` a backend."""

    to: str
    share: float


@dataclass(frozen=True, slots=True)
class RampDocument:
    """A shift that takes its time: `done` steps of the way are made, the last one at `at_s`."""

    start: dict[str, float]
    target: dict[str, float]
    over_s: float
    at_s: float
    done: int
    is_paused: bool


@dataclass(frozen=True, slots=True)
class ModelStateDocument:
    """The state of one model."""

    split: dict[str, float]
    shadow: ShadowDocument | None
    step: int | None
    ramp: RampDocument | None


@dataclass(frozen=True, slots=True)
class StateDocument:
    """The whole routing state."""

    models: dict[str, ModelStateDocument]
    draining: list[str]


@dataclass(frozen=True, slots=True)
class RevisionDocument:
    """One revision; `before` and `after` are the state of the model that was asked for, or the whole state."""

    number: int
    at_s: float
    actor: str
    reason: str
    kind: str
    model: str | None
    restores: int | None
    part_of: int | None
    before: ModelStateDocument | StateDocument | None
    after: ModelStateDocument | StateDocument | None
    changes: list[str]


@dataclass(frozen=True, slots=True)
class Changed:
    """The revision in force after a change; `changed` is false where everything was so already."""

    revision: RevisionDocument
    changes: list[str]
    changed: bool


@dataclass(frozen=True, slots=True)
class History:
    """Revisions, newest first."""

    revisions: list[RevisionDocument]


def revision_document(journal: Sequence[Revision], revision: Revision, model: str | None = None) -> RevisionDocument:
    """A revision of this journal, with what it changed; of one `model` only, or of everything."""
    place = bisect_left(journal, revision.number, key=lambda each: each.number)
    before = journal[place - 1].state if place > 0 else None
    return RevisionDocument(
        number=revision.number,
        at_s=revision.at_s,
        actor=revision.actor,
        reason=revision.reason,
        kind=revision.kind.value,
        model=revision.model or None,
        restores=revision.restores,
        part_of=revision.part_of,
        before=_shown(before, model) if before is not None else None,
        after=_shown(revision.state, model),
        changes=list(differences(_only(before or RoutingState(), model), _only(revision.state, model))),
    )


def concerning(journal: Sequence[Revision], model: str) -> list[Revision]:
    """The revisions that are about the model: made for it, or leaving it otherwise than it was."""
    found, before = [], None
    for revision in journal:
        now = revision.state.models.get(model)
        if now != before or revision.model == model:
            found.append(revision)
        before = now
    return found


def model_document(state: ModelState) -> ModelStateDocument:
    """The state of a model, every field of it."""
    shadow, ramp = state.shadow, state.ramp
    return ModelStateDocument(
        split=state.split,
        shadow=ShadowDocument(to=shadow.to, share=shadow.share) if shadow is not None else None,
        step=state.step,
        ramp=RampDocument(**{name: getattr(ramp, name) for name in ramp.__struct_fields__}) if ramp else None,
    )


def _shown(state: RoutingState, model: str | None) -> ModelStateDocument | StateDocument | None:
    if model is not None:
        return model_document(state.models[model]) if model in state.models else None
    models = {name: model_document(each) for name, each in state.models.items()}
    return StateDocument(models=models, draining=list(state.draining))


def _only(state: RoutingState, model: str | None) -> RoutingState:
    """The state of one model and of nothing else."""
    if model is None:
        return state
    return RoutingState({model: state.models[model]} if model in state.models else {})
