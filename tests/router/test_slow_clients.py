"""Clients that read slowly, or not at all: they hold their backend back, they cost memory within bounds, and they cost nobody else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from router.edge import EdgeProtocol
from tests.rawclient import RawClient, chat_body, request
from tests.running import Router, config_for, running
from tests.upstream import (
    END,
    STREAM_HEAD,
    Connection,
    Received,
    Upstream,
    answer,
    chat_answer,
    chunked,
    event,
    sends,
    stream,
)

PIECE = 50_000
PIECES = 1_000  # 50 MB: above what the kernel's buffers may hold, of which the router's own for receiving grows with its speed
MOST_HELD_BYTES = 2_000_000  # by the router itself: what one read of the socket brings, on both of its sides
LONG_CHARS = 20_000_000
LONG = answer(chat_answer("x" * LONG_CHARS))
AUDIO = b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ntransfer-encoding: chunked\r\n\r\n"
NEEDS_NO_CONTENT_SOON = "split: {a: 1.0}\ntimeouts: {between_tokens_s: 0.2}"


class Flood:
    """A backend that writes as much as it is let, and counts it."""

    def __init__(self, head: bytes, piece: bytes, *ending: bytes):
        self.written = 0
        self._head, self._piece, self._ending = head, piece, ending

    async def __call__(self, _request: Received, connection: Connection) -> None:
        await connection.write(self._head)
        for _ in range(PIECES):
            await connection.write(self._piece)
            self.written += len(self._piece)
        await connection.write(*self._ending)

    async def until_held_back(self) -> None:
        """Wait until it has stood still for a while."""
        before = -1
        async with asyncio.timeout(20):
            while before != self.written or not before:
                before = self.written
                await asyncio.sleep(0.3)


def text_flood() -> Flood:
    """A stream of chat with long texts, each a whole event."""
    return Flood(
        STREAM_HEAD,
        chunked(event({"content": "x" * PIECE})),
        chunked(event({}, "stop")),
        chunked(b"data: [DONE]\n\n"),
        END,
    )


def audio_flood() -> Flood:
    return Flood(AUDIO, chunked(b"y" * PIECE), END)


@asynccontextmanager
async def slow_client(port: int) -> AsyncIterator[RawClient]:
    """A client with a small window that reads only when a test does."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=raw, limit=16_384)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.transport.abort()


def held_for_clients(router: Router) -> int:
    """Bytes that the router itself keeps for clients that do not read."""
    connections: set[Any] = router.server.server_state.connections
    return sum(each.transport.get_write_buffer_size() for each in connections)


