"""Room at the backends: limits follow the replicas in rotation, calls wait at their own or move on, a fallback is not crushed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from policies.admission import KEPT_FREE_FROM_S
from policies.ejection import State
from router.building import build_fleet
from router.config import loads
from router.fleet import Fleet, LiveReplica
from tests.running import Router, config_for, running
from tests.upstream import Connection, Received, Upstream, answer, says, sends

REPLICAS = """
backends: {a: {kind: vllm, urls: ["http://127.0.0.1:1", "http://127.0.0.1:2"], max_in_flight: 4}}
models: {jane: {on: {a: x}, split: {a: 1.0}}, kim: {on: {a: y}, split: {a: 1.0}}}
"""
NOW_S = 1000.0


def two_replicas() -> tuple[Fleet, LiveReplica, LiveReplica]:
    """One backend, two replicas with four slots each, two models on both."""
    fleet = build_fleet(loads(REPLICAS, {}).config, {}, random.Random(1))
    one, other = fleet.backends["a"].replicas
    return fleet, one, other


def trip(fleet: Fleet, replica: LiveReplica, model: str, now_s: float = NOW_S) -> None:
    for _ in range(5):
        replica.health[model].failed(now_s)
    assert replica.health[model].state is State.EJECTED
    fleet.models[model].count_unwell(now_s)


def test_the_limit_is_that_of_the_replicas_in_rotation() -> None:
    fleet, one, _ = two_replicas()
    gate = fleet.backends["a"].gate
    assert gate.limit == 8
    trip(fleet, one, "jane")
    assert gate.limit == 8, "it still takes the other model's calls"
    trip(fleet, one, "kim")
    assert gate.limit == 4


def test_calls_that_hang_on_an_ejected_replica_take_no_slot_of_the_other() -> None:
    fleet, one, _ = two_replicas()
    backend = fleet.backends["a"]
    one.in_flight = 3
    trip(fleet, one, "jane")
    trip(fleet, one, "kim")
    assert backend.gate.limit == 4 + 3
    one.in_flight = 1
    backend.fit(NOW_S)
    assert backend.gate.limit == 4 + 1


def test_with_nobody_in_rotation_all_are_the_last_resort_and_all_slots_count() -> None:
    fleet, *replicas = two_replicas()
    for replica in replicas:
        for model in fleet.models:
            trip(fleet, replica, model)
    assert fleet.backends["a"].gate.limit == 8


def test_a_replica_that_comes_back_gets_its_slots_one_after_the_other() -> None:
    fleet, one, other = two_replicas()
    backend, model = fleet.backends["a"], fleet.models["jane"]
    for name in fleet.models:
        trip(fleet, one, name)
    back_s = NOW_S + 10
    for name in fleet.models:
        assert one.health[name].may_take(back_s)
        one.health[name].succeeded(back_s)
        fleet.models[name].count_unwell(back_s)
    assert backend.gate.limit == 4 + 1
    other.in_flight, one.in_flight = 4, 0
    assert backend.pick("jane", back_s, fleet.rng) is one, "the other has no slot free, however little this one weighs"
    backend.fit(back_s + 5)
    assert backend.gate.limit == 4 + 2
    model.snapshot(back_s + 100)
    assert backend.gate.limit == 8


@dataclass
class Slots:
    """A backend that counts who is inside, and holds everybody until `free` is set."""

    arrived: asyncio.Queue[None] = field(default_factory=asyncio.Queue)
    free: asyncio.Event = field(default_factory=asyncio.Event)
    inside: int = 0
    most: int = 0

    async def __call__(self, request: Received, connection: Connection) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.arrived.put_nowait(None)
        try:
            await self.free.wait()
        finally:
            self.inside -= 1
        await says("x")(request, connection)


def limited(config: str, url: str, slots: int = 1) -> str:
    return config.replace(f"kind: vllm, url: {url}", f"kind: vllm, max_in_flight: {slots}, url: {url}")


@asynccontextmanager
async def two_backends(
    *, limit_b: int | None = None, server: str = "", wait_s: float = 1.0
) -> AsyncIterator[tuple[Router, Slots, Slots]]:
    """`jane` goes to a, which has one slot, and then to b."""
    a, b = Slots(), Slots()
    async with Upstream(a) as at_a, Upstream(b) as at_b:
        model = f"split: {{a: 1.0}}\nretry: {{retry_after_wait_s: {wait_s}}}"
        config = limited(config_for({"a": at_a.url, "b": at_b.url}, model, server), at_a.url)
        if limit_b is not None:
            config = limited(config, at_b.url, limit_b)
        async with running(config) as router:
            yield router, a, b


async def until_waiting(router: Router, backend: str, count: int) -> None:
    """Until so many stand in the backend's queue."""
    line = f'crossfade_queue_length{{backend="{backend}",priority="interactive",queue="backend"}} {count}.0'
    async with asyncio.timeout(5):
        while line not in (await router.client.get("/metrics")).text:
            await asyncio.sleep(0.01)


