"""Many clients that want nothing, or take for ever (facts B5, 25, 49, 59): they are ended by the clock, and nobody else notices them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from router.edge import EdgeProtocol
from tests.rawclient import chat_body, connected, request
from tests.running import Router, config_for, running
from tests.serving import RunningRouter, free_port
from tests.upstream import Upstream, says

IDLE, DRIPPING = 2_000, 500
ENOUGH_FILES = 2 * (IDLE + 2 * DRIPPING) + 500  # both ends of every connection are in this process
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: router\r\nx-a: "
BODY = request(b"", "content-length: 5000", length=False)
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Brief(EdgeProtocol):
    head_timeout_s = body_timeout_s = 2.0
    linger_s = 0.2


@pytest.fixture
def many_files() -> Iterator[None]:
    """Enough descriptors for a crowd, where the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < ENOUGH_FILES:
        pytest.skip(f"a crowd needs {ENOUGH_FILES} open files, and {hard} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, ENOUGH_FILES), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def crowd(port: int, count: int, sent: bytes = b"") -> list[socket.socket]:
    """So many connections that have sent this."""
    clients = []
    for number in range(count):
        clients.append(socket.create_connection(("127.0.0.1", port)))
        clients[-1].setblocking(False)
        if sent:
            clients[-1].send(sent)
        if number % 100 == 0:
            await asyncio.sleep(0)
    return clients


async def all_connected(router: Router, count: int) -> None:
    async with asyncio.timeout(20):
        while len(router.server.server_state.connections) < count:
            await asyncio.sleep(0.01)


def drip(clients: list[socket.socket]) -> None:
    """One more byte from each that is still there."""
    for client in clients:
        with contextlib.suppress(OSError):
            client.send(b"y")


def received(client: socket.socket) -> bytes:
    try:
        return client.recv(65536)
    except OSError:
        return b""


@pytest.mark.usefixtures("many_files")
async def test_two_thousand_idle_and_a_thousand_dripping_connections_hurt_nobody() -> None:
    async with Upstream(says("x")) as a, running(config_for({"a": a.url}), edge=Brief) as router:
        idle = await crowd(router.port, IDLE)
        dripping = [*await crowd(router.port, DRIPPING, HEAD), *await crowd(router.port, DRIPPING, BODY)]
        await all_connected(router, IDLE)
        try:
            calls = 0
            connections = router.server.server_state.connections
            async with asyncio.timeout(40):
                while len(connections) > IDLE + 10 or not calls:
                    drip(dripping)
                    assert (await router.chat()).status_code == 200
                    calls += 1
            assert len(connections) >= IDLE, "an idle connection is kept for 75 s"
            assert sum(b" 408 " in received(client) for client in dripping) > 0.9 * len(dripping), "most read why"
            assert (await router.client.get("/health/ready")).status_code == 200
        finally:
            for client in [*idle, *dripping]:
                client.close()
        async with asyncio.timeout(20):
            while len(router.server.server_state.connections) > 1:
                await asyncio.sleep(0.01)


async def test_a_flood_of_wrong_keys_is_refused_and_those_with_a_key_are_served() -> None:
    async with Upstream(says("x")) as a:
        async with running(config_for({"a": a.url}, server="keys_env: K"), {"K": "one"}) as router:
            stop = asyncio.Event()

            async def guesses(who: int) -> int:
                count = 0
                async with connected(router.port) as client:
                    while not stop.is_set():
                        await client.send(request(chat_body(), f"authorization: Bearer {who}-{count}"))
                        assert (await client.answer()).status == 401
                        count += 1
                return count

            flood = [asyncio.create_task(guesses(who)) for who in range(20)]
            for _ in range(50):
                assert (await router.chat(headers={"authorization": "Bearer one"})).status_code == 200
            stop.set()
            assert sum(await asyncio.gather(*flood)) >= len(flood)
        assert len(a.received) == 50


def cpu_s(pid: int) -> float:
    """What the process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


FILES = 64
WATCH_S = 1.5


async def test_without_a_descriptor_left_it_neither_spins_nor_dies_and_recovers() -> None:
    async with Upstream(says("x")) as a:
        config = {
            "server": {"port": free_port()},
            "backends": {"a": {"kind": "vllm", "url": a.url}},
            "models": {"jane": {"on": {"a": "real"}, "split": {"a": 1.0}}},
        }
        process = RunningRouter(config)
        await asyncio.to_thread(process.__enter__)
        try:
            port = int(process.url.rsplit(":", 1)[1])
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (FILES, FILES))
            async with httpx.AsyncClient(base_url=process.url, timeout=10) as client:
                assert (await client.get("/health/live")).status_code == 200  # a connection from before the shortage
                taken = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(150)]
                before_s, began_s = cpu_s(process.pid), time.monotonic()
                await asyncio.sleep(WATCH_S)
                used = (cpu_s(process.pid) - before_s) / (time.monotonic() - began_s)
                assert used < 0.2, f"it spins: {used:.0%} of a core"
                answered = await client.post("/v1/chat/completions", content=chat_body(), headers=JSON)
                assert answered.status_code in (200, 503), "by the kept connection to the backend, or not at all"
                for each in taken:
                    each.close()
            async with httpx.AsyncClient(base_url=process.url, timeout=10) as client, asyncio.timeout(10):
                while not await is_served(client):
                    await asyncio.sleep(0.05)
            assert "Traceback" not in process.log()
        finally:
            await asyncio.to_thread(process.__exit__, None, None, None)


JSON = {"content-type": "application/json"}


async def is_served(client: httpx.AsyncClient) -> bool:
    try:
        response = await client.post("/v1/chat/completions", content=chat_body(), headers=JSON)
    except httpx.TransportError:
        return False
    return response.status_code == 200
