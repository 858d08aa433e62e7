"""The one who waits for the answer of one call: begins it once, then writes chunks or one whole body, and says when to hold back."""

from __future__ import annotations

import asyncio
from typing import Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from router.edge import Turn
from router.pings import PING, Head, Pings


class Pausable(Protocol):
    """The source of what the client reads."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Client:
    """Listens to the connection for as long as the call lasts. A client of HTTP/1.0 knows no chunked coding and gets bare bytes."""

    __slots__ = (
        "_head",
        "_is_events",
        "_is_sized",
        "_pings",
        "_reader",
        "_task",
        "cycle",
        "edge",
        "has_begun",
        "held_bytes",
        "is_chunked",
        "is_open",
    )

    def __init__(self, turn: Turn):
        self.edge, self.cycle, _ = turn
        self.has_begun = False
        self.held_bytes = 0  # of its body, where the door counts them
        self.is_open = False  # pings were sent, and with them the head; the call may move for all that
        self.is_chunked = self.cycle.scope["http_version"] != "1.0"
        self._is_events = False
        self._reader: Pausable | None = None
        self._head = b""
        self._is_sized = False
        self._pings: Pings | None = None
        self._task = asyncio.current_task()
        self.edge.listener = self

    def take_body(self) -> bytes | None:
        """The request's body, if all of it has arrived; it can be taken once."""
        cycle = self.cycle
        if cycle.more_body:
            return None
        self.edge.flow.resume_reading()  # uvicorn pauses for a pipelined request too, and then nobody would hear the client leave
        body = bytes(cycle.body)
        cycle.body = bytearray()
        cycle.waiting_for_100_continue = False  # whoever has sent the body no longer waits to be asked for it
        return body

    def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Take the head: the content type first, a content length last. It leaves together with the first piece of the body.

        From here on the call cannot move any more; it can only be resumed or ended.
        """
        self.has_begun = True
        if self._pings is not None:
            self.no_pings()
            if self.is_open:
                return
        self._begin(status, headers)

    def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        cycle = self.cycle
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        self._is_events = headers[0][1].startswith(b"text/event-stream")
        self._is_sized = headers[-1][0] == b"content-length" or status == 204
        if status == 204:  # has no length, not even one of 0 (RFC 9110 section 8.6)
            headers = [line for line in headers if line[0] != b"content-length"]
        if self.is_chunked and not self._is_sized:
            headers.append((b"transfer-encoding", b"chunked"))
        if not cycle.keep_alive:
            headers.append((b"connection", b"close"))
        self._head = b"%b%b\r\n\r\n" % (STATUS_LINE[status], b"\r\n".join(map(b": ".join, headers)))

    def ping_from(self, due_s: float, every_s: float, head: Head) -> None:
        """Tell the client from the instant `due_s` on that it is waited for, until content comes: see `router.pings`."""
        self.no_pings()
        self._pings = Pings(self._ping, head, every_s, due_s)

    def no_pings(self) -> None:
        """Content has come, or the end."""
        if self._pings is not None:
            self._pings.stop()
            self._pings = None

    def _ping(self, head: Head) -> None:
        """Send one ping now; a client that is slow to read has enough to read."""
        if not (self.has_begun or self.is_open):
            self.is_open = True
            self._begin(200, list(head))
        if not self.edge.is_slow:
            self.write(PING)

    def read_from(self, reader: Pausable | None) -> None:
        """Whom to hold back while the client is slow; None for nobody."""
        self._reader = reader
        if reader is not None and self.edge.is_slow:
            reader.pause_reading()

    def write(self, data: bytes) -> None:
        """Write a piece of a stream. Never waits; whoever is read from is told to hold back."""
        if data:  # an empty chunk would end the body
            self.write_framed(b"%x\r\n%b\r\n" % (len(data), data) if self.is_chunked else data)

    def write_framed(self, chunks: bytes) -> None:
        """Write chunks that are framed already; only where `is_chunked`."""
        edge = self.edge
        if edge.is_gone:
            return
        if self._head:
            chunks = self._head + chunks
            self._head = b""
        edge.transport.write(chunks)

    def write_head(self) -> None:
        """Send the head alone, where the first piece of the body may be long in coming."""
        self.write_framed(b"")

    async def finish(self, data: bytes = b"") -> None:
        """End the answer, with a last piece. Waits while the client is slow, and no longer than it may be slow."""
        cycle, edge = self.cycle, self.edge
        if edge.is_slow and not cycle.disconnected:
            await edge.flow.drain()
        if cycle.disconnected:
            return
        if self._is_sized:
            self.write_framed(data if cycle.scope["method"] != "HEAD" else b"")
        elif self.is_chunked:
            self.write(data)
            self.write_framed(b"0\r\n\r\n")
        else:
            self.write_framed(data)
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()

    async def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Send a whole answer."""
        self.begin(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self.finish(body)

    async def finish_broken(self, event: bytes) -> None:
        """End an incomplete answer so that nobody takes it for a whole one: with `event` if it is made of events, else by breaking off."""
        if self._is_events and not self.edge.is_slow:
            self.write(event)
            await self.finish()
        else:
            self.cycle.disconnected = True
            self.edge.transport.abort()

    def leave(self) -> None:
        """Stop listening: the call is over, the connection may carry the next one."""
        if self._pings is not None:
            self.no_pings()
        if self.edge.listener is self:
            self.edge.listener = None
        self._task = None

    # -- Listener ----------------------------------------------------------------------------------

    def client_left(self) -> None:
        """End whatever the call waits for, wherever it is: the backend is closed as the blocks unwind."""
        self.cycle.disconnected = True
        if self._task is not None:
            self._task.cancel()

    def client_is_slow(self) -> None:
        if self._reader is not None:
            self._reader.pause_reading()

    def client_caught_up(self) -> None:
        if self._reader is not None:
            self._reader.resume_reading()
