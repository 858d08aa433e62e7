"""The live state of everything behind the router: models, their backends, their replicas, and who is in rotation.

Built once from a configuration by `router.building`; the path of a call reads it, the attempt and the health monitor change it.
Health is kept per (replica, model): a wrong name for one model must not take the others away.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from backends.asking import AS_IT_IS, Translation
from backends.canonical import Naming
from backends.http import Replica
from backends.leftovers import Leftovers
from policies.balance import Bias, Load, fairest, least_busy
from policies.budget import RetryBudget
from policies.choose import BackendView, ModelRoute, Snapshot
from policies.cohort import Splitter
from policies.ejection import EjectionRules, ReplicaHealth, State, may_eject
from policies.resume import ResumeRules, Skill
from policies.retry import RetryRules
from router.capabilities import Capabilities
from router.contracts import Contract
from router.gate import Gate

log = logging.getLogger("crossfade.health")


_NEVER = EjectionRules(
    consecutive_failures=1 << 30, failure_share=1.0, window_s=30.0, for_s=(5.0, 300.0), min_calls=1 << 30
)


class Healths(dict[str, ReplicaHealth]):
    """By model. Of one that is gone from the configuration, the calls that still run find a replica that is well, and charge nobody."""

    def __missing__(self, _model: str) -> ReplicaHealth:
        return ReplicaHealth(_NEVER, random.Random())


class LiveReplica:
    """One server and what is known of it now."""

    __slots__ = (
        "about",
        "bias",
        "elsewhere",
        "health",
        "in_flight",
        "lacks",
        "probe_said",
        "probed_at_s",
        "server",
        "skills",
        "skills_asked",
    )

    def __init__(self, server: Replica, health: Mapping[str, ReplicaHealth]):
        self.server = server
        self.health = Healths(health)
        self.in_flight = 0
        self.elsewhere = 0  # attempts that other workers have running here, as far as their number matters
        self.bias = Bias()
        self.lacks: dict[str, str] = {}  # by model: what is wrong with it there, by the server's own lists
        # What the server says of itself, asked for when it turns out well; b"" where it has not said.
        self.about: tuple[bytes, ...] = (b"",) * len(server.dialect.about_paths)
        self.probe_said = ""
        self.probed_at_s: float | None = None
        self.skills: dict[str, Skill] = {}  # by model; what is not in it has not been found out yet
        self.skills_asked: dict[str, asyncio.Task[Skill]] = {}

    @property
    def url(self) -> str:
        return self.server.origin.url

    @property
    def busy(self) -> int:
        """How many attempts run here."""
        return self.in_flight + self.elsewhere

    @property
    def is_in_rotation(self) -> bool:
        """Whether it is, for one model at least."""
        return not self.health or any(health.state is State.IN_ROTATION for health in self.health.values())

    def room(self, slots: int, now_s: float) -> int:
        """How many of its slots it may fill: all, or one and more while it is being ramped up."""
        return max(1, int(slots * max((health.weight(now_s) for health in self.health.values()), default=1.0)))

    def takes(self, model: str, now_s: float) -> bool:
        """Whether a call of `model` may be sent here now, a probing call included."""
        health = self.health[model]
        return health.state is State.IN_ROTATION or health.is_due(now_s)

    def load(self, model: str, now_s: float) -> Load:
        """What it weighs in the balance for the next call of `model`."""
        bias = self.bias
        return Load(self.busy + bias.calls(now_s), self.health[model].weight(now_s), bias.is_left_alone(now_s))


class LiveBackend:
    """A backend and its replicas. `slots`: how many calls one replica may have at once, None for any number.

    `open`: the replicas that take new calls; all where none is to, because a backend that is leaving still beats no answer.
    """

    __slots__ = ("gate", "is_draining", "kind", "leftovers", "name", "open", "replicas", "slots")

    def __init__(self, name: str, kind: str, replicas: list[LiveReplica], gate: Gate, slots: int | None = None):
        self.name = name
        self.kind = kind
        self.replicas = replicas
        self.gate = gate
        self.open = replicas
        self.is_draining = False
        self.slots = slots
        self.leftovers: Leftovers | None = None  # only where the engine must not be cut off

    def drain(self, urls: Container[str]) -> None:
        """Send no new calls to the replicas with these URLs, and again to all others."""
        kept = [replica for replica in self.replicas if replica.url not in urls]
        self.is_draining = not kept
        self.open = kept or self.replicas

    def fit(self, now_s: float) -> None:
        """Let the gate's limit follow the replicas in rotation; what still runs on the others takes none of their slots.

        Where none is in rotation all are tried as a last resort, and count.
        """
        if self.slots is None:
            return
        there = self.there()
        limit = sum(replica.room(self.slots, now_s) for replica in there)
        limit += sum(replica.in_flight for replica in self.replicas if replica not in there)
        if limit != self.gate.limit:
            self.gate.resize(limit)

    def there(self) -> list[LiveReplica]:
        """The replicas in rotation, or all as a last resort."""
        return [replica for replica in self.open if replica.is_in_rotation] or self.open

    def weight(self, model: str, now_s: float) -> float:
        """The part of the model's calls to it that it should take: less than 1 where all that are in rotation are being ramped up."""
        weights = [
            replica.health[model].weight(now_s)
            for replica in self.open
            if replica.health[model].state is State.IN_ROTATION
        ]
        return max(weights, default=1.0)

    def pick(
        self, model: str, now_s: float, rng: random.Random, among: Sequence[LiveReplica] | None = None
    ) -> LiveReplica:
        """The replica for the next attempt: one that is due for its probing call, else the least busy in rotation, else any.

        The attempt must be made: it may be the probing one. `among`: who is in question, if not all are.
        Who failed a moment ago, or comes back from an ejection, weighs differently: see `policies.balance`.
        """
        replicas = among or self.open
        in_rotation = []
        for replica in replicas:
            health = replica.health[model]
            if health.state is State.IN_ROTATION:
                in_rotation.append(replica)
            elif health.may_take(now_s):
                return replica
        choices = in_rotation or replicas
        if len(choices) == 1:
            return choices[0]
        if all(now_s >= replica.bias.until_s and now_s >= replica.health[model].ramps_until_s for replica in choices):
            return choices[least_busy([replica.busy for replica in choices], rng)]
        if self.slots is not None:
            choices = [r for r in choices if r.busy < r.room(self.slots, now_s)] or choices
        return choices[fairest([replica.load(model, now_s) for replica in choices], rng)]


