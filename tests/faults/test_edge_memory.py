"""More bodies than memory: calls are refused one by one with a 503, and the router lives."""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from pathlib import Path

import httpx

from tests.faults.test_edge_crowds import JSON, cpu_s, is_served
from tests.rawclient import chat_body
from tests.serving import RunningRouter, free_port
from tests.upstream import Upstream, says

LARGE = chat_body(messages=[{"role": "user", "content": "x" * 9_000_000}])
ROOM_BYTES = 1_150_000_000  # for what the router holds at most with its copies (measured: 710 MB), and less than the crowd brings
CROWD = 150


def virtual_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmSize")).split()[1]) * 1024


async def asked(client: httpx.AsyncClient) -> int:
    """The status of one large call."""
    answer = await client.post("/v1/chat/completions", content=LARGE, headers=JSON)
    if answer.status_code != 200:
        assert answer.json()["error"]["code"] == "overloaded" and answer.headers["retry-after"]
    return answer.status_code


async def test_without_memory_left_calls_are_refused_and_the_next_ones_are_served() -> None:
    async with Upstream(says("x")) as a:
        config = {
            "server": {"port": free_port()},
            "backends": {"a": {"kind": "vllm", "url": a.url}},
            "models": {"jane": {"on": {"a": "real"}, "split": {"a": 1.0}}},
        }
        process = RunningRouter(config)
        await asyncio.to_thread(process.__enter__)
        try:
            room = virtual_bytes(process.pid) + ROOM_BYTES
            resource.prlimit(process.pid, resource.RLIMIT_AS, (room, room))
            limits = httpx.Limits(max_connections=CROWD)
            async with httpx.AsyncClient(base_url=process.url, timeout=20, limits=limits) as client:
                statuses = await asyncio.gather(*(asked(client) for _ in range(CROWD)))
            assert set(statuses) == {200, 503}, Counter(statuses)
            before_s = cpu_s(process.pid)
            async with httpx.AsyncClient(base_url=process.url, timeout=10) as client, asyncio.timeout(10):
                while not await is_served(client):
                    await asyncio.sleep(0.05)
            assert cpu_s(process.pid) - before_s < 1, "it spins"
            assert "failed inside the router" not in process.log()
        finally:
            await asyncio.to_thread(process.__exit__, None, None, None)
