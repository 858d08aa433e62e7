"""Whether every model can be answered now, and by whom: the body of `/health/ready`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from policies.ejection import State
from router.capabilities import Capabilities
from router.fleet import Fleet, LiveReplica

NOTHING_SAID: Mapping[str, list[str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Readiness:
    """For each model its backends' replicas with their state; ready where each model has one in rotation and the router is to stay.

    `capabilities`: for each model and backend what it can do, and where that is known from. `file`: what is to be said of the
    configuration file, if anything is.
    """

    is_ready: bool
    revision: int
    models: dict[str, dict[str, list[dict[str, str]]]]
    capabilities: dict[str, dict[str, dict[str, Any]]]
    is_stopping: bool = False
    file: Mapping[str, list[str]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The body; no addresses of backends, because load balancers and strangers read it."""
        status = "stopping" if self.is_stopping else "ready" if self.is_ready else "not ready"
        return {
            "status": status,
            "revision": self.revision,
            "models": self.models,
            "capabilities": self.capabilities,
            **({"file": dict(self.file)} if self.file else {}),
        }


def readiness(fleet: Fleet, file: Mapping[str, list[str]] = NOTHING_SAID, *, is_stopping: bool = False) -> Readiness:
    """The state of everything now; a router that `is_stopping` is not ready, however well its backends are.

    A `file` that is refused makes nothing unready: what was in effect before it still is.
    """
    models: dict[str, dict[str, list[dict[str, str]]]] = {}
    is_ready = True
    for model in fleet.models.values():
        rows = {
            name: [state_of(replica, model.name, binding.backend.is_draining) for replica in binding.backend.replicas]
            for name, binding in model.bindings.items()
        }
        models[model.name] = rows
        is_ready = is_ready and any(
            row["state"] == State.IN_ROTATION.value for replicas in rows.values() for row in replicas
        )
    capabilities = {
        model.name: {name: _capabilities(binding.abilities) for name, binding in model.bindings.items()}
        for model in fleet.models.values()
    }
    return Readiness(is_ready and not is_stopping, fleet.revision, models, capabilities, is_stopping, file)


def _capabilities(abilities: Capabilities) -> dict[str, Any]:
    """What is known of a backend, and by whom it is said; of what does not stand here all is taken to be possible."""
    said: dict[str, Any] = {
        name: {"can": can, "from": source.value} for name, (can, source) in abilities.known().items()
    }
    said |= {api: {"can": False, "from": "answers"} for api in sorted(abilities.missing)}
    context = abilities.context()
    if context is not None:
        said["context_tokens"] = {"tokens": context[0], "from": context[1].value}
    return said


def state_of(replica: LiveReplica, model: str, is_draining: bool) -> dict[str, str]:
    """Where a replica stands for a model, and why."""
    if is_draining:
        return {"state": "draining", "reason": ""}
    health = replica.health[model]
    return {"state": health.state.value, "reason": replica.lacks.get(model) or health.reason}