async def test_a_call_waits_briefly_at_its_own_backend_before_it_moves() -> None:
    async with two_backends(wait_s=5.0) as (router, a, b):
        first = asyncio.create_task(router.chat())
        await a.arrived.get()
        second = asyncio.create_task(router.chat())
        await until_waiting(router, "a", 1)
        a.free.set()
        answers = [await first, await second]
    assert [each.headers["x-crossfade-backend"] for each in answers] == ["a", "a"]
    assert b.most == 0


async def test_a_call_moves_to_a_backend_with_room_after_the_wait_that_a_refusing_one_gets() -> None:
    async with two_backends(wait_s=0.05) as (router, a, b):
        b.free.set()
        first = asyncio.create_task(router.chat())
        await a.arrived.get()
        second = await router.chat()
        a.free.set()
        await first
    assert second.headers["x-crossfade-backend"] == "b" and second.headers["x-crossfade-attempts"] == "1"


async def test_a_call_stays_in_line_where_no_other_backend_has_room() -> None:
    async with two_backends(limit_b=1, wait_s=0.05) as (router, a, b):
        calls = [asyncio.create_task(router.chat())]
        await a.arrived.get()
        calls.append(asyncio.create_task(router.chat()))
        await b.arrived.get()
        last = asyncio.create_task(router.chat())
        await until_waiting(router, "a", 1)
        a.free.set()
        assert (await last).headers["x-crossfade-backend"] == "a"
        b.free.set()
        assert {(await each).status_code for each in calls} == {200}


async def test_a_fallback_takes_what_it_can_of_a_failed_backends_calls_and_the_rest_is_refused_quickly() -> None:
    b = Slots()
    async with Upstream(sends(answer({"error": "x"}, "503 No"))) as at_a, Upstream(b) as at_b:
        config = config_for({"a": at_a.url, "b": at_b.url}, server="queue_size: 3")
        async with running(limited(config, at_b.url, 2)) as router:
            calls = [asyncio.create_task(router.chat()) for _ in range(20)]
            async with asyncio.timeout(5):
                while sum(each.done() for each in calls) < 15:
                    await asyncio.sleep(0.005)
            refused = [each.result() for each in calls if each.done()]
            for _ in range(2):
                await b.arrived.get()
            b.free.set()
            served = [await each for each in calls if not each.done()]
    assert b.most == 2
    assert len(refused) == 15 and {each.status_code for each in served} == {200}
    for each in refused:
        assert each.status_code == 503 and each.json()["error"]["code"] == "overloaded"
        assert 1 <= int(each.headers["retry-after"]) <= 60
        assert "x-should-retry" not in each.headers, "coming back when told is all that helps, and nobody was asked"


async def test_a_full_backend_is_not_waited_out_and_takes_nothing_of_the_retry_budget() -> None:
    async with two_backends(server="queue_size: 0", limit_b=1) as (router, a, b):
        calls = [asyncio.create_task(router.chat())]
        await a.arrived.get()
        calls.append(asyncio.create_task(router.chat()))
        await b.arrived.get()
        refused: httpx.Response = await router.chat(headers={"x-crossfade-explain": "1"})
        metrics = (await router.client.get("/metrics")).text
        a.free.set()
        b.free.set()
        await asyncio.gather(*calls)
    assert refused.status_code == 503
    assert refused.headers["x-crossfade-trail"].count("refused") == 2, "each backend is tried once"
    assert 'reason="same_backend"' not in metrics and 'reason="retry_after"' not in metrics


