"""Between the configuration, the revisions and the live fleet: what a file asks for, and how a revision comes in force."""

from __future__ import annotations

from collections.abc import Mapping

from policies.revisions import Desired, ModelState, Revision, RoutingState
from router.config import Config
from router.fleet import Fleet, LiveModel


def desired(config: Config) -> Desired:
    """What this configuration asks for."""
    models = {name: ModelState(dict(model.split)) for name, model in config.models.items()}
    return Desired(RoutingState(models), {name: tuple(model.on) for name, model in config.models.items()})


def apply(fleet: Fleet, revision: Revision, now_s: float) -> None:
    """Put a revision in force: one step of the loop, so that no call sees half of it. Calls that have chosen go on as they are.

    A model that the revision does not know keeps its shares: the file that brings it may be ahead of the journal.
    """
    state = revision.state
    draining = frozenset(state.draining)
    for backend in fleet.backends.values():
        backend.drain(
            {r.url for r in backend.replicas if not draining.isdisjoint((backend.name, f"{backend.name}/{r.url}"))}
        )
    for name, model in fleet.models.items():
        asked = state.models.get(name)
        model.adopt(_served(model, asked.split) if asked is not None else model.split, revision.number, now_s)
    fleet.revision = revision.number


def _served(model: LiveModel, split: Mapping[str, float]) -> Mapping[str, float]:
    """The shares of those that serve the model; where nobody of them does, it stays as it is."""
    kept = {name: share for name, share in split.items() if name in model.route.backends}
    return kept if any(share > 0 for share in kept.values()) else model.split
