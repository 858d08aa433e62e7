"""The client's side of a connection: uvicorn's HTTP protocol, with a direct way to write a chunk and to hear that the client left.

An ASGI `send` per chunk costs a coroutine, a dictionary and a list; a stream of a thousand chunks pays for them a thousand
times. So a stream begins and ends through ASGI, and its chunks are written to the transport directly in between.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

EXTENSION = "crossfade.edge"
KEEP_ALIVE_S = (
    75  # nginx's default; Node's fetch re-uses a socket for 4 s and loses calls where the server closes near that
)


class Listener(Protocol):
    """Who wants to know about the client of the call that is being answered."""

    def client_left(self) -> None: ...
    def client_is_slow(self) -> None: ...
    def client_caught_up(self) -> None: ...


class EdgeProtocol(HttpToolsProtocol):
    """One client connection. `scope["extensions"]["crossfade.edge"]` is this object."""

    listener: Listener | None = None
    is_gone = False

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: self}  # type: ignore[dict-item]

    def write_chunk(self, data: bytes) -> None:
        """Write one chunk of a chunked body that was begun through ASGI. Never waits; `client_is_slow` tells to hold back."""
        if not self.is_gone:
            self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def write_raw(self, framed: bytes) -> None:
        """Write chunks that are framed already."""
        if not self.is_gone:
            self.transport.write(framed)

    def hang_up_after_answer(self) -> None:
        """Close once the answer is written, because the rest of the request will not be read."""
        self.cycle.keep_alive = False

    @property
    def is_slow(self) -> bool:
        """Whether the client has more than the high-water mark (64 KiB) still to read."""
        return bool(self.flow.write_paused)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_gone = True
        super().connection_lost(exc)
        if self.listener is not None:
            self.listener.client_left()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.listener is not None:
            self.listener.client_is_slow()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.listener is not None:
            self.listener.client_caught_up()


def edge_of(scope: Any) -> EdgeProtocol:
    """The connection that a call came in on. Raises KeyError under a server that is not Crossfade's own."""
    edge: EdgeProtocol = scope["extensions"][EXTENSION]
    return edge


class Client:
    """The one who waits for the answer of one call: begins it once, then writes chunks or one whole body."""

    __slots__ = ("_reader", "_send", "_task", "edge", "has_begun")

    def __init__(self, edge: EdgeProtocol, send: Any):
        self.edge = edge
        self.has_begun = False
        self._reader: Pausable | None = None
        self._send = send
        self._task = asyncio.current_task()
        edge.listener = self

    async def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the head. From here on the call cannot move any more; it can only be resumed or ended."""
        self.has_begun = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    def read_from(self, reader: Pausable | None) -> None:
        """Whom to hold back while the client is slow; None for nobody."""
        self._reader = reader
        if reader is not None and self.edge.is_slow:
            reader.pause_reading()

    def write(self, data: bytes) -> None:
        """Write a chunk of a stream."""
        self.edge.write_chunk(data)

    async def finish(self, data: bytes = b"") -> None:
        """End the answer, with a last piece."""
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Send a whole answer."""
        headers.append((b"content-length", str(len(body)).encode()))
        await self.begin(status, headers)
        await self.finish(body)

    def leave(self) -> None:
        """Stop listening: the call is over, the connection may carry the next one."""
        if self.edge.listener is self:
            self.edge.listener = None
        self._task = None

    # -- Listener ----------------------------------------------------------------------------------

    def client_left(self) -> None:
        """End whatever the call waits for, wherever it is: the backend is closed as the blocks unwind."""
        if self._task is not None:
            self._task.cancel()

    def client_is_slow(self) -> None:
        if self._reader is not None:
            self._reader.pause_reading()

    def client_caught_up(self) -> None:
        if self._reader is not None:
            self._reader.resume_reading()


class Pausable(Protocol):
    """The source of what the client reads."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
