"""The health monitor: asks every replica after its health and its models, and acts on what no call has told yet.

A probe is a GET, never inference. It can bring a replica back early and, before the first call, keep calls from one that is not
there yet; otherwise health follows the outcome of real calls alone.

The lists of models, where a kind of server has some that can be trusted (`backends.dialects`), are asked for less often, and at once when
a replica turns out well:

* a model that is not listed is held out, per replica, until it is: LM Studio answers such calls with whatever it has loaded;
* one that is listed but not loaded is loaded by the next call, so one call at a time goes there until one has brought content: its caller
  waits for the loading, the others go elsewhere, and no second copy of the model is loaded beside the first;
* the last replica of a model stays in rotation whatever the lists say, and what they say stands in `/health/ready` and the log.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable, Iterator

from backends.dialects import Presence
from policies.ejection import State
from router.fleet import Binding, Fleet, LiveModel, LiveReplica

EVERY_S = 2.0  # an engine that came back is used again within this time; Envoy's default interval for fast checks
LISTS_EVERY = 5  # rounds; LM Studio shows every request in its window, and models come and go seldom

log = logging.getLogger("crossfade.health")

_LACKS = {
    Presence.MISSING: "the backend does not list the model",
    Presence.NOT_LOADED: "the model is not loaded; a call loads it",
}


class Monitor:
    """Probes in turn, one round every `every_s`; `run` it as a task and cancel it to stop."""

    def __init__(self, fleet: Fleet, every_s: float = EVERY_S):
        self._fleet = fleet
        self._every_s = every_s
        self._rounds = 0

    async def run(self) -> None:
        """Probe until cancelled. What goes wrong in one round is logged and does not end the watch."""
        while True:
            try:
                await self.round()
            except Exception:  # the supervisor of a background loop
                log.exception("the health monitor stumbled; it goes on")
            await asyncio.sleep(self._every_s)

    async def round(self) -> None:
        """Ask every replica once, all at the same time."""
        is_due = self._rounds % LISTS_EVERY == 0
        self._rounds += 1
        replicas = [replica for backend in self._fleet.backends.values() for replica in backend.replicas]
        await asyncio.gather(*(self._ask(replica, is_due) for replica in replicas))

    async def meet(self, replicas: Iterable[LiveReplica]) -> None:
        """Ask these after everything now: they are new, or have new models."""
        await asyncio.gather(*(self._ask(replica, True) for replica in replicas))

    async def _ask(self, replica: LiveReplica, is_due: bool) -> None:
        said = await replica.server.probe()
        is_new = bool(replica.probe_said)
        is_asked = not said and (is_due or is_new)
        lists = await replica.server.lists() if is_asked else ()
        if is_asked:
            self._learn(replica, lists, is_new)
        for model, binding in self._served_by(replica) if lists else ():
            self._look_up(replica, model, binding, lists)
        self._heard(replica, said, asyncio.get_running_loop().time())
        if is_asked and (is_new or b"" in replica.about):  # only now: the probe's word may not wait until it is old
            replica.about = await replica.server.about()
            self._learn(replica, lists, is_new)

    def _served_by(self, replica: LiveReplica) -> Iterator[tuple[LiveModel, Binding]]:
        for model in self._fleet.models.values():
            for binding in model.bindings.values():
                if replica in binding.backend.replicas:
                    yield model, binding

    def _heard(self, replica: LiveReplica, said: str, now_s: float) -> None:
        if said != replica.probe_said:
            log.info("%s: %s", replica.url, said or "well")
        is_first = replica.probed_at_s is None
        replica.probed_at_s = now_s
        replica.probe_said = said
        for name, health in replica.health.items():
            if not said:
                health.probe_succeeded(now_s)
                continue
            health.probe_failed(now_s)
            model = self._fleet.models.get(name)  # gone from the file while this was asked
            if is_first and model is not None and model.may_eject_one():
                health.keep_out(now_s, "its first health probe failed")  # `said` may name addresses; it is in the log
                model.count_unwell(now_s)

    def _learn(self, replica: LiveReplica, lists: tuple[bytes, ...], is_new: bool) -> None:
        """Take what the server says of itself; one that was away may be another, so what earlier answers showed is forgotten.

        Where a list did not come, what is known stays: a model that sees must not go blind by a probe that was late.
        """
        if b"" in lists:
            return
        for model, binding in self._served_by(replica):
            said = replica.server.dialect.abilities(
                (*lists, *replica.about), binding.plain_name, self._fleet.pass_paths
            )
            is_changed = binding.abilities.heard(binding.backend.replicas.index(replica), said)
            if is_new and binding.abilities.missing:
                binding.abilities.forget(math.inf)
                is_changed = True
            if is_changed:
                model.note_abilities()

    def _look_up(self, replica: LiveReplica, model: LiveModel, binding: Binding, lists: tuple[bytes, ...]) -> None:
        """Act on what the lists say of one model: before the probe's word, which may bring its one call forward."""
        presence = replica.server.dialect.presence(lists, binding.plain_name)
        if presence is Presence.UNKNOWN:
            return
        now_s = asyncio.get_running_loop().time()
        health = replica.health[model.name]
        lacks = _LACKS.get(presence, "")
        if lacks != replica.lacks.get(model.name, ""):
            _tell(model, replica, binding, presence)
        replica.lacks.pop(model.name, None)
        if lacks:
            replica.lacks[model.name] = lacks
        if presence is Presence.MISSING:
            if health.state is not State.IN_ROTATION or model.may_eject_one():
                health.hold_out(now_s, lacks)
        else:
            health.let_go(now_s, "the backend lists the model again")
            if presence is Presence.NOT_LOADED and model.may_eject_one():
                health.keep_out(now_s, lacks)
        model.count_unwell(now_s)


def _tell(model: LiveModel, replica: LiveReplica, binding: Binding, presence: Presence) -> None:
    """Once for each change; the backend's own names come from the configuration."""
    where = (model.name, replica.url, binding.plain_name, binding.backend.name)
    if presence is Presence.MISSING:
        log.error(
            "%s on %s: the server does not list the model %r of backend %s; load it there, or mend its name under models.%s.on",
            *where,
            model.name,
        )
    elif presence is Presence.NOT_LOADED:
        log.warning("%s on %s: the model %r of backend %s is not loaded; the next call loads it", *where)
    else:
        log.info("%s on %s: the model %r of backend %s is there", *where)
