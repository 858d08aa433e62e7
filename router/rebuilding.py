"""A newer configuration for a fleet that is at work: what it changes is built beside it first, and then put in its place in one step.

    a backend    stays the same object while its section does (`timeouts` are the models'). Else it is a new one; the servers that stay
                 keep their connections and health, and a limit of calls at once its places, so that both together never take more
    a model      stays while nothing but its shares has changed; those are the routing state's. Else it is a new one, with the old budget
                 and all that is known of its backends
    health       is kept per (server, model) while both stay and the model has the same name there; new rules go on from where it stands

Calls that run go on with the model and the backend that they began with, both of which leave with the last of them. `Plan` can fail and
changes nothing; `carry_out` cannot, and does not wait, so that no call sees half of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from backends.dialects import DIALECTS
from backends.leftovers import Leftovers
from policies.ejection import ReplicaHealth
from policies.schema import Schemas
from router.building import build_backend, build_model, ejection_rules
from router.config import BackendConfig, Config
from router.fleet import Binding, Fleet, Healths, LiveBackend, LiveModel, LiveReplica
from router.limits import Limits

_OF_MODELS = frozenset({"timeouts", "engine"})  # of a backend's section: what its live object knows nothing of
_OF_SERVER = ("kind", "key_env", "verify", "ca_file")


@dataclass(slots=True)
class Done:
    """What came of it: the servers that are new, or have new models, and what the backends that are gone still read to its end."""

    unmet: list[LiveReplica] = field(default_factory=list)
    leftovers: list[Leftovers] = field(default_factory=list)


class Plan:
    """What `after` makes of a fleet that was built from `before`. Raises OSError and ValueError where a backend cannot be built."""

    def __init__(self, fleet: Fleet, before: Config, after: Config, env: Mapping[str, str], limits: Limits):
        self._fleet = fleet
        self._before = before
        self._after = after
        self._limits = limits
        self._old_backends = dict(fleet.backends)
        self._backends: dict[str, LiveBackend] = {
            name: fleet.backends[name]
            if name in fleet.backends and _section(before.backends[name]) == _section(after.backends[name])
            else build_backend(name, after, env, fleet.rng, limits)
            for name in after.backends
            if after.backends[name].kind in DIALECTS
        }
        schemas = Schemas()
        self._models = {
            name: fleet.models[name] if self._stays(name) else build_model(name, after, self._backends, schemas)
            for name in after.models
        }

    def load(self) -> None:
        """Import what judging answers needs, if anybody does now; may take a while."""
        for model in self._models.values():
            if model.contract is not None:
                model.contract.load()

    def carry_out(self, now_s: float) -> Done:
        """Put it in place. The shares and drains in force are to be applied next, in the same step."""
        fleet, done = self._fleet, Done()
        gone = [(name, old) for name, old in self._old_backends.items() if self._backends.get(name) is not old]
        for name, old in gone:
            if name in self._backends:
                self._succeed(name, old, self._backends[name])
            if old.leftovers is not None:
                done.leftovers.append(old.leftovers)
        self._retire(replica for _, old in gone for replica in old.replicas)
        self._inherit_all()
        fresh = [pair for name, backend in self._backends.items() for pair in self._settle(name, backend)]
        _replace(fleet.backends, self._backends)
        _replace(fleet.models, self._models)
        fleet.pass_paths = self._after.server.pass_paths
        for replica, model_name in fresh:
            self._keep_out(replica, fleet.models[model_name], now_s)
        done.unmet = list(dict.fromkeys(replica for replica, _ in fresh))
        server = self._after.server
        for backend in fleet.backends.values():
            backend.gate.requeue(server.queue_size, server.queue_wait_s)
            backend.fit(now_s)
        return done

    # -- backends ----------------------------------------------------------------------------------

    def _retire(self, replicas: Iterable[LiveReplica]) -> None:
        staying = {id(replica.server) for backend in self._backends.values() for replica in backend.replicas}
        for replica in replicas:
            if id(replica.server) not in staying:
                replica.server.pool.retire()

    def _succeed(self, name: str, old: LiveBackend, new: LiveBackend) -> None:
        before, after = self._before.backends[name], self._after.backends[name]
        if all(getattr(before, key) == getattr(after, key) for key in _OF_SERVER):
            known = {replica.url: replica for replica in old.replicas}
            for replica in new.replicas:
                if replica.url in known:
                    _take_over(known[replica.url], replica)
        if old.slots is not None and new.slots is not None and not self._limits.is_shared:
            new.gate = old.gate
            old.slots = None  # its calls leave by the gate, whose limit is no longer theirs to say

    def _settle(self, name: str, backend: LiveBackend) -> Iterator[tuple[LiveReplica, str]]:
        """Give every server the models that are served there now, with their rules; those pairs that nobody knows yet."""
        rules = ejection_rules(name, self._after)
        for replica in backend.replicas:
            for model in [each for each in replica.health if each not in rules or self._is_renamed(each, name)]:
                del replica.health[model]
                replica.lacks.pop(model, None)
                replica.skills.pop(model, None)
            for model, rule in rules.items():
                if model in replica.health:
                    replica.health[model].follow(rule)
                    if self._old_backends.get(name) is backend or replica.probed_at_s is not None:
                        continue
                else:
                    replica.health[model] = ReplicaHealth(rule, self._fleet.rng)
                yield replica, model

    def _is_renamed(self, model: str, backend: str) -> bool:
        """Whether what is called there has another name now, so that what was seen of it was another model's."""
        before = self._before.models.get(model)
        on = before.on.get(backend) if before is not None else None
        return on is not None and on.name != self._after.models[model].on[backend].name

    @staticmethod
    def _keep_out(replica: LiveReplica, model: LiveModel, now_s: float) -> None:
        """A server whose last probe failed is known to be unwell for a new model, too."""
        if not replica.probe_said:
            return
        health = replica.health[model.name]
        health.probe_failed(now_s)
        if model.may_eject_one():
            health.keep_out(now_s, "its last health probe failed")

    # -- models ------------------------------------------------------------------------------------

    def _stays(self, name: str) -> bool:
        if name not in self._fleet.models or name not in self._before.models:
            return False
        before, after = self._before.models[name], self._after.models[name]
        if before.model_copy(update={"split": after.split}) != after:
            return False
        return all(
            self._fleet.backends.get(on) is self._backends.get(on)
            and self._before.backends[on].timeouts == self._after.backends[on].timeouts
            for on in after.on
        )

    def _inherit_all(self) -> None:
        for name, model in self._models.items():
            former = self._fleet.models.get(name)
            if former is not None and former is not model:
                self._inherit(former, model)

    def _inherit(self, old: LiveModel, new: LiveModel) -> None:
        before, after = self._before.models[new.name], self._after.models[new.name]
        budget = ("budget_ratio", "budget_min_per_s")
        if all(getattr(before.retry, key) == getattr(after.retry, key) for key in budget):
            new.budget = old.budget
        for name, binding in new.bindings.items():
            former = old.bindings.get(name)
            if former is not None and former.plain_name == binding.plain_name:
                self._learn(former, binding)

    @staticmethod
    def _learn(former: Binding, binding: Binding) -> None:
        places = {
            here: there
            for here, replica in enumerate(binding.backend.replicas)
            for there, known in enumerate(former.backend.replicas)
            if known.server is replica.server
        }
        binding.abilities.inherit(former.abilities, places)


def _section(backend: BackendConfig) -> dict[str, Any]:
    return backend.model_dump(exclude=set(_OF_MODELS))


def _take_over(old: LiveReplica, new: LiveReplica) -> None:
    """The same server under another object: its connections, and all that is known of it."""
    new.server = old.server
    new.health = Healths(old.health)
    new.bias, new.about, new.skills = old.bias, old.about, old.skills
    new.lacks = dict(old.lacks)
    new.probe_said, new.probed_at_s = old.probe_said, old.probed_at_s


def _replace(held: dict[str, Any], by: Mapping[str, Any]) -> None:
    """The content of a dictionary that others hold, in its new order."""
    held.clear()
    held.update(by)
