"""What a failing backend does, as scripts for `tests.upstream`: one function a way to fail, down to single bytes and resets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import chain, repeat
from typing import Any

from tests.upstream import (
    END,
    STREAM_HEAD,
    Connection,
    Received,
    Script,
    answer,
    chunked,
    event,
    sends,
    stream,
)

COMMITTED = stream("one ", "two ")[:4]  # head, role, two pieces of text
CLOSES = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"  # a stream whose end is the connection's
ROLE = event({"role": "assistant", "content": ""})
DRIP_S = 0.02


def in_turn(*scripts: Script) -> Script:
    """The first call meets the first script, the next the next; the last one stays."""
    turns = chain(scripts, repeat(scripts[-1]))

    async def script(request: Received, connection: Connection) -> None:
        await next(turns)(request, connection)

    return script


def at_first(script: Script, then: Script) -> Script:
    """Each call's first attempt meets `script`, its further ones `then`."""
    seen: set[str] = set()

    async def play(request: Received, connection: Connection) -> None:
        known = request.headers["x-request-id"] in seen
        seen.add(request.headers["x-request-id"])
        await (then if known else script)(request, connection)

    return play


def resets_after(*pieces: bytes) -> Script:
    """Writes these packets and resets the connection (SO_LINGER 0), as the kernel of a killed server does."""

    async def script(_request: Received, connection: Connection) -> None:
        await connection.write(*pieces)
        connection.reset()

    return script


def ends_after(*pieces: bytes) -> Script:
    """Writes these packets and ends the connection in good order (FIN)."""

    async def script(_request: Received, connection: Connection) -> None:
        await connection.write(*pieces)
        connection.writer.close()

    return script


def silent_after(*pieces: bytes) -> Script:
    """Writes these packets, then nothing more, and keeps the connection: a stopped process, a half-open connection."""

    async def script(_request: Received, connection: Connection) -> None:
        await connection.write(*pieces)
        await connection.until_gone()

    return script


def repeats_after(*pieces: bytes, again: bytes) -> Script:
    """Writes these packets, then `again` every few milliseconds for as long as somebody listens."""

    async def script(_request: Received, connection: Connection) -> None:
        await connection.write(*pieces)
        while not connection.writer.is_closing():
            await connection.write(again)
            await asyncio.sleep(DRIP_S)

    return script


def drips_after(*pieces: bytes, dripped: bytes) -> Script:
    """Writes these packets, then `dripped` byte by byte, each a chunk of its own, so slowly that it never comes to its end."""

    async def script(_request: Received, connection: Connection) -> None:
        await connection.write(*pieces)
        for byte in dripped:
            if connection.writer.is_closing():
                return
            await connection.write(chunked(bytes([byte])))
            await asyncio.sleep(DRIP_S)
        await connection.until_gone()

    return script


def says_error(status: str, message: str = "boom", *headers: str, **fields: Any) -> Script:
    """Answers with this status and OpenAI's envelope."""
    return sends(answer({"error": {"message": message, **fields}}, status, *headers))


def error_event(code: object, message: str = "boom", *before: bytes, kind: str = "x") -> Script:
    """A stream whose next event after `before` is an error, as vLLM sends it."""
    said = b'data: {"error":{"message":"%b","type":"%b","code":%b}}\n\n'
    written = repr(code).replace("'", '"').replace("None", "null").encode()
    pieces = before or (STREAM_HEAD,)
    return sends(*pieces, chunked(said % (message.encode(), kind.encode(), written)), chunked(b"data: [DONE]\n\n"), END)


def streamed(*events: bytes) -> Script:
    """A stream of these events, each in a packet of its own."""
    return sends(STREAM_HEAD, *map(chunked, events), END)


def poisoned(word: str, poison: Script, otherwise: Script) -> Script:
    """Fails for prompts with `word` in them, and for no other."""

    async def script(request: Received, connection: Connection) -> None:
        await (poison if word.encode() in request.body else otherwise)(request, connection)

    return script


def in_s(seconds: float) -> str:
    """The HTTP date that is so many seconds from now."""
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@contextmanager
def closed_port() -> Iterator[int]:
    """A port of 127.0.0.1 that refuses connections: bound, so that nobody else gets it, and not listening."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@asynccontextmanager
async def full_backlog() -> AsyncIterator[int]:
    """A port whose queue of connections is full: the kernel drops what knocks, as a firewall does."""
    loop = asyncio.get_running_loop()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        crowd = [socket.socket() for _ in range(4)]
        tries = []
        for each in crowd:
            each.setblocking(False)
            tries.append(loop.create_task(loop.sock_connect(each, address)))
        await asyncio.wait(tries, timeout=0.2)
        try:
            yield address[1]
        finally:
            for attempt in tries:
                attempt.cancel()
            await asyncio.gather(*tries, return_exceptions=True)
            for each in crowd:
                each.close()
