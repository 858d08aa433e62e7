"""The health monitor: asks every replica after its health, and lets one that was ejected back to its probing call as soon as it is well.

A probe is a GET, never inference. It can bring a replica back early and, before the first call, keep calls from one that is not
there yet; otherwise health follows the outcome of real calls alone.
"""

from __future__ import annotations

import asyncio
import logging

from router.fleet import Fleet, LiveReplica

EVERY_S = 2.0  # an engine that came back is used again within this time; Envoy's default interval for fast checks

log = logging.getLogger("crossfade.health")


class Monitor:
    """Probes in turn, one round every `every_s`; `run` it as a task and cancel it to stop."""

    def __init__(self, fleet: Fleet, every_s: float = EVERY_S):
        self._fleet = fleet
        self._every_s = every_s

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
        replicas = [replica for backend in self._fleet.backends.values() for replica in backend.replicas]
        answers = await asyncio.gather(*(replica.server.probe() for replica in replicas))
        for replica, said in zip(replicas, answers, strict=True):
            self._heard(replica, said)

    def _heard(self, replica: LiveReplica, said: str) -> None:
        if said != replica.probe_said:
            log.info("%s: %s", replica.url, said or "well")
        is_first = replica.probed_at_s is None
        now_s = replica.probed_at_s = asyncio.get_running_loop().time()
        replica.probe_said = said
        for name, health in replica.health.items():
            model = self._fleet.models[name]
            if not said:
                health.probe_succeeded(now_s)
                continue
            health.probe_failed(now_s)
            if is_first and model.may_eject_one():
                health.keep_out(now_s, "its first health probe failed")  # `said` may name addresses; it is in the log
                model.count_unwell(now_s)