@dataclass(frozen=True, slots=True)
class AttemptLimits:
    """Durations in seconds: the model's, overlaid by the backend's own."""

    connect_s: float
    first_token_s: float
    first_token_per_kib_s: float
    between_tokens_s: float
    answer_s: float
    total_s: float
    ping_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Binding:
    """A model on a backend: the name it has there, as a JSON string, how that is undone in answers, and how long things may take.

    `same_model`, `continues`: whether, and how, a stream that broke elsewhere may be resumed here. `is_same(asked, said)`: whether the
    model that an answer names is the one asked for, None where that is not to be known. `abilities`: what calls of the model can have
    here. `translations`: by kind of call, how one is put to this backend; other kinds are sent as they are.
    """

    backend: LiveBackend
    name: bytes
    naming: Naming
    limits: AttemptLimits
    same_model: bool = True
    continues: str = "auto"
    is_same: Callable[[str, str], bool] | None = None
    abilities: Capabilities = field(default_factory=Capabilities)
    translations: Mapping[str, Translation] = field(default_factory=dict)

    @property
    def plain_name(self) -> str:
        """The model's name on the backend."""
        name: str = msgspec.json.decode(self.name)
        return name

    def translation(self, kind: str) -> Translation:
        """How a call of this kind is put to the backend."""
        return self.translations.get(kind, AS_IT_IS)


@dataclass(frozen=True, slots=True)
class Terms:
    """What the configuration grants a model's calls: tries, ways to resume, seconds in all, seconds to a hedge (None: no hedge).

    `at_most_share` (0..1) of its replicas may be out of rotation at once. `contract`: what answers must be, None where anything will do.
    """

    retry: RetryRules
    resume: ResumeRules
    total_s: float
    at_most_share: float
    hedge_after_s: float | None = None
    contract: Contract | None = None


