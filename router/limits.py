"""What limits are made of where a router is one process: its own counts are all that there are."""

from __future__ import annotations

from router.clients import Quota
from router.config import ClientKeys
from router.fleet import LiveBackend, LiveReplica
from router.gate import Gate


class Limits:
    """Makes what counts; `router.shared_limits` makes what counts over several workers.

    `is_shared`: two objects made by the same name count as one, so that what is rebuilt may have new ones.
    """

    is_shared = False

    def gate(self, name: str, limit: int, queue_size: int, queue_wait_s: float) -> Gate:
        """The gate `name` to `limit` places."""
        return Gate(limit, queue_size, queue_wait_s)

    def quota(self, group: ClientKeys, now_s: float) -> Quota:
        """What a group of clients may have running and begin."""
        return Quota(group.max_in_flight, group.calls_per_min, now_s)

    def backend(self, name: str, kind: str, replicas: list[LiveReplica], gate: Gate, slots: int) -> LiveBackend:
        """A backend each of whose replicas has `slots`, behind its gate."""
        return LiveBackend(name, kind, replicas, gate, slots)


OWN = Limits()
