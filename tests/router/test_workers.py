"""Four workers are one router: they serve together, keep to the same limits, and answer as one; whichever of them is killed, it goes on."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
import pytest_asyncio

from tests.serving import RunningRouter
from tests.upstream import Upstream
from tests.workers import Crowd, all_up, chat, metrics, pids, workers

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLOTS, DOOR, AT_ONCE, A_MINUTE = 4, 7, 3, 5
KEYS = {"PAIRS": "pair,pair2", "RATED": "rated,rated2", "JOBS": "job", "KEYS": "anybody"}


@dataclass
class Four:
    """A router of four workers, and what its two backends see: `slotted` has four slots, `open` as many as are asked for."""

    router: RunningRouter
    slotted: Crowd
    open: Crowd
    client: httpx.AsyncClient

    async def answers(self, count: int, key: str = "anybody", model: str = "open") -> list[int]:
        """The statuses of so many calls at once, each on a connection of its own."""
        said = await asyncio.gather(*(chat(self.client, key, model=model) for _ in range(count)))
        return [each.status_code for each in said]

    async def count(self, name: str, labels: str) -> float:
        """A number of /metrics; 0 where nothing was counted yet."""
        return (await metrics(self.router)).get(name, {}).get(labels, 0.0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def router() -> AsyncIterator[Four]:
    slotted, free = Crowd(), Crowd()
    async with Upstream(slotted) as a, Upstream(free) as b:
        config = {
            "server": {
                "keys_env": "KEYS",
                "max_in_flight": DOOR,
                "queue_wait_s": 60,  # a worker judges by its own queue how long waiting takes; that is not what is tested here
                "clients": [
                    {"key_env": "PAIRS", "max_in_flight": AT_ONCE},
                    {"key_env": "RATED", "calls_per_min": A_MINUTE},
                    {"key_env": "JOBS", "priority": "batch"},
                ],
            },
            "backends": {
                "slotted": {"kind": "vllm", "url": a.url, "max_in_flight": SLOTS},
                "open": {"kind": "vllm", "url": b.url},
            },
            "models": {name: {"on": {name: "real"}, "split": {name: 1.0}} for name in ("slotted", "open")},
        }
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with (
            workers(config, env=KEYS) as router,
            httpx.AsyncClient(base_url=router.url, timeout=30, limits=limits) as client,
        ):
            yield Four(router, slotted, free, client)


@pytest_asyncio.fixture(loop_scope="module")
async def four(router: Four) -> Four:
    """The router at rest, its backends as before the first call."""
    for crowd in (router.slotted, router.open):
        crowd.reset()
    return router


async def test_all_four_serve_and_whoever_is_asked_answers_for_all(four: Four) -> None:
    four.open.stays_s = 0.0
    label = 'backend="open",model="open",result="ok"'
    before = await four.count("crossfade_calls_total", label)
    assert set(await four.answers(60)) == {200}
    seen = [await metrics(four.router) for _ in range(8)]
    assert {each["crossfade_calls_total"][label] - before for each in seen} == {60.0}
    assert {each["crossfade_call_seconds_count"]['backend="open",model="open"'] - before for each in seen} == {60.0}
    assert seen[0]["crossfade_limit"]['backend="",queue="router"'] == DOOR, "a limit of all is not added up"
    there = await pids(four.router)
    assert len(set(there)) == 4 and four.router.pid not in there


@pytest.mark.parametrize(("model", "limit"), [("slotted", SLOTS), ("open", DOOR)])
async def test_no_more_calls_run_at_once_than_one_process_would_let(four: Four, model: str, limit: int) -> None:
    crowd = four.slotted if model == "slotted" else four.open
    crowd.stays_s = 0.02
    assert set(await four.answers(80, model=model)) == {200}
    assert crowd.most == limit, "all of them, and not one more"


async def test_a_keys_calls_at_once_are_counted_whichever_worker_they_come_to(four: Four) -> None:
    running = [asyncio.create_task(chat(four.client, key, model="open")) for key in ("pair", "pair2", "pair")]
    await four.open.until(AT_ONCE)
    assert await four.answers(12, "pair2") == [429] * 12
    four.open.let_go.set()
    assert {each.status_code for each in await asyncio.gather(*running)} == {200}
    assert await four.answers(1, "pair") == [200]


async def test_of_calls_that_come_together_a_key_gets_exactly_as_many_as_it_may(four: Four) -> None:
    calls = [asyncio.create_task(chat(four.client, "pair", model="open")) for _ in range(20)]
    await four.open.until(AT_ONCE)
    refused, running = await asyncio.wait(calls, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    while len(refused) < 20 - AT_ONCE:
        done, running = await asyncio.wait(running, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        refused |= done
    assert {call.result().status_code for call in refused} == {429}
    four.open.let_go.set()
    assert [(await call).status_code for call in running] == [200] * AT_ONCE


async def test_a_keys_calls_of_a_minute_are_counted_whichever_worker_they_come_to(four: Four) -> None:
    four.open.stays_s = 0.0
    said = [*await four.answers(12, "rated"), *await four.answers(4, "rated2")]
    assert sorted(said) == [200] * A_MINUTE + [429] * (16 - A_MINUTE)


async def test_a_person_goes_before_the_jobs_that_wait_whichever_worker_they_wait_in(four: Four) -> None:
    running = [asyncio.create_task(chat(four.client, "anybody", model="slotted")) for _ in range(SLOTS)]
    await four.slotted.until(SLOTS)
    jobs = [asyncio.create_task(chat(four.client, "job", model="slotted")) for _ in range(2)]
    await queued(four, "batch", 2)
    person = asyncio.create_task(chat(four.client, "anybody", model="slotted"))
    await queued(four, "interactive", 1)
    four.slotted.let_one_go()
    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    await four.slotted.until(SLOTS)
    assert (await four.count("crossfade_queue_length", 'backend="slotted",priority="batch",queue="backend"')) == 2
    four.slotted.let_go.set()
    assert {each.status_code for each in await asyncio.gather(*running, *jobs, person)} == {200}


async def queued(four: Four, priority: str, count: int) -> None:
    """Wait until so many calls of a class wait for a slot."""
    async with asyncio.timeout(10):
        while (
            await four.count("crossfade_queue_length", f'backend="slotted",priority="{priority}",queue="backend"')
            != count
        ):
            await asyncio.sleep(0.01)


async def test_a_worker_that_stands_still_keeps_nobody_from_its_numbers(four: Four) -> None:
    four.open.stays_s = 0.0
    await four.answers(20)
    before = await metrics(four.router)
    stopped = (await pids(four.router))[2]
    os.kill(stopped, signal.SIGSTOP)
    try:
        async with asyncio.timeout(20):
            while True:  # a connection that the stopped one accepts is answered when it goes on
                try:
                    found = await metrics(four.router, timeout_s=3)
                    break
                except httpx.TimeoutException:
                    continue
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert found["crossfade_worker_up"]['worker="2"'] == 0 and sum(found["crossfade_worker_up"].values()) == 3
    assert found["crossfade_calls_total"] == before["crossfade_calls_total"], "what it counted is not lost"
    await all_up(four.router)


async def test_a_worker_that_is_killed_under_load_costs_no_call_but_those_that_ran_in_it(four: Four) -> None:
    four.open.stays_s = 0.02
    assert set(await four.answers(20)) == {200}
    before = await metrics(four.router)
    victim = (await pids(four.router))[1]
    lost: list[str] = []
    is_over = asyncio.Event()

    async def caller() -> None:
        while not is_over.is_set():
            try:
                said = await chat(four.client, "anybody", model="open")
                assert said.status_code == 200, said.text
            except httpx.TransportError as exc:
                lost.append(type(exc).__name__)

    callers = [asyncio.create_task(caller()) for _ in range(20)]
    await four.open.until_came(four.open.came + 40)
    assert four.open.most <= DOOR  # after the kill the backend may hear of its calls' end later than of the next ones
    os.kill(victim, signal.SIGKILL)
    await four.open.until_came(four.open.came + 100)
    is_over.set()
    await asyncio.gather(*callers)
    assert "ConnectError" not in lost, "no connection is refused"
    assert len(lost) <= 20, "each caller at most the one that it had there"
    await all_up(four.router)
    after = await metrics(four.router)
    assert (await pids(four.router))[1] != victim
    label = 'worker="1"'
    assert after["crossfade_worker_restarts_total"][label] == before["crossfade_worker_restarts_total"][label] + 1
    ok = 'backend="open",model="open",result="ok"'
    assert after["crossfade_calls_total"][ok] >= before["crossfade_calls_total"][ok], "what was told once is never less"
    assert after["crossfade_inside"]['backend="",queue="router"'] == 0
    assert f"worker 1 (pid {victim}) ended with SIGKILL; it is started anew at once" in four.router.log()


async def test_the_places_of_those_that_were_killed_are_free_again(four: Four) -> None:
    running = [asyncio.create_task(chat(four.client, "anybody", model="slotted")) for _ in range(SLOTS)]
    await four.slotted.until(SLOTS)
    for pid in await pids(four.router):
        os.kill(pid, signal.SIGKILL)
    lost = await asyncio.gather(*running, return_exceptions=True)
    assert all(isinstance(each, httpx.TransportError) for each in lost)
    await four.slotted.until(0)
    four.slotted.let_go.set()
    assert set(await four.answers(8, model="slotted")) == {200}, "who comes while nobody is there waits"
    assert four.slotted.most == SLOTS
    await all_up(four.router)
    assert await four.count("crossfade_inside", 'backend="slotted",queue="backend"') == 0
