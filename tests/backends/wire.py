"""A raw server for tests of the transport: each connection is a script, and what happened to it can be waited for."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from backends.dialects import VLLM
from backends.errors import BackendError, FirstTokenTimeout
from backends.http import Limits, Outgoing, Replica, replica_at
from backends.pool import IDLE_S, origin_of
from tests.upstream import Connection, answer

CALL = Outgoing(path=b"/v1/chat/completions", body=(b'{"model":"m"}',), request_id=b"my-id")
HELLO = answer(b"hello")
Handler = Callable[[Connection], Awaitable[None]]


@dataclass
class Wire:
    """A running server: its port, how many connections came, and how many of them the other side has left or lost."""

    port: int
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    gone: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    is_tls: bool = False

    @property
    def url(self) -> str:
        return f"{'https' if self.is_tls else 'http'}://127.0.0.1:{self.port}"

    def replica(self, *, idle_s: float = IDLE_S, tls: ssl.SSLContext | None = None) -> Replica:
        return replica_at(origin_of(self.url, tls), VLLM, idle_s=idle_s)

    async def until_one_is_gone(self) -> None:
        async with asyncio.timeout(5):
            await self.gone.acquire()


@asynccontextmanager
async def serving(handle: Handler, tls: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[Wire]:
    """A server that runs `handle` once for each connection and then hangs up."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(connection: Connection) -> None:
        try:
            await handle(connection)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            wire.gone.release()
            connection.writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire.connections += 1
        task = asyncio.get_running_loop().create_task(serve(Connection(reader, writer, wire.connections)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", port, ssl=tls)
    wire = Wire(server.sockets[0].getsockname()[1], is_tls=tls is not None)
    try:
        yield wire
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def request_of(connection: Connection) -> bytes:
    """One whole request of a connection. Raises asyncio.IncompleteReadError where the other side hangs up instead."""
    head = await connection.reader.readuntil(b"\r\n\r\n")
    size = next((line[16:] for line in head.split(b"\r\n") if line.startswith(b"content-length: ")), b"0")
    return head + await connection.reader.readexactly(int(size))


def answers(*pieces: bytes) -> Handler:
    """Every request of every connection gets these packets; the connection stays open."""

    async def handle(connection: Connection) -> None:
        while True:
            await request_of(connection)
            await connection.write(*pieces)

    return handle


def limits(wait_s: float = 5.0, connect_s: float = 2.0, error: type[BackendError] = FirstTokenTimeout) -> Limits:
    """Limits that start now."""
    due_s = asyncio.get_running_loop().time() + wait_s
    return Limits(connect_s, due_s, lambda: error(f"nothing within {wait_s:g} s"))


async def body_of(replica: Replica, call: Outgoing = CALL, within: Limits | None = None) -> bytes:
    """The whole body of one call's answer."""
    async with replica.open(call, within or limits()) as reply:
        return await reply.read(1 << 26)