@pytest.mark.parametrize("where", ["router", "backend"])
async def test_a_person_goes_before_a_batch_and_takes_its_place_in_a_full_queue(where: str) -> None:
    a = Slots()
    async with Upstream(a) as at_a:
        limits = "queue_size: 1" + ("\nmax_in_flight: 1" if where == "router" else "")
        config = config_for({"a": at_a.url}, server=limits)
        async with running(config if where == "router" else limited(config, at_a.url)) as router:
            first = asyncio.create_task(router.chat())
            await a.arrived.get()
            batch = asyncio.create_task(router.chat(headers={"x-crossfade-priority": "batch"}))
            await until_queued(router, where, "batch")
            person = asyncio.create_task(router.chat())
            displaced = await batch
            a.free.set()
            assert (await first).status_code == (await person).status_code == 200
            metrics = (await router.client.get("/metrics")).text
    assert displaced.status_code == 503 and 1 <= int(displaced.headers["retry-after"]) <= 60
    backend = "" if where == "router" else "a"
    labels = f'backend="{backend}",priority="batch",queue="{where}",reason="displaced"'
    assert f"crossfade_queue_refused_total{{{labels}}} 1.0" in metrics


async def test_the_limit_shrinks_as_the_calls_end_that_an_ejected_replica_still_had() -> None:
    held, free = asyncio.Event(), asyncio.Event()

    async def holds_one_and_fails_the_rest(request: Received, connection: Connection) -> None:
        if held.is_set():
            await sends(answer({"error": "x"}, "500 Oh"))(request, connection)
            return
        held.set()
        await free.wait()
        await says("late")(request, connection)

    async with Upstream(holds_one_and_fails_the_rest) as one, Upstream(says("x")) as other:
        config = config_for({"a": "http://127.0.0.1:1"}, "split: {a: 1.0}\neject: {consecutive_failures: 1}")
        config = config.replace("url: http://127.0.0.1:1", f"max_in_flight: 2, urls: ['{one.url}', '{other.url}']")
        async with running(config) as router:
            calls = [asyncio.create_task(router.chat())]
            while not held.is_set():  # both are idle, and chance decides
                calls.append(asyncio.create_task(router.chat()))
                await asyncio.sleep(0.005)
            while await limit_of(router) == 4:
                await asyncio.gather(router.chat(), router.chat())
            assert await limit_of(router) == 2 + 1
            free.set()
            await asyncio.gather(*calls)
            assert await limit_of(router) == 2


async def limit_of(router: Router) -> int:
    text = (await router.client.get("/metrics")).text
    return int(float(text.partition('crossfade_limit{backend="a",queue="backend"} ')[2].partition("\n")[0]))


@pytest.mark.parametrize("where", ["router", "backend"])
async def test_a_batch_leaves_a_place_free_after_a_person_had_to_wait_for_one(where: str) -> None:
    held: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    async def holds(request: Received, connection: Connection) -> None:
        free = asyncio.Event()
        held.put_nowait(free)
        await free.wait()
        await says("x")(request, connection)

    async with Upstream(holds) as a:
        config = config_for({"a": a.url}, server="max_in_flight: 2" if where == "router" else "")
        async with running(config if where == "router" else limited(config, a.url, 2)) as router:
            jobs = [asyncio.create_task(router.chat(headers={"x-crossfade-priority": "batch"})) for _ in range(2)]
            one, other = await held.get(), await held.get()
            person = asyncio.create_task(router.chat())
            await until_queued(router, where, "interactive")
            await asyncio.sleep(1.2 * KEPT_FREE_FROM_S)  # a wait that a person notices
            one.set()
            (await held.get()).set()
            assert (await person).status_code == 200, "of two places one is free now"
            jobs.append(asyncio.create_task(router.chat(headers={"x-crossfade-priority": "batch"})))
            await until_queued(router, where, "batch")
            person = asyncio.create_task(router.chat())
            (await held.get()).set()
            assert (await person).status_code == 200, "although a batch call came before it"
            other.set()
            (await held.get()).set()
            assert {(await each).status_code for each in jobs} == {200}


async def until_queued(router: Router, where: str, priority: str) -> None:
    """Until one of a class stands in the queue of the router, or of its backend."""
    async with asyncio.timeout(5):
        while f'priority="{priority}",queue="{where}"}} 1.0' not in (await router.client.get("/metrics")).text:
            await asyncio.sleep(0.01)
