"""Whoever is killed, and whenever: afterwards everybody who lives has the state that was acknowledged last.

`KILLS` sets how often (`make soak` asks for a hundred).
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.postgres import Server
from tests.router.operators import KEY, Operator, kill_hard, killed_at_random, revision_of, status_of, workers_of
from tests.serving import RunningRouter
from tests.upstream import Upstream, says

KILLS = int(os.environ.get("KILLS", "10"))
ENV = {"CROSSFADE_ADMIN_KEY": KEY}


@asynccontextmanager
async def routers(store: str, count: int, **server: Any) -> AsyncIterator[Sequence[RunningRouter]]:
    """So many routers, each with its own file, on one store."""
    async with AsyncExitStack() as stack:
        a, b = [await stack.enter_async_context(Upstream(says(f"from {name}"))) for name in "ab"]
        config = {
            "server": server,
            "store": {"url": store},
            "backends": {"a": {"kind": "vllm", "url": a.url}, "b": {"kind": "vllm", "url": b.url}},
            "models": {"jane": {"on": {"a": "m", "b": "m"}, "split": {"a": 1.0, "b": 0.0}}},
        }
        made = [RunningRouter(config, env=ENV) for _ in range(count)]
        for each in made:
            await asyncio.to_thread(each.__enter__)
            stack.push_async_callback(asyncio.to_thread, each.__exit__, None, None, None)
        yield made


@pytest.mark.postgres
@pytest.mark.timeout(60 + 20 * KILLS)
async def test_three_routers_on_one_postgresql_agree_on_what_was_acknowledged_whoever_is_killed(
    postgres: Server,
) -> None:
    rng = random.Random()
    async with routers(postgres.database(), 3) as made:
        urls = [each.url for each in made]
        operator = Operator(urls, rng)

        async def kill() -> None:
            victim = rng.choice(made)
            kill_hard(victim.pid)
            await asyncio.to_thread(victim.stop)
            await asyncio.to_thread(victim.start)

        await killed_at_random(operator, kill, KILLS)
        await operator.in_step(urls)
        await operator.close()


@pytest.mark.timeout(60 + 20 * KILLS)
async def test_four_workers_agree_on_what_was_acknowledged_whoever_of_them_is_killed(tmp_path: Any) -> None:
    rng = random.Random()
    async with routers(f"sqlite:///{tmp_path}/crossfade.db", 1, workers=4) as (router,):
        operator = Operator([router.url], rng)

        async def kill() -> None:
            before = await workers_of(operator, router.url)
            victim = rng.choice(before)
            kill_hard(victim)
            async with asyncio.timeout(
                60
            ):  # one that ends at once again and again is started later and later, up to 30 s
                while victim in (now := await workers_of(operator, router.url)) or len(now) < 2:
                    await asyncio.sleep(0.02)

        await killed_at_random(operator, kill, KILLS)
        await operator.in_step([router.url])
        await operator.close()


async def test_a_rollback_reaches_every_worker_within_a_second_under_full_load_and_costs_no_call(tmp_path: Any) -> None:
    async with routers(f"sqlite:///{tmp_path}/crossfade.db", 1, workers=4) as (router,):
        operator, seen = Operator([router.url], random.Random()), list[tuple[float, int]]()
        ends = asyncio.Event()

        async def caller() -> None:
            async with httpx.AsyncClient(timeout=10, limits=httpx.Limits(max_keepalive_connections=0)) as client:
                while not ends.is_set():  # each call on a connection of its own, so that every worker has its part
                    began_s = time.monotonic()
                    seen.append((began_s, await revision_of(client, router.url)))

        async with asyncio.TaskGroup() as group:
            for _ in range(12):
                group.create_task(caller())
            await operator.shift()
            await until_seen(seen, operator.acknowledged[0])
            number = await operator.rollback()
            rolled_back_s = time.monotonic()
            await until_seen(seen, number, after_s=rolled_back_s + 1)
            ends.set()
        assert {revision for began_s, revision in seen if began_s > rolled_back_s + 1} == {number}
        assert {revision for _, revision in seen} == {1, 2, 3}
        await operator.close()


async def until_seen(seen: Sequence[tuple[float, int]], number: int, after_s: float = 0.0) -> None:
    """A good number of calls that began after this instant were answered under this revision."""
    async with asyncio.timeout(20):
        while sum(revision == number and began_s > after_s for began_s, revision in seen) < 40:
            await asyncio.sleep(0.01)


async def test_a_router_that_is_killed_with_all_its_workers_comes_back_where_it_was(tmp_path: Any) -> None:
    rng = random.Random()
    async with routers(f"sqlite:///{tmp_path}/crossfade.db", 1, workers=2) as (router,):
        operator = Operator([router.url], rng)
        for _ in range(2):
            await operator.shift()
            for pid in (router.pid, *await workers_of(operator, router.url)):
                kill_hard(pid)
            await asyncio.to_thread(router.stop)
            await asyncio.to_thread(router.start)
            await operator.in_step([router.url])
        assert (await status_of(operator.client, router.url))["models"]["jane"]["drift"]
        await operator.close()
