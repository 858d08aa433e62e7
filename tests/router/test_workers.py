"""Several workers are one router: they serve together, keep to the same limits, are started anew, and stop in order."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import httpx
import pytest

from tests.serving import RunningRouter
from tests.upstream import Upstream, says
from tests.workers import Crowd, all_up, chat, is_there, metrics, pids, workers


def config_for(*urls: str, server: dict[str, Any] | None = None, **backend: Any) -> dict[str, Any]:
    """The model `jane` on one backend."""
    return {
        "server": {"keys_env": None, **(server or {})},
        "backends": {"a": {"kind": "vllm", "urls": list(urls), **backend}},
        "models": {"jane": {"on": {"a": "real"}, "split": {"a": 1.0}}},
    }


def client_of(router: RunningRouter) -> httpx.AsyncClient:
    """Every call has a connection of its own."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=router.url, timeout=30, limits=limits)


async def test_four_workers_serve_and_are_seen_as_one_router() -> None:
    async with Upstream(says("x")) as a, workers(config_for(a.url)) as router, client_of(router) as client:
        answers = await asyncio.gather(*(chat(client) for _ in range(60)))
        assert {each.status_code for each in answers} == {200}
        seen = [await metrics(router) for _ in range(8)]
        assert len(set(await pids(router))) == 4
        assert router.pid not in await pids(router)
    calls = [each["crossfade_calls_total"]['backend="a",model="jane",result="ok"'] for each in seen]
    assert set(calls) == {60.0}, "whichever worker is asked"
    assert set(seen[0]["crossfade_worker_restarts_total"].values()) == {0.0}


@pytest.mark.parametrize("limit", [1, 4])
async def test_a_backends_slots_are_those_of_all_workers_together(limit: int) -> None:
    crowd = Crowd(stays_s=0.02)
    async with (
        Upstream(crowd) as a,
        workers(config_for(a.url, max_in_flight=limit)) as router,
        client_of(router) as client,
    ):
        answers = await asyncio.gather(*(chat(client) for _ in range(80)))
    assert {each.status_code for each in answers} == {200}
    assert crowd.most == limit


async def test_the_routers_own_limit_is_that_of_all_workers_together() -> None:
    crowd = Crowd(stays_s=0.02)
    server = {"max_in_flight": 7}
    async with Upstream(crowd) as a, workers(config_for(a.url, server=server)) as router, client_of(router) as client:
        answers = await asyncio.gather(*(chat(client) for _ in range(80)))
    assert {each.status_code for each in answers} == {200}
    assert crowd.most == 7


async def test_a_worker_that_is_killed_is_started_anew_and_its_places_are_free_again() -> None:
    crowd = Crowd()
    async with (
        Upstream(crowd) as a,
        workers(config_for(a.url, max_in_flight=4)) as router,
        client_of(router) as client,
    ):
        running = [asyncio.create_task(chat(client)) for _ in range(4)]
        await crowd.until(4)
        for pid in await pids(router):
            os.kill(pid, signal.SIGKILL)
        lost = await asyncio.gather(*running, return_exceptions=True)
        assert all(isinstance(each, httpx.TransportError) for each in lost)
        crowd.let_go.set()
        answers = await asyncio.gather(*(chat(client) for _ in range(8)))
        assert {each.status_code for each in answers} == {200}, "who comes while nobody is there waits"
        await all_up(router)
        found = await metrics(router)
        assert set(found["crossfade_worker_restarts_total"].values()) == {1.0}
        assert found["crossfade_inside"]['backend="a",queue="backend"'] == 0
    assert crowd.most == 4


async def test_sigterm_ends_all_in_order_and_the_status_says_that_all_went_well() -> None:
    crowd = Crowd()
    async with Upstream(crowd) as a, workers(config_for(a.url)) as router, client_of(router) as client:
        running = [asyncio.create_task(chat(client)) for _ in range(8)]
        await crowd.until(8)
        there = await pids(router)
        os.kill(router.pid, signal.SIGTERM)
        port = int(router.url.rsplit(":", 1)[1])
        async with asyncio.timeout(10):
            while await answers_at(port):
                await asyncio.sleep(0.02)
        crowd.let_go.set()
        assert {each.status_code for each in await asyncio.gather(*running)} == {200}
        assert await asyncio.to_thread(router.stop) == 0
        assert not any(is_there(pid) for pid in there)
        assert "Traceback" not in router.log()


async def test_workers_whose_supervisor_is_killed_finish_their_calls_and_end() -> None:
    crowd = Crowd()
    async with Upstream(crowd) as a, workers(config_for(a.url)) as router, client_of(router) as client:
        running = [asyncio.create_task(chat(client)) for _ in range(4)]
        await crowd.until(4)
        there = await pids(router)
        os.kill(router.pid, signal.SIGKILL)
        port = int(router.url.rsplit(":", 1)[1])
        async with asyncio.timeout(10):
            while await answers_at(port):
                await asyncio.sleep(0.02)
        crowd.let_go.set()
        assert {each.status_code for each in await asyncio.gather(*running)} == {200}
        async with asyncio.timeout(10):
            while any(is_there(pid) for pid in there):
                await asyncio.sleep(0.02)
        await asyncio.to_thread(router.stop)


async def answers_at(port: int) -> bool:
    """Whether anybody listens there."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return False
    writer.transport.abort()
    return True