class LiveModel:
    """A public model: where it may go, and what its calls may still spend on retries."""

    __slots__ = (
        "_forgets_at_s",
        "_settled_at_s",
        "_well",
        "at_most_share",
        "bindings",
        "budget",
        "contract",
        "hedge_after_s",
        "name",
        "resume",
        "retry",
        "revision",
        "route",
        "split",
        "total_s",
        "unwell",
    )

    def __init__(
        self,
        route: ModelRoute,
        split: Mapping[str, float],
        bindings: dict[str, Binding],
        *,
        terms: Terms,
        budget: RetryBudget,
        revision: int,
    ):
        self.name = route.name
        self.route = route
        self.split = split
        self.bindings = bindings
        self.retry = terms.retry
        self.resume = terms.resume
        self.budget = budget
        self.total_s = terms.total_s
        self.at_most_share = terms.at_most_share
        self.hedge_after_s = terms.hedge_after_s
        self.contract = terms.contract
        self.revision = revision
        self.unwell = 0
        self._settled_at_s = -math.inf
        self._forgets_at_s = math.inf
        self._well = self._look(None)

    def adopt(self, split: Mapping[str, float], revision: int, now_s: float) -> None:
        """Share out the calls from now on like this. Call after any change of who is draining, too."""
        if split != self.split:
            self.split = split
            self.route = replace(self.route, splitter=Splitter(self.name, split))
        self.revision = revision
        self.note_abilities()
        self.count_unwell(now_s)

    def snapshot(self, now_s: float) -> Snapshot:
        """What a choice may count on now. While all are in rotation, and nobody is ramped up, it is one and the same object."""
        if now_s >= self._forgets_at_s:
            for binding in self.bindings.values():
                binding.abilities.forget(now_s)
            self.note_abilities()
        if self.unwell and now_s >= self._settled_at_s:
            self.count_unwell(now_s)
        if self.unwell:
            return self._look(now_s)
        for binding in self.bindings.values():
            if binding.backend.is_draining:
                return self._look(now_s)
        return self._well

    def _look(self, now_s: float | None) -> Snapshot:
        # Of a kind that this version cannot call: known to the route, and never a candidate.
        views = {
            name: BackendView(name, False, is_callable=False)
            for name in self.route.backends
            if name not in self.bindings
        }
        for name, binding in self.bindings.items():
            backend = binding.backend
            takes = now_s is None or any(replica.takes(self.name, now_s) for replica in backend.open)
            weight = 1.0 if now_s is None else backend.weight(self.name, now_s)
            views[name] = BackendView(
                name,
                in_rotation=takes,
                is_draining=backend.is_draining,
                lacks=binding.abilities.lacks,
                missing=binding.abilities.missing,
                context_tokens=binding.abilities.context_tokens,
                weight=weight,
            )
        return Snapshot.of(self.revision, views)

    def note_abilities(self) -> None:
        """Call after any change of what a backend can do for the model."""
        self._well = self._look(None)
        self._forgets_at_s = min((b.abilities.forgets_at_s for b in self.bindings.values()), default=math.inf)

    def misses(self, binding: Binding, name: str, now_s: float, said: str) -> None:
        """An answer showed that the backend has no such API, or takes no call with such a need; for a while others are asked first."""
        if binding.abilities.misses(name, now_s):
            log.warning("%s on backend %s: it has no %s (%s)", self.name, binding.backend.name, name, said)
        self.note_abilities()

    def may_eject_one(self) -> bool:
        """Whether one more replica of this model may leave the rotation: never the last one, and never too many at once."""
        states = [r.health[self.name].state for b in self.bindings.values() for r in b.backend.replicas]
        return may_eject(sum(state is State.IN_ROTATION for state in states), len(states), self.at_most_share)

    def count_unwell(self, now_s: float) -> None:
        """Call after any change of a replica's state; who is ramped up is not quite well either, until the instant that is kept here."""
        healths = [r.health[self.name] for b in self.bindings.values() for r in b.backend.replicas]
        ramps = [health.ramps_until_s for health in healths if health.ramps_until_s > now_s]
        out = sum(health.state is not State.IN_ROTATION for health in healths)
        self.unwell = out + len(ramps)
        self._settled_at_s = max(ramps) if ramps and not out else math.inf
        for binding in self.bindings.values():
            binding.backend.fit(now_s)


@dataclass(slots=True)
class Fleet:
    """Everything behind the router, and the one source of chance. `pass_paths` are sent on as they are, to whoever has them."""

    backends: dict[str, LiveBackend]
    models: dict[str, LiveModel]
    revision: int
    rng: random.Random
    pass_paths: tuple[str, ...] = ()
