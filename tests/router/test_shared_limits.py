"""Limits over workers, with two of them in one loop: the sum holds, queues are served in one order, and nobody holds up another."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.admission import Priority
from router.building import build_fleet
from router.clients import Quota
from router.config import ClientKeys, loads
from router.faults import CallFailed
from router.fleet import LiveBackend
from router.gate import Gate, GateFull
from router.shared import Shared
from router.shared_limits import Bells, SharedLimits

FOREVER_S = 1e9
PERSON, JOB = Priority.INTERACTIVE, Priority.BATCH


class Pair:
    """The limits of two workers, which hear each other's bells while a loop runs."""

    def __init__(self) -> None:
        self.shared = Shared.made(2)
        self.pipes = [os.pipe2(os.O_NONBLOCK) for _ in range(2)]
        rings = [write for _, write in self.pipes]
        self.views = [Shared(self.shared.descriptor, 2, me) for me in range(2)]
        self.bells = [Bells(hears, rings) for hears, _ in self.pipes]
        self.limits = [SharedLimits(*each) for each in zip(self.views, self.bells, strict=True)]

    def gates(self, limit: int, queue_size: int = 100) -> list[Gate]:
        """The same gate, in both workers."""
        for bells in self.bells:
            asyncio.get_running_loop().add_reader(bells.hears, bells.heard)
        return [limits.gate("door", limit, queue_size, FOREVER_S) for limits in self.limits]

    def close(self) -> None:
        """Let go of what the kernel lent."""
        for pipe in self.pipes:
            for end in pipe:
                os.close(end)
        for view in (self.shared, *self.views):
            view.words.release()
        os.close(self.shared.descriptor)


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


async def settled() -> None:
    """Let bells ring and whoever was let in go on."""
    for _ in range(8):
        await asyncio.sleep(0)


async def waits(gate: Gate, priority: Priority = PERSON) -> asyncio.Task[None]:
    """A call that stands in the queue now."""
    before = gate.waiting
    task = asyncio.create_task(gate.enter(FOREVER_S, priority))
    await asyncio.sleep(0.001)  # a tick of the clock, so that nobody comes at the same instant
    assert gate.waiting == before + 1
    return task


async def test_a_place_that_one_worker_gave_is_none_for_the_other(pair: Pair) -> None:
    one, other = pair.gates(2)
    assert one.try_enter() and other.try_enter()
    assert not one.try_enter() and not other.try_enter()
    assert not other.has_room(PERSON, 0.0)
    one.leave()
    assert other.has_room(PERSON, 0.0)
    assert other.try_enter() and not one.try_enter()


async def test_whoever_waits_in_another_worker_is_let_in_at_once(pair: Pair) -> None:
    one, other = pair.gates(1)
    assert one.try_enter()
    task = await waits(other)
    one.leave()
    await settled()
    assert task.done(), "the bell rang; it was not the look every now and then"


async def test_both_queues_are_one_by_class_and_then_by_arrival(pair: Pair) -> None:
    one, other = pair.gates(1)
    assert one.try_enter()
    came = [
        await waits(gate, priority) for gate, priority in ((one, JOB), (other, PERSON), (one, PERSON), (other, JOB))
    ]
    holder = one
    for index, gate in ((1, other), (2, one), (0, one), (3, other)):
        holder.leave()
        await settled()
        assert [task.done() for task in came].count(True) == [1, 2, 0, 3].index(index) + 1
        assert came[index].done()
        holder = gate


async def test_nobody_who_comes_passes_those_that_wait_elsewhere(pair: Pair) -> None:
    one, other = pair.gates(1)
    assert one.try_enter()
    await waits(other)
    one.leave()
    assert not one.try_enter() and not one.has_room(PERSON, asyncio.get_running_loop().time())
    await settled()
    assert other.inside == 1


async def test_a_person_passes_the_jobs_that_wait_elsewhere(pair: Pair) -> None:
    one, other = pair.gates(2)
    assert one.try_enter() and one.try_enter()
    await waits(other, JOB)
    one.leave()
    assert one.enters(PERSON, asyncio.get_running_loop().time())


async def test_a_worker_that_does_not_tend_its_queue_holds_up_nobody(pair: Pair) -> None:
    one, _ = pair.gates(1)
    stopped = pair.views[1].counter("gate door")
    stopped.stands_first(1)
    stopped.shared.beat()
    task = asyncio.create_task(one.enter(FOREVER_S))
    await settled()
    assert not task.done(), "it has been at work just now, and its first came before"
    await asyncio.wait_for(task, 5)


async def test_the_places_of_a_worker_that_died_are_given_to_those_who_wait(pair: Pair) -> None:
    one, other = pair.gates(1)
    assert one.try_enter()
    task = await waits(other)
    pair.shared.clear(0)  # and nobody rings
    await asyncio.wait_for(task, 5)


async def test_a_queue_is_divided_among_the_workers(pair: Pair) -> None:
    one, other = pair.gates(1, queue_size=2)
    assert one.try_enter()
    for gate in (one, other):
        await waits(gate)
        with pytest.raises(GateFull, match="queue_full"):
            await asyncio.wait_for(gate.enter(FOREVER_S), 1)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["enter", "enter", "try", "leave", "cancel", "cancel and leave"]),
        st.integers(0, 1),
        st.sampled_from(list(Priority)),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(limit=st.integers(1, 3), steps=STEPS)
