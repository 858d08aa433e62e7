"""SIGTERM to the real command (facts B5, 41): red first, then closed, streams to their end or to an honest one, exit status 0."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from tests.rawclient import Answer, RawClient, chat_body, connected, request
from tests.serving import RunningRouter, free_port
from tests.upstream import Connection, Received, Upstream, stream

STREAM = request(chat_body(stream=True))
READY = request(line="GET /health/ready HTTP/1.1", length=False)
BROKEN = b'data: {"error":{"message":"The stream broke off'
STREAMS = 100


@dataclass
class Patient:
    """A backend that begins every stream, and ends it when it is told to."""

    may_end: asyncio.Event = field(default_factory=asyncio.Event)
    begun: int = 0

    async def __call__(self, _request: Received, connection: Connection) -> None:
        pieces = stream("one ", "two ")
        await connection.write(*pieces[:3])
        self.begun += 1
        await self.may_end.wait()
        await connection.write(*pieces[3:])


@dataclass(frozen=True, slots=True)
class Served:
    """The command in a process of its own, and its backend."""

    process: RunningRouter
    port: int
    backend: Patient

    def signal(self, sig: int = signal.SIGTERM) -> None:
        os.kill(self.process.pid, sig)

    async def ended(self) -> int:
        """Its exit status, without a further signal."""
        assert self.process._process is not None
        return await asyncio.to_thread(self.process._process.wait, 15)

    async def refuses(self) -> None:
        """Wait until nobody listens any more."""
        async with asyncio.timeout(10):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except ConnectionError:
                    return
                writer.transport.abort()
                await asyncio.sleep(0.01)


@asynccontextmanager
async def served(drain_s: float) -> AsyncIterator[Served]:
    backend, port = Patient(), free_port()
    async with Upstream(backend) as a:
        config = {
            "server": {"port": port, "drain_s": drain_s},
            "backends": {"a": {"kind": "vllm", "url": a.url}},
            "models": {"jane": {"on": {"a": "real"}, "split": {"a": 1.0}}},
        }
        process = RunningRouter(config)
        await asyncio.to_thread(process.__enter__)
        try:
            yield Served(process, port, backend)
        finally:
            backend.may_end.set()
            await asyncio.to_thread(process.__exit__, None, None, None)


async def streaming(router: Served, stack: AsyncExitStack, count: int) -> list[RawClient]:
    """So many clients in the middle of their streams."""
    clients = [await stack.enter_async_context(connected(router.port)) for _ in range(count)]
    for client in clients:
        await client.send(STREAM)
    for client in clients:
        status, _, _ = await client.head()
        assert status == 200
    return clients


async def asked(port: int, sent: bytes) -> Answer:
    """One answer over a connection of its own."""
    async with connected(port) as client:
        await client.send(sent)
        return await client.answer()


async def test_red_first_then_closed_and_a_hundred_streams_reach_their_end() -> None:
    async with served(15) as router, AsyncExitStack() as stack:
        clients = await streaming(router, stack, STREAMS)
        idle = await stack.enter_async_context(connected(router.port))
        await idle.send(READY)
        before = await idle.answer()
        assert before.status == 200 and "connection" not in before.headers
        router.signal()
        async with asyncio.timeout(5):
            while (red := await asked(router.port, READY)).status == 200:
                await asyncio.sleep(0.01)
        assert red.status == 503 and red.json["status"] == "stopping" and red.json["models"]["jane"]
        assert red.headers["connection"] == "close"
        late = await stack.enter_async_context(connected(router.port))
        await late.send(STREAM)  # the port is still open: whoever has not heard yet loses no call
        assert (await late.head())[2]["connection"] == "close"
        await router.refuses()
        assert await idle.ended() == b"", "a connection without a call is closed with the port"
        router.backend.may_end.set()
        for client in [*clients, late]:
            body = await client.ended()
            assert b"two " in body and body.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"), body
        assert await router.ended() == 0
        assert router.process.log().count("WARNING") == 0


async def test_a_kept_connection_is_told_that_its_answer_is_the_last() -> None:
    async with served(15) as router, AsyncExitStack() as stack:
        (running,) = await streaming(router, stack, 1)  # keeps the process there
        kept = await stack.enter_async_context(connected(router.port))
        await kept.send(READY)
        assert "connection" not in (await kept.answer()).headers
        router.signal()
        async with asyncio.timeout(5):
            while (await asked(router.port, READY)).status == 200:
                await asyncio.sleep(0.01)
        await kept.send(request(line="GET /v1/models HTTP/1.1", length=False))
        last = await kept.answer()
        assert last.status == 200 and last.headers["connection"] == "close"
        assert await kept.ended() == b""
        router.backend.may_end.set()
        assert b"[DONE]" in await running.ended()
        assert await router.ended() == 0


async def test_a_request_that_is_half_sent_when_the_port_closes_is_still_answered() -> None:
    async with served(15) as router, AsyncExitStack() as stack:
        router.backend.may_end.set()
        half_head, half_body = [await stack.enter_async_context(connected(router.port)) for _ in range(2)]
        await half_head.send(STREAM[:30])
        await half_body.send(STREAM[:-10])
        await asked(router.port, READY)  # so that both are known to have been read
        router.signal()
        await router.refuses()
        await half_head.send(STREAM[30:])
        await half_body.send(STREAM[-10:])
        for client in (half_head, half_body):
            body = await client.ended()
            assert b"connection: close" in body and body.endswith(b"[DONE]\n\n\r\n0\r\n\r\n")
        assert await router.ended() == 0


ENDS: list[tuple[str, float, list[int]]] = [
    ("at the end of drain_s", 0.3, [signal.SIGTERM]),
    ("at once without a drain", 0, [signal.SIGTERM]),
    ("at a second SIGTERM", 600, [signal.SIGTERM, signal.SIGTERM]),
    ("at a second SIGINT", 600, [signal.SIGINT, signal.SIGINT]),
    ("at a SIGTERM after a SIGINT", 600, [signal.SIGINT, signal.SIGTERM]),
    ("at many signals", 600, [signal.SIGTERM] * 6),
]


@pytest.mark.parametrize(("drain_s", "signals"), [row[1:] for row in ENDS], ids=[row[0] for row in ENDS])
async def test_streams_that_may_not_finish_end_with_an_error_event_and_a_clean_chunk_and_the_status_is_0(
    drain_s: float, signals: list[int]
) -> None:
    async with served(drain_s) as router, AsyncExitStack() as stack:
        clients = await streaming(router, stack, 10)
        began_s = time.monotonic()
        for sig in signals:
            router.signal(sig)
            await asyncio.sleep(0.02)  # two signals at one time are one to the kernel
        for client in clients:
            body = await client.ended()
            assert BROKEN in body and b"[DONE]" not in body and body.endswith(b"\n\n\r\n0\r\n\r\n"), body
        assert await router.ended() == 0
        assert time.monotonic() - began_s < 5
        log = router.process.log()
        assert "10 calls did not end in time" in log and "Traceback" not in log


async def test_a_second_signal_waits_for_no_client_that_reads_nothing() -> None:
    async with served(600) as router, AsyncExitStack() as stack:
        await streaming(router, stack, 1)
        half = await stack.enter_async_context(connected(router.port))
        await half.send(STREAM[:30])
        router.signal()
        await router.refuses()
        router.signal()
        assert await router.ended() == 0
