"""A router that stands still says so itself, and blames no backend for it."""

from __future__ import annotations

import asyncio
import os
import signal

import httpx
import pytest

from router.lag import LOOK_EVERY_S, STALL_S, Lag
from tests.running import config_for
from tests.serving import RunningRouter
from tests.upstream import Connection, Received, Upstream, stream


async def metric(client: httpx.AsyncClient, name: str) -> float:
    for line in (await client.get("/metrics")).text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[1])
    raise AssertionError(f"{name} is not exposed")


async def test_a_router_that_stood_still_counts_it_and_loses_no_call_whose_limit_passed_meanwhile() -> None:
    all_there, may_speak = asyncio.Event(), asyncio.Event()

    async def speaks(_request: Received, connection: Connection) -> None:
        if len(a.received) == 20:
            all_there.set()
        await may_speak.wait()
        await connection.write(*stream("Hello"))

    limits = "split: {a: 1.0}\ntimeouts: {first_token_s: 2, first_token_per_kib_s: 0}\nretry: {attempts_per_backend: 1}"
    async with Upstream(speaks) as a:
        with RunningRouter(config_for({"a": a.url}, limits)) as router:
            async with httpx.AsyncClient(base_url=router.url, timeout=20) as client:
                body = {"model": "jane", "messages": [{"role": "user", "content": "hi"}], "stream": True}
                calls = [asyncio.create_task(client.post("/v1/chat/completions", json=body)) for _ in range(20)]
                await asyncio.wait_for(all_there.wait(), 10)
                os.kill(router.pid, signal.SIGSTOP)
                may_speak.set()
                await asyncio.sleep(
                    2.5
                )  # longer than a first token may take; the answers lie unread in the router's sockets
                os.kill(router.pid, signal.SIGCONT)
                assert all("Hello" in answer.text for answer in await asyncio.gather(*calls))
                assert await metric(client, "crossfade_loop_stalls_total") >= 1
                assert await metric(client, "crossfade_loop_stalled_seconds_total") > 2
            assert "the router itself stood still" in router.log()


def test_only_what_is_late_is_a_stall_and_only_what_is_very_late_is_told(caplog: pytest.LogCaptureFixture) -> None:
    lag = Lag()
    lag.see(STALL_S / 2)
    assert (lag.stalls, lag.stalled_s, lag.last_s) == (0, 0.0, STALL_S / 2)
    lag.see(0.5)
    assert (lag.stalls, lag.stalled_s, caplog.records) == (1, 0.5, [])
    lag.see(2.0)
    assert (lag.stalls, lag.stalled_s) == (2, 2.5) and "stood still for 2.0 s" in caplog.text


async def test_a_loop_that_runs_on_time_has_no_stalls() -> None:
    lag = Lag()
    watch = asyncio.create_task(lag.watch())
    await asyncio.sleep(2 * LOOK_EVERY_S)
    watch.cancel()
    assert lag.stalls <= 1  # this machine may stumble by itself
