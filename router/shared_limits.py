"""Limits that hold over all workers: gates, quotas and backends that count what the other workers have taken, too.

    a gate      never more inside than its limit, in all workers together. Who waits is let in by class and in order of arrival, in all
                workers together: each shows who is first in its queue, and a worker lets its own in only where nobody elsewhere comes
                first. Whoever leaves rings at the worker whose turn it is. `queue_size` is divided among the workers.
    a quota     never more running than its limit, and one bucket for the calls of a minute
    a backend   of several replicas, each with its own slots: the least busy one is chosen by what all workers have running there

A worker that does not tend its queue is passed over: who stands first there holds up nobody.

What a worker keeps to itself: how fast its queues move, and so whom it turns away; and the slots that worse classes leave free.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Sequence
from weakref import WeakSet

from policies.admission import Priority, Refusal
from policies.quota import CallRate
from router.clients import Quota, begun_too_many, running_too_many
from router.config import ClientKeys
from router.fleet import LiveBackend, LiveReplica
from router.gate import Gate, Place
from router.limits import Limits
from router.shared import Counter, Part, Shared

LOOK_EVERY_S = 0.05  # for a place whose worker was killed: nobody rings then
TENDS_WITHIN_S = 0.25  # a worker that did not look for so long is stopped or overwhelmed
LOCKED_S = 1.0  # Retry-After's smallest step
_CLASS_BITS = 60  # microseconds of 36,000 years stand below the class


class Bells:
    """A pipe to each worker; a ring means that it may be its turn. `hears`: the end of this worker's own, `rings`: all the other ends."""

    def __init__(self, hears: int, rings: Sequence[int]):
        self.hears = hears
        self._rings = rings
        self.gates: WeakSet[SharedGate] = WeakSet()

    def ring(self, worker: int) -> None:
        """Let a worker look after its queues."""
        with contextlib.suppress(BlockingIOError):  # it has thousands to hear; one more says nothing new
            os.write(self._rings[worker], b"\0")

    def heard(self) -> None:
        """Somebody rang: let in who may."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.hears, 65536)
        for gate in list(self.gates):
            gate.look()


class SharedGate(Gate):
    """The gate of one worker to places that all workers share."""

    def __init__(self, limit: int, queue_size: int, queue_wait_s: float, *, counter: Counter, bells: Bells):
        super().__init__(limit, -(-queue_size // counter.shared.workers), queue_wait_s)
        self._counter = counter
        self._bells = bells
        self._part = Part(counter)
        self._first_elsewhere: tuple[int, int] | None = None  # key and worker
        self._next_look: asyncio.TimerHandle | None = None
        bells.gates.add(self)

    def requeue(self, queue_size: int, queue_wait_s: float) -> None:
        super().requeue(-(-queue_size // self._counter.shared.workers), queue_wait_s)

    def try_enter(self) -> bool:
        if self.is_timed or self._counter.anybody_waits() or not self._part.takes(self.limit):
            return False
        self.inside += 1
        return True

    def enters(self, priority: Priority, now_s: float) -> bool:
        with self._counter.lock as has_it:
            self._part.tell(self.inside + 1)
            is_in = has_it and super().enters(priority, now_s)
            self._part.tell(self.inside)
        return is_in

    def has_room(self, priority: Priority, now_s: float) -> bool:
        self._look_elsewhere()
        return super().has_room(priority, now_s)

    def stand(self, ticket: Place, priority: Priority, now_s: float) -> tuple[Place, Refusal] | None:
        displaced = super().stand(ticket, priority, now_s)
        self._show_first()
        if self._next_look is None:  # at once, for a place that became free since `enters`
            self._next_look = asyncio.get_running_loop().call_later(0, self.look)
        return displaced

    def step_out(self, ticket: Place) -> bool:
        did_wait = super().step_out(ticket)
        self._show_first()
        return did_wait

    def next_in(self, now_s: float) -> Place | None:
        with self._counter.lock as has_it:
            self._part.tell(self.inside + 1)
            self._look_elsewhere()
            ticket = super().next_in(now_s) if has_it and self._is_turn() else None
            self._part.tell(self.inside)
            self._show_first()
        return ticket

    def leave(self) -> None:
        self.inside -= 1
        self._part.tell(self.inside)
        if self.is_timed:
            self._let_in()
        self._ring()

    def look(self) -> None:
        """Let in who may come in now; and look again, as long as anybody waits."""
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        if not self.waiting:
            return
        self._counter.shared.beat()
        self._let_in()
        self._ring()
        if self.waiting:
            self._next_look = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self.look)

    def _ahead_of(self, priority: Priority) -> bool:
        elsewhere = self._first_elsewhere
        if elsewhere is not None and elsewhere[0] >> _CLASS_BITS <= priority + 1:
            return True
        return super()._ahead_of(priority)

    def _is_turn(self) -> bool:
        """Whether nobody of another worker comes before the first of this one."""
        first, elsewhere = self.first(), self._first_elsewhere
        if first is None or elsewhere is None:
            return True
        return (_key(*first), self._counter.shared.me) < elsewhere

    def _show_first(self) -> None:
        first = self.first()
        if first is not None:
            self._counter.shared.beat()
        self._counter.stands_first(0 if first is None else _key(*first))

    def _look_elsewhere(self) -> None:
        self.elsewhere = self._part.elsewhere()
        self._first_elsewhere = self._counter.first_elsewhere(TENDS_WITHIN_S)

    def _ring(self) -> None:
        """Where there is room, and somebody waits elsewhere, say so."""
        if self._counter.anybody_waits() and self._counter.total() < self.limit:
            first = self._counter.first_elsewhere(TENDS_WITHIN_S)
            if first is not None:
                self._bells.ring(first[1])


def _key(priority: Priority, since_s: float) -> int:
    """The smaller, the sooner its turn."""
    return (priority + 1 << _CLASS_BITS) + int(since_s * 1e6)


class ReplicasGate(SharedGate):
    """The gate of a backend of several replicas; what runs on each of them is told to the other workers before a place is free.

    What the others have running on replicas that are out of rotation here (`set_aside`) takes none of the places of those that are in.
    """

    running: Sequence[tuple[LiveReplica, Part]] = ()
    set_aside: Sequence[Part] = ()

    def leave(self) -> None:
        for replica, part in self.running:
            part.tell(replica.in_flight)
        super().leave()

    def _look_elsewhere(self) -> None:
        super()._look_elsewhere()
        self.elsewhere -= sum(part.elsewhere() for part in self.set_aside)


class SharedBackend(LiveBackend):
    """A backend of several replicas that all workers call."""

    __slots__ = ("_places", "_running")

    def __init__(self, name: str, kind: str, replicas: list[LiveReplica], gate: ReplicasGate, slots: int):
        super().__init__(name, kind, replicas, gate, slots)
        self._places = gate
        self._running = gate.running

    def fit(self, now_s: float) -> None:
        there = self.there()
        self._places.set_aside = [part for replica, part in self._running if replica not in there]
        super().fit(now_s)

    def pick(
        self, model: str, now_s: float, rng: random.Random, among: Sequence[LiveReplica] | None = None
    ) -> LiveReplica:
        with self._running[0][1].counter.lock:
            for replica, part in self._running:
                replica.elsewhere = part.elsewhere()
            chosen = super().pick(model, now_s, rng, among)
            for replica, part in self._running:
                if replica is chosen:
                    part.tell(replica.in_flight + 1)
        return chosen


class SharedQuota(Quota):
    """The quota of a group of clients, whichever worker they come to."""

    __slots__ = ("_counter", "_limit", "_per_min")

    def __init__(self, group: ClientKeys, counter: Counter):
        super().__init__(None, None, 0.0)
        self._limit = group.max_in_flight
        self._per_min = group.calls_per_min
        self._counter = counter

    def begin(self, now_s: float) -> None:
        if self._limit is not None and not self._counter.takes(self._limit):
            raise running_too_many()
        if self._per_min is not None and (wait_s := self._take(self._per_min, now_s)):
            if self._limit is not None:
                self._counter.add(-1)
            raise begun_too_many(wait_s)
        self.running += 1

    def end(self) -> None:
        self.running -= 1
        if self._limit is not None:
            self._counter.add(-1)

    def _take(self, per_min: int, now_s: float) -> float:
        """The one bucket of all workers: full when it is first seen."""
        state = self._counter.state
        rate = CallRate(per_min, now_s)
        with self._counter.lock as has_it:
            if not has_it:
                return LOCKED_S
            if state[1]:
                rate.amount, rate.at_us = state
            wait_s = rate.take(now_s)
            state[1] = (
                rate.at_us
            )  # first: a worker that is killed in between has taken time from the bucket, and not given any
            state[0] = rate.amount
        return wait_s


class SharedLimits(Limits):
    """Makes what counts over all workers, each limit by its name."""

    is_shared = True

    def __init__(self, shared: Shared, bells: Bells):
        self._shared = shared
        self._bells = bells

    def gate(self, name: str, limit: int, queue_size: int, queue_wait_s: float) -> Gate:
        return ReplicasGate(
            limit, queue_size, queue_wait_s, counter=self._shared.counter(f"gate {name}"), bells=self._bells
        )

    def quota(self, group: ClientKeys, now_s: float) -> Quota:
        return SharedQuota(group, self._shared.counter(f"clients {group.key_env}"))

    def backend(self, name: str, kind: str, replicas: list[LiveReplica], gate: Gate, slots: int) -> LiveBackend:
        if len(replicas) == 1 or not isinstance(gate, ReplicasGate):
            return super().backend(name, kind, replicas, gate, slots)
        gate.running = [(replica, Part(self._shared.counter(f"replica {name} {replica.url}"))) for replica in replicas]
        return SharedBackend(name, kind, replicas, gate, slots)
