"""SIGTERM to the real command: running streams finish within `drain_s`, later ones end honestly, and the status says all went well."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from tests.serving import RunningRouter, free_port
from tests.upstream import Connection, Received, Upstream, says, stream

QUESTION = {"model": "jane", "stream": True, "messages": [{"role": "user", "content": "hi"}]}


@asynccontextmanager
async def served(backend: str, drain_s: float) -> AsyncIterator[RunningRouter]:
    """`crossfade serve` in a process of its own, beside the test's loop."""
    config = {
        "server": {"port": free_port(), "drain_s": drain_s},
        "backends": {"a": {"kind": "vllm", "url": backend}},
        "models": {"jane": {"on": {"a": "real"}, "split": {"a": 1.0}}},
    }
    router = RunningRouter(config)
    await asyncio.to_thread(router.__enter__)
    try:
        yield router
    finally:
        await asyncio.to_thread(router.__exit__, None, None, None)


async def refuses(port: int) -> None:
    """Wait until nobody listens there any more."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionError:
            return
        writer.transport.abort()


async def test_a_running_stream_finishes_after_sigterm_while_new_connections_are_refused() -> None:
    goes_on = asyncio.Event()

    async def waits(_request: Received, connection: Connection) -> None:
        pieces = stream("one ", "two ")
        await connection.write(*pieces[:3])
        await goes_on.wait()
        await connection.write(*pieces[3:])

    async with Upstream(waits) as a, served(a.url, 15) as router:
        url = f"{router.url}/v1/chat/completions"
        async with httpx.AsyncClient(timeout=20) as client, client.stream("POST", url, json=QUESTION) as answer:
            lines = answer.aiter_lines()
            assert "one " in [line async for line in until(lines, "one ")][-1]
            os.kill(router.pid, signal.SIGTERM)
            await asyncio.wait_for(refuses(int(router.url.rsplit(":", 1)[1])), 10)
            goes_on.set()
            rest = [line async for line in lines if line]
        assert await asyncio.to_thread(router.stop) == 0
    assert "two " in rest[0] and rest[-1] == "data: [DONE]"


async def test_without_a_drain_a_running_stream_ends_at_once_with_an_error_event() -> None:
    async def waits(_request: Received, connection: Connection) -> None:
        await connection.write(*stream("one ")[:3])
        await connection.until_gone()

    async with Upstream(waits) as a, served(a.url, 0) as router:
        url = f"{router.url}/v1/chat/completions"
        async with httpx.AsyncClient(timeout=20) as client, client.stream("POST", url, json=QUESTION) as answer:
            lines = answer.aiter_lines()
            assert "one " in [line async for line in until(lines, "one ")][-1]
            os.kill(router.pid, signal.SIGTERM)
            rest = [line async for line in lines if line]
        assert await asyncio.to_thread(router.stop) == 0
        assert "Traceback" not in router.log()
    assert '"error"' in rest[-1]


async def until(lines: AsyncIterator[str], word: str) -> AsyncIterator[str]:
    """The lines up to the first with `word` in it."""
    async for line in lines:
        yield line
        if word in line:
            return


async def test_a_hangup_ends_nothing() -> None:
    async with Upstream(says("still here")) as a, served(a.url, 5) as router:
        os.kill(router.pid, signal.SIGHUP)
        async with asyncio.timeout(5):
            while "SIGHUP: looking at" not in router.log():
                await asyncio.sleep(0.02)
        async with httpx.AsyncClient() as client:
            assert (await client.post(f"{router.url}/v1/chat/completions", json=QUESTION)).status_code == 200
