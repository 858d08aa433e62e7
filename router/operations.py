"""What operators do to the routing state: the same for the admin API and for the command line, beside a router or alone on its store.

Each returns the revision that is in force afterwards. Each raises NotPossible (it makes no sense), Overtaken and KeyReused (others were
faster, or the request is not what its key says) and StoreFailed; nothing has been changed then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from policies.revisions import (
    Kind,
    NotPossible,
    Ramp,
    Revision,
    RoutingState,
    drained,
    model_of,
    rolled_back,
    shifted,
    undrained,
)
from policies.time_ramps import begun, due_s, paused, resumed, stepped
from router.journal.journal import ROUTER, By, Draft, Journal


class Operations:
    """The operations on one journal. `served`: the backends of each model; `replicas`: the URLs of each backend, both as they are now."""

    def __init__(
        self,
        journal: Journal,
        served: Callable[[], Mapping[str, Sequence[str]]],
        replicas: Callable[[], Mapping[str, Sequence[str]]],
    ):
        self.journal = journal
        self._served = served
        self._replicas = replicas

    async def shift(self, model: str, shares: Mapping[str, float], by: By, over_s: float | None = None) -> Revision:
        """Give backends these shares: at once, or in small steps `over_s` seconds."""

        def make(revisions: Sequence[Revision]) -> Draft:
            state = _state(revisions)
            after = shifted(state, model, shares, self._backends(model, state))
            if over_s is not None:
                after = begun(state, after, model, over_s, self.journal.now_s())
            return Draft(Kind.SHIFT, after, model)

        return await self.journal.change(make, by)

    async def rollback(self, model: str, by: By, to: int | None = None) -> Revision:
        """Take the model back to the state before, or to that of revision `to`."""

        def make(revisions: Sequence[Revision]) -> Draft:
            _state(revisions)
            state, restores = rolled_back(revisions, model, to)
            served = self._backends(model, state)
            for name, share in state.models[model].split.items():
                if share > 0 and name not in served:
                    raise NotPossible(
                        f"revision {restores} gives {name} a share, which does not serve {model} any more; "
                        "name an older revision with --to"
                    )
            return Draft(Kind.ROLLBACK, state, model, restores)

        return await self.journal.change(make, by)

    async def drain(self, target: str, by: By) -> Revision:
        """Send no new calls to a backend, or to one replica of it (`backend/URL`)."""
        self._check_target(target)
        return await self.journal.change(lambda revisions: Draft(Kind.DRAIN, drained(_state(revisions), target)), by)

    async def undrain(self, target: str, by: By) -> Revision:
        """Send it calls again."""
        return await self.journal.change(
            lambda revisions: Draft(Kind.UNDRAIN, undrained(_state(revisions), target)), by
        )

    async def pause(self, model: str, by: By) -> Revision:
        """Let the model's ramp stand still."""
        return await self._on_ramp(model, lambda state: paused(state, model), by)

    async def resume(self, model: str, by: By) -> Revision:
        """Let it go on from there."""
        return await self._on_ramp(model, lambda state: resumed(state, model, self.journal.now_s()), by)

    async def step(self, model: str, seen: Ramp | None = None) -> Revision:
        """Make the next step of the model's ramp, if it is due: whoever else drives it may have been faster.

        Of a ramp that still stands as `seen` it is due, whatever the clock says.
        """

        def make(revisions: Sequence[Revision]) -> Draft | None:
            state, now_s = _state(revisions), self.journal.now_s()
            moving = state.models.get(model)
            due = due_s(moving) if moving is not None else None
            if moving is None or due is None or (due > now_s and moving.ramp != seen):
                return None
            return Draft(Kind.RAMP, stepped(state, model, now_s), model, part_of=_begun_by(revisions, model))

        return await self.journal.change(make, By(ROUTER, "a step of the ramp"))

    async def _on_ramp(self, model: str, change: Callable[[RoutingState], RoutingState], by: By) -> Revision:
        def make(revisions: Sequence[Revision]) -> Draft:
            return Draft(Kind.RAMP, change(_state(revisions)), model, part_of=_begun_by(revisions, model))

        return await self.journal.change(make, by)

    def _backends(self, model: str, state: RoutingState) -> Sequence[str]:
        model_of(state, model)
        backends = self._served().get(model)
        if backends is None:
            raise NotPossible(f"the configuration has no model {model}")
        return backends

    def _check_target(self, target: str) -> None:
        backend, _, url = target.partition("/")
        urls = self._replicas().get(backend)
        if urls is None:
            raise NotPossible(f"there is no backend {backend}; there are {', '.join(sorted(self._replicas()))}")
        if url and url not in urls:
            raise NotPossible(f"{backend} has no replica {url}; it has {', '.join(urls)}")


def _state(revisions: Sequence[Revision]) -> RoutingState:
    if not revisions:
        raise NotPossible("the store holds no state yet; start the router once")
    return revisions[-1].state


def _begun_by(revisions: Sequence[Revision], model: str) -> int:
    """The revision that began the ramp under way: the last one about the model that is no step."""
    return next(
        (r.number for r in reversed(revisions) if r.model == model and r.kind is not Kind.RAMP), revisions[-1].number
    )