def tool_call_flood() -> Flood:
    """A stream of chat with so small pieces of a tool call that one read holds many, none of which is taken by its shape."""
    piece = event({"tool_calls": [{"index": 0, "function": {"arguments": "x" * 200}}]})
    return Flood(
        STREAM_HEAD,
        chunked(piece) * (PIECE // len(piece)),
        chunked(event({}, "tool_calls")),
        chunked(b"data: [DONE]\n\n"),
        END,
    )


SPEECH = request(b'{"model":"jane","input":"x"}', line="POST /v1/audio/speech HTTP/1.1")
CALLS = [(text_flood, request(chat_body(stream=True))), (audio_flood, SPEECH)]


@pytest.mark.parametrize(
    ("flood", "call"),
    [*CALLS, (tool_call_flood, request(chat_body(stream=True)))],
    ids=["a chat stream", "audio that is passed through", "tool calls, many in a read"],
)
async def test_a_slow_reader_holds_its_backend_back_for_longer_than_a_backend_may_be_silent_and_gets_everything(
    flood: Callable[[], Flood], call: bytes
) -> None:
    backend = flood()
    async with (
        Upstream(backend) as a,
        running(config_for({"a": a.url}, NEEDS_NO_CONTENT_SOON)) as router,
        slow_client(router.port) as client,
    ):
        await client.send(call)
        await backend.until_held_back()
        assert backend.written < PIECE * PIECES * 0.9
        assert held_for_clients(router) < MOST_HELD_BYTES
        await client.head()
        size = 0
        while piece := await client.chunk():
            size += len(piece)
        assert size >= PIECE * PIECES * 0.9  # without the chunks' framing
        assert b"error" not in piece
        assert 'result="ok"' in (await router.client.get("/metrics")).text


@pytest.mark.parametrize(("flood", "call"), CALLS, ids=["a chat stream", "audio that is passed through"])
async def test_a_client_that_reads_nothing_any_more_is_dropped_and_its_backend_is_not_blamed(
    flood: Callable[[], Flood], call: bytes
) -> None:
    class Impatient(EdgeProtocol):
        slow_client_s = 0.5

    backend = flood()
    config = config_for({"a": "URL"}, "split: {a: 1.0}\neject: {consecutive_failures: 1}")
    async with Upstream(backend) as a, running(config.replace("URL", a.url), edge=Impatient) as router:
        async with slow_client(router.port) as client:
            await client.send(call)
            async with asyncio.timeout(10):
                await a.gone.wait()
        await freed(router, a.url)
        metrics = (await router.client.get("/metrics")).text
    assert 'crossfade_calls_total{backend="a",model="jane",result="client_gone"} 1.0' in metrics
    assert 'outcome="client_gone"' in metrics and 'outcome="stream_broken"' not in metrics


async def test_a_client_that_never_reads_a_long_answer_is_dropped_although_its_call_is_over() -> None:
    class Impatient(EdgeProtocol):
        slow_client_s = 0.3

    async with (
        Upstream(sends(LONG)) as a,
        running(config_for({"a": a.url}), edge=Impatient) as router,
        slow_client(router.port) as client,
    ):
        await client.send(request(chat_body()))
        await client.head()
        await until(lambda: not router.server.server_state.connections)


async def test_a_client_that_reads_a_long_answer_slowly_gets_all_of_it() -> None:
    class Impatient(EdgeProtocol):
        slow_client_s = 0.8

    async with (
        Upstream(sends(LONG)) as a,
        running(config_for({"a": a.url}), edge=Impatient) as router,
        slow_client(router.port) as client,
    ):
        loop = asyncio.get_running_loop()
        began_s, size = loop.time(), 0
        await client.send(request(chat_body()))
        await client.head()
        while piece := await client.reader.read(32_768):
            size += len(piece)
            if size >= LONG_CHARS:
                break
            await asyncio.sleep(0.002)  # the reader's pace
        assert size >= LONG_CHARS
        assert loop.time() - began_s > Impatient.slow_client_s


@pytest.mark.parametrize("last", [(), ("connection: close",)], ids=["when it was idle", "as the client asked"])
async def test_a_connection_is_closed_although_its_client_reads_no_more(last: tuple[str, ...]) -> None:
    class Impatient(EdgeProtocol):
        slow_client_s = linger_s = 0.3

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            self.timeout_keep_alive = 1 if not last else 60
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
            super().connection_made(transport)

    little = answer(chat_answer("x" * 20_000))  # so little that the client does not count as slow
    async with (
        Upstream(sends(little)) as a,
        running(config_for({"a": a.url}), edge=Impatient) as router,
        slow_client(router.port) as client,
    ):
        edges = router.server.server_state.connections
        await until(lambda: len(edges) == 1)
        (edge,) = edges
        assert isinstance(edge, EdgeProtocol)
        while not edge.transport.get_write_buffer_size():
            await client.send(request(chat_body()))
            await until(lambda: edge.cycle is not None and edge.cycle.response_complete)
        if last:
            await client.send(request(chat_body(), *last))
        await until(lambda: not edges)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.02)


async def freed(router: Router, url: str) -> None:
    """Wait until no attempt runs."""
    async with asyncio.timeout(5):
        while (
            f'crossfade_in_flight{{backend="a",replica="{url}"}} 0.0' not in (await router.client.get("/metrics")).text
        ):
            await asyncio.sleep(0.02)


async def test_a_backend_that_sends_events_without_content_forever_is_left() -> None:
    async def babbles(_request: Received, connection: Connection) -> None:
        await connection.write(STREAM_HEAD)
        empty = chunked(event({"content": "", "padding": "x" * PIECE}))
        for _ in range(PIECES):
            await connection.write(empty)

    async def speaks(_request: Received, connection: Connection) -> None:
        await connection.write(*stream("from b"))

    async with Upstream(babbles) as a, Upstream(speaks) as b, running(config_for({"a": a.url, "b": b.url})) as router:
        response = await router.chat(stream=True)
    assert response.headers["x-crossfade-backend"] == "b" and "from b" in response.text
