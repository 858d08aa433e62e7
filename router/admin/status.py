"""Where everything stands, as an operator sees it: shares, ramps and drift, every replica with its reason, the store, the file."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import BaseModel
from sqlalchemy.engine import make_url

from policies.revisions import ModelState, Ramp
from policies.time_ramps import due_s, steps_of
from router.config import Config
from router.fleet import Binding, LiveModel, LiveReplica
from router.parts import Parts
from router.readiness import state_of
from router.routing import desired


class ReplicaStatus(BaseModel):
    """One server. `probed`: its last health probe was well (null: there was none yet)."""

    url: str
    state: str
    reason: str
    in_flight: int
    probed: bool | None
    is_draining: bool


class BackendStatus(BaseModel):
    """A backend of a model: its share of the callers, 0..1, and its replicas."""

    share: float
    kind: str | None
    draining: bool
    replicas: list[ReplicaStatus]


class RampStatus(BaseModel):
    """Where a ramp stands: `done_share` of the way, the next step in `next_s` seconds (null: it stands still)."""

    target: dict[str, float]
    over_s: float
    done_share: float
    is_paused: bool
    next_s: float | None


class ModelStatus(BaseModel):
    """A model: the shares in force and those that the file asks for; `drift` where they differ."""

    split: dict[str, float]
    file_split: dict[str, float] | None
    drift: bool
    ramp: RampStatus | None
    backends: dict[str, BackendStatus]


class StoreStatus(BaseModel):
    """Where revisions are kept. `trouble`: why it cannot be used now, "" where it can."""

    url: str
    trouble: str


class FileStatus(BaseModel):
    """The configuration file: why it is not in effect, what waits for a start, where the running state differs, when it was last taken."""

    path: str
    refused: list[str]
    at_next_start: list[str]
    drift: list[str]
    taken_at_s: float | None


class WorkersStatus(BaseModel):
    """How many processes serve, and the one that answered: health is as it sees it."""

    count: int
    pid: int


class Status(BaseModel):
    """The router now."""

    revision: int
    at_s: float | None
    models: dict[str, ModelStatus]
    draining: list[str]
    store: StoreStatus
    file: FileStatus
    workers: WorkersStatus
    version: str
    notices: list[str]


def status_of(parts: Parts) -> Status:
    """What this process knows."""
    last = parts.journal.last
    states = last.state.models if last is not None else {}
    asked = desired(parts.config).state.models
    now_s = parts.journal.now_s()
    return Status(
        revision=last.number if last is not None else parts.fleet.revision,
        at_s=last.at_s if last is not None else None,
        models={
            name: _model(live, states.get(name), asked.get(name), now_s) for name, live in parts.fleet.models.items()
        },
        draining=list(last.state.draining) if last is not None else [],
        store=StoreStatus(url=plain_url(parts.config.store.url), trouble=parts.journal.trouble),
        file=FileStatus.model_validate(parts.file.report()),
        workers=WorkersStatus(count=parts.config.server.workers, pid=os.getpid()),
        version=_version(),
        notices=notices(parts.config),
    )


def notices(config: Config) -> list[str]:
    """What is allowed and yet worth a sentence."""
    return [
        f"server.allow_from lets every client in {network} in without a key" for network in config.server.allow_from
    ]


def plain_url(url: str) -> str:
    """A store's URL without what opens it: no password, and no query, which may hold one."""
    return make_url(url).set(query={}).render_as_string(hide_password=True)


def _model(live: LiveModel, state: ModelState | None, asked: ModelState | None, now_s: float) -> ModelStatus:
    ramp = state.ramp if state is not None else None
    return ModelStatus(
        split=dict(live.split),
        file_split=asked.split if asked is not None else None,
        drift=asked is not None and (_given(asked.split) != _given(live.split) or ramp is not None),
        ramp=_ramp(ramp, state, now_s) if ramp is not None and state is not None else None,
        backends={
            name: _backend(live, name, live.bindings.get(name), live.split.get(name, 0.0))
            for name in live.route.backends
        },
    )


def _given(split: Any) -> dict[str, float]:
    return {name: share for name, share in split.items() if share > 0}


def _ramp(ramp: Ramp, state: ModelState, now_s: float) -> RampStatus:
    at_s = due_s(state)
    return RampStatus(
        target=ramp.target,
        over_s=ramp.over_s,
        done_share=ramp.done / steps_of(ramp.over_s),
        is_paused=ramp.is_paused,
        next_s=max(0.0, at_s - now_s) if at_s is not None else None,
    )


def _backend(live: LiveModel, name: str, binding: Binding | None, share: float) -> BackendStatus:
    if binding is None:  # of a kind that this version cannot call
        return BackendStatus(share=share, kind=None, draining=False, replicas=[])
    backend = binding.backend
    return BackendStatus(
        share=share,
        kind=backend.kind,
        draining=backend.is_draining,
        replicas=[
            _replica(each, live.name, backend.is_draining or each not in backend.open) for each in backend.replicas
        ],
    )


def _replica(replica: LiveReplica, model: str, is_draining: bool) -> ReplicaStatus:
    state = state_of(replica, model, is_draining)
    return ReplicaStatus(
        url=replica.url,
        state=state["state"],
        reason=state["reason"],
        in_flight=replica.busy,
        probed=None if replica.probed_at_s is None else not replica.probe_said,
        is_draining=is_draining,
    )


def _version() -> str:
    try:
        return version("crossfade")
    except PackageNotFoundError:  # run from a folder that was never installed
        return "unknown"