def test_whatever_two_workers_do_the_sum_holds_and_no_place_is_lost(
    limit: int, steps: list[tuple[str, int, Priority]]
) -> None:
    asyncio.run(_play(limit, steps))


async def _play(limit: int, steps: list[tuple[str, int, Priority]]) -> None:
    pair = Pair()
    gates = pair.gates(limit)
    tasks: list[list[asyncio.Task[None]]] = [[], []]
    inside = [0, 0]
    try:
        for step, worker, priority in steps:
            gate, mine = gates[worker], tasks[worker]
            if step == "enter":
                mine.append(asyncio.create_task(gate.enter(FOREVER_S, priority)))
            elif step == "try":
                inside[worker] += gate.try_enter()
            if step.startswith("cancel") and mine:
                mine.pop(0).cancel()
            if step.endswith("leave") and inside[worker]:
                inside[worker] -= 1
                gate.leave()  # to one, perhaps, who has been cancelled and does not know it yet
            await settled()
            for number, waiting in enumerate(tasks):
                inside[number] += sum(task.done() and not task.cancelled() for task in waiting)
                waiting[:] = [task for task in waiting if not task.done()]
            assert [each.inside for each in gates] == inside
            assert sum(inside) <= limit
            assert sum(inside) == limit or not any(waiting for waiting in tasks), "room, and somebody waits"
        counter = pair.shared.counter("gate door")
        assert counter.total() == sum(inside)
    finally:
        for task in (*tasks[0], *tasks[1]):
            task.cancel()
        await settled()
        for bells in pair.bells:
            asyncio.get_running_loop().remove_reader(bells.hears)
        pair.close()


def quotas(pair: Pair, **limits: int) -> list[Quota]:
    group = ClientKeys(key_env="JOBS", **limits)  # type: ignore[arg-type]
    return [each.quota(group, 0.0) for each in pair.limits]


def test_the_calls_at_once_of_a_key_are_counted_over_all_workers(pair: Pair) -> None:
    one, other = quotas(pair, max_in_flight=3)
    one.begin(0.0)
    other.begin(0.0)
    one.begin(0.0)
    for each in (one, other):
        with pytest.raises(CallFailed) as refused:
            each.begin(0.0)
        assert refused.value.fault.status == 429
    one.end()
    other.begin(0.0)


def test_the_calls_of_a_minute_of_a_key_come_from_one_bucket(pair: Pair) -> None:
    one, other = quotas(pair, calls_per_min=3)
    for each in (one, other, one):
        each.begin(1000.0)
    with pytest.raises(CallFailed) as refused:
        other.begin(1000.0)
    assert refused.value.fault.retry_after_s == 20
    other.begin(1020.0)
    with pytest.raises(CallFailed):
        one.begin(1020.0)


def test_a_call_too_many_in_a_minute_takes_no_place(pair: Pair) -> None:
    one, other = quotas(pair, max_in_flight=2, calls_per_min=1)
    one.begin(1000.0)
    with pytest.raises(CallFailed):
        other.begin(1000.0)
    other.begin(1060.0)


REPLICAS = """
backends:
  a: {kind: vllm, urls: ["http://127.0.0.1:9", "http://127.0.0.1:10"], max_in_flight: 2}
models:
  jane: {on: {a: real}, split: {a: 1.0}}
"""


def begin(backend: LiveBackend) -> str | None:
    """As an attempt does; None: no place."""
    if not backend.gate.try_enter():
        return None
    replica = backend.pick("jane", 0.0, random.Random(1))
    replica.in_flight += 1
    return replica.url


async def test_no_replica_has_more_calls_than_slots_whichever_workers_send_them(pair: Pair) -> None:
    config = loads(REPLICAS, {}).config
    fleets = [build_fleet(config, {}, random.Random(seed), each) for seed, each in enumerate(pair.limits)]
    one, other = (fleet.backends["a"] for fleet in fleets)
    first, second = one.replicas
    assert sorted(str(begin(other)) for _ in range(4)) == sorted([first.url, second.url] * 2)
    assert begin(one) is None and begin(other) is None
    for _ in range(2):
        other.replicas[1].in_flight -= 1
        other.gate.leave()
    assert [begin(one), begin(one)] == [second.url, second.url], "the other has two already"
    assert begin(one) is None and begin(other) is None


async def test_what_others_run_on_a_replica_that_is_out_here_takes_no_place_of_the_rest(pair: Pair) -> None:
    config = loads(REPLICAS, {}).config
    one, other = (build_fleet(config, {}, random.Random(1), each).backends["a"] for each in pair.limits)
    bad, good = one.replicas
    assert {begin(other) for _ in range(2)} == {bad.url, good.url}
    bad.health["jane"].keep_out(0.0, "it is down, as this worker sees it")
    one.fit(0.0)
    assert one.gate.limit == 2
    now_s = asyncio.get_running_loop().time()
    assert one.gate.enters(PERSON, now_s), "one slot of the good one is free"
    assert one.pick("jane", 0.0, random.Random(1)) is good
    good.in_flight += 1
    assert not one.gate.enters(PERSON, now_s)
