"""One HTTP/1.1 connection to a backend: an asyncio.Protocol on httptools that pushes what arrives into a receiver.

Rules
-----
* One exchange at a time; the receiver gets `on_head`, `on_body` (any number of times), then exactly one of
  `on_end` or `on_broken`.
* A receiver may set a `tap`: it is offered each read that begins at a chunk's boundary, framing included, and takes whole chunks
  from its start, or nothing. The parser need not see those, because it would end in the state in which it began.
* Nothing here waits, allocates a task or parses a body: a chunk costs one callback from the socket to the receiver.
* A connection is reusable only after a whole message whose framing ended it (never after close-delimited bodies, never when bytes
  came after the message, never when the server said `connection: close`, never when a part of the request is still unsent).
* What a backend sends is untrusted: heads are bounded, and a message that carries both framings or a content coding
  is refused, because two readers could disagree on it (RFC 9112 section 6.3; request smuggling in reverse).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from backends.errors import BackendError, ProtocolBroken

MAX_HEADERS = 100  # Envoy's default limit on an upstream's answer
MAX_HEAD_BYTES = 65_536  # httpx gives up at about 100 KB; no engine sends more than 2 KB. Also for framing between two pieces of body
MAX_INTERIM = 16  # 1xx answers before the real one; a flood of them is an attack
_SINGLE = frozenset({b"content-length", b"transfer-encoding", b"content-encoding"})

Pieces = tuple[
    bytes | memoryview, ...
]  # of a request, in their order; a long prompt is sent from where it was received
Tap = Callable[[bytes], int]  # how many bytes of a read it took: whole chunks from the start


class Receiver(Protocol):
    """What an exchange does with the pieces of one answer."""

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None: ...
    def on_body(self, data: bytes) -> None: ...
    def on_end(self) -> None: ...
    def on_broken(self, error: BackendError) -> None: ...


class Connection(asyncio.Protocol):
    """A connection that can carry one exchange after the other. `is_idle` tells whether it may carry the next one."""

    __slots__ = (
        "_chunk_is_whole",
        "_headers",
        "_interim",
        "_lines",
        "_overhead_bytes",
        "_parser",
        "_reading",
        "_receiver",
        "_started",
        "_tappable",
        "idle_since_s",
        "is_idle",
        "tap",
        "transport",
    )

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.is_idle = True
        self.idle_since_s = 0.0
        self.tap: Tap | None = None
        self._tappable = False
        self._chunk_is_whole = False
        self._receiver: Receiver | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._lines: list[tuple[bytes, bytes]] = []
        self._overhead_bytes = 0  # since the last piece of body: heads, interim answers, sizes of chunks, trailers
        self._interim = 0
        self._started = False
        self._reading = True

    # -- for the pool and the exchange -------------------------------------------------------------

    def send(self, request: Pieces, receiver: Receiver) -> None:
        """Start an exchange. Raises ConnectionError where the server has already hung up."""
        transport = self.transport
        if transport is None or transport.is_closing() or not self.is_idle:
            raise ConnectionResetError("the connection is gone")
        self.is_idle = False
        self._started = False
        self._overhead_bytes = 0
        self._interim = 0
        self._tappable = False
        self._chunk_is_whole = False
        self._receiver = receiver
        if len(request) == 1:
            transport.write(request[0])
        else:
            transport.writelines(request)

    @property
    def has_answered(self) -> bool:
        """Whether even one byte came since the request was sent."""
        return self._started or self._overhead_bytes > 0

    def close(self) -> None:
        """Hang up now; the receiver hears nothing more. This is how a backend learns that nobody wants the answer."""
        self.is_idle = False
        self._receiver = None
        self.tap = None
        if self.transport is not None:
            self.transport.abort()

    def pause_reading(self) -> None:
        if self._reading and self.transport is not None and not self.transport.is_closing():
            self._reading = False
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._reading and self.transport is not None and not self.transport.is_closing():
            self._reading = True
            self.transport.resume_reading()

    # -- asyncio.Protocol --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        tap = self.tap
        if tap is not None and self._tappable:
            taken = tap(data)
            if taken == len(data):
                return
            data = data[taken:]
        self._overhead_bytes += len(data)
        try:
            self._parser.feed_data(data)
            # Exactly between two chunks: the last event was a chunk's end, and not even a part of the next size was read.
            self._tappable = self._chunk_is_whole and data.endswith(b"\r\n")
        except httptools.HttpParserUpgrade:
            self._break("the backend switched protocols")
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._break(
                str(cause) if isinstance(cause, ProtocolBroken) else f"malformed HTTP from the backend: {error}"
            )
        if self._overhead_bytes > MAX_HEAD_BYTES and self._receiver is not None:
            self._break("the answer has more than 64 KiB of headers or framing in one place")

    def eof_received(self) -> bool:
        # Not a mere close: that would first wait until the server takes the rest of a request that it will not read.
        if self.transport is not None:
            self.transport.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_idle = False
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            return
        if exc is None and self._started and self._is_close_delimited():
            receiver.on_end()
            return
        receiver.on_broken(
            ProtocolBroken(f"the connection ended {'in mid-answer' if self._started else 'before an answer'}")
        )

    # -- httptools callbacks -----------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._receiver is None:  # the two sides no longer agree on where a message ends
            raise ProtocolBroken("bytes came after the answer")
        self._headers = {}
        self._lines = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._started:  # a trailer: nothing that an engine says there matters, and it must not rewrite the head
            return
        self._lines.append(
            (name.lower(), value)
        )  # judged at the head's end: one read of the socket bounds them until then

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return
        headers = self._headers = self._read_lines()
        if b"transfer-encoding" in headers and headers[b"transfer-encoding"].lower() != b"chunked":
            framing = headers[b"transfer-encoding"].decode("latin-1")
            raise ProtocolBroken(f"the answer is framed as {framing!r}, which was not asked for")
        if b"content-encoding" in headers and headers[b"content-encoding"].lower() != b"identity":
            coding = headers[b"content-encoding"].decode("latin-1")
            raise ProtocolBroken(f"the answer is encoded as {coding!r}, which was not asked for")
        self._started = True
        if self._receiver is not None:
            self._receiver.on_head(status, headers)

    def on_chunk_header(self) -> None:
        self._chunk_is_whole = False

    def on_chunk_complete(self) -> None:
        self._chunk_is_whole = True

    def on_body(self, data: bytes) -> None:
        self._overhead_bytes = 0
        if self._receiver is not None:
            self._receiver.on_body(data)

    def on_message_complete(self) -> None:
        if not self._started:  # an interim answer (1xx)
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise ProtocolBroken("the backend sends interim answers without end")
            return
        receiver, self._receiver = self._receiver, None
        self.tap = None
        if receiver is None:
            return
        transport = self.transport
        self.is_idle = (
            transport is not None
            and self._parser.should_keep_alive()
            and not self._is_close_delimited()
            and not transport.is_closing()
            and not transport.get_write_buffer_size()  # else it answered before it took the whole request, and may never take the rest
        )
        receiver.on_end()

    # -- inside ------------------------------------------------------------------------------------

    def _read_lines(self) -> dict[bytes, bytes]:
        lines = self._lines
        if len(lines) > MAX_HEADERS:
            raise ProtocolBroken(f"the answer carries more than {MAX_HEADERS} headers")
        if (
            self._overhead_bytes > MAX_HEAD_BYTES
            and sum(len(name) + len(value) for name, value in lines) > MAX_HEAD_BYTES
        ):
            raise ProtocolBroken("the head of the answer is larger than 64 KiB")
        headers = dict(lines)
        if len(headers) != len(lines):
            names = [name for name, _ in lines]
            for key in {name for name in names if names.count(name) > 1}:
                if key in _SINGLE:
                    raise ProtocolBroken(f"the answer carries {key.decode('latin-1')} twice")
                # RFC 9110 section 5.3: one field of all its lines.
                headers[key] = b", ".join([value for name, value in lines if name == key])
        return headers

    def _is_close_delimited(self) -> bool:
        return b"content-length" not in self._headers and b"transfer-encoding" not in self._headers

    def _break(self, message: str) -> None:
        receiver = self._receiver
        self.close()
        if receiver is not None:
            receiver.on_broken(ProtocolBroken(message))
