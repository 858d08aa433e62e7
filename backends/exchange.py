"""One request and its answer on one connection, under one time limit that is pushed forward rather than re-armed.

Theory
------
A call has at most three waits: for the head, for the first content, for the end. Each waits on one future; the bytes in
between are pushed into a sink without waking anybody. The limit is an instant, `limit_s`: whoever sees progress assigns a
later instant (one attribute write per chunk); the alarm (`backends.alarm`) that rings at the old one finds it moved and sleeps on.
So a stream of a thousand chunks arms a handful of timers instead of a thousand, and a call often none.

Example: between_tokens_s = 30, a chunk every 10 ms for 60 s: two timers, six thousand assignments.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from backends.alarm import Alarm
from backends.errors import BackendError, FirstTokenTimeout, ProtocolBroken
from backends.http1 import Connection, Pieces, Tap

ERROR_BODY_BYTES = 65_536  # vLLM's largest captured error body is 2 KB; what is longer is cut
ERROR_BODY_S = 1.0  # the words of an error are worth no longer wait: its status alone says whether to go elsewhere
MAX_BUFFERED_BYTES = 1_048_576  # bytes taken in before anybody reads them; then the backend is made to wait

Sink = Callable[[bytes], bool | None]  # True: enough for now, let `pump` return
ErrorFactory = Callable[[], BackendError]


class Exchange:
    """The receiver of one answer: buffers until somebody pumps, then pushes; fails whoever waits when the limit passes."""

    __slots__ = (
        "_alarm",
        "_buffer",
        "_buffered",
        "_connection",
        "_ended",
        "_error",
        "_is_full",
        "_is_held",
        "_limit_error",
        "_lines",
        "_loop",
        "_sink",
        "_waiter",
        "limit_s",
        "status",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limit_s: float,
        limit_error: ErrorFactory | None = None,
        alarm: Alarm | None = None,
    ):
        """`alarm`: the one that it shares with others."""
        self.status = 0
        self._lines: dict[bytes, bytes] = {}
        self.limit_s = limit_s
        self._limit_error: ErrorFactory = limit_error or _no_content
        self._loop = loop
        self._connection: Connection | None = None
        self._sink: Sink | None = None
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._is_full = False  # the two reasons for not reading, apart: ending one must not end the other
        self._is_held = False
        self._ended = False
        self._error: BackendError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._alarm = alarm or Alarm()
        self._alarm.watch(self)

    # -- the caller's side -------------------------------------------------------------------------

    def start(self, connection: Connection, request: Pieces) -> None:
        """Send the request. Raises ConnectionError where a kept connection turns out to be gone, BackendError where it is too late."""
        self._connection = connection
        if self._error is not None:
            raise self._error
        connection.send(request, self)

    def forget_connection(self) -> None:
        """Give up a connection that died before any byte of an answer, so that `start` may use another."""
        self._connection = None
        # The limit may have passed in the same turn of the loop; the alarm does not ring twice for it.
        self._error = self._limit_error() if self._loop.time() >= self.limit_s else None

    @property
    def is_at_work(self) -> bool:
        """Whether a request was sent whose answer has neither ended nor broken off."""
        return self._connection is not None and not self._ended and self._error is None

    @property
    def got_bytes(self) -> bool:
        """Whether even one byte of an answer came."""
        return self._connection is not None and self._connection.has_answered

    async def head(self) -> None:
        """Wait until status and headers are there. Raises BackendError."""
        while not self.status:
            await self.news()

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer, by their names in small letters; most answers are read without a look at them."""
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self._lines.items()}

    async def pump(self, sink: Sink) -> None:
        """Push every piece of the body into `sink` as it comes, until the sink has enough (it returns True) or the body ends.

        What comes between two pumps is kept for the second. Raises BackendError, the sink's own included.
        """
        pieces, self._buffer = self._buffer, []
        for place, data in enumerate(pieces, 1):
            self._buffered -= len(data)
            if sink(data):
                self._buffer = pieces[place:]
                return
        self._sink = sink
        self._is_full = False
        self._read_on()
        while not self._ended and self._sink is not None:
            await self.news()

    def body_in_one(self, limit_bytes: int) -> bytes | None:
        """The whole body, where it came with its head; None where it has to be waited for with `read`."""
        buffer = self._buffer
        return buffer[0] if self._ended and len(buffer) == 1 and self._buffered <= limit_bytes else None

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body. Raises ProtocolBroken where it is longer than `limit_bytes`."""
        body = self.body_in_one(limit_bytes)
        if body is not None:
            return body
        parts: list[bytes] = []
        size = 0

        def collect(data: bytes) -> None:
            nonlocal size
            size += len(data)
            if size > limit_bytes:
                raise ProtocolBroken(f"the answer is longer than {limit_bytes} bytes")
            parts.append(data)

        await self.pump(collect)
        return b"".join(parts)

    async def excerpt(self, limit_bytes: int) -> bytes:
        """The first `limit_bytes` of the body, or what came of it before it broke off or the limit passed. Raises nothing."""
        parts: list[bytes] = []
        size = 0

        def collect(data: bytes) -> bool:
            nonlocal size
            size += len(data)
            parts.append(data)
            return size >= limit_bytes

        with contextlib.suppress(BackendError):
            await self.pump(collect)
        return b"".join(parts)[:limit_bytes]

    def set_limit(self, limit_s: float, error: ErrorFactory) -> None:
        """Change what is being waited for: until `limit_s`, an instant of the loop's clock, else `error()`."""
        self.limit_s = limit_s
        self._limit_error = error
        self._alarm.watch(self)

    def abort(self, error: BackendError) -> None:
        """End the exchange from outside: the connection is closed and whoever waits gets `error`."""
        if self._ended or self._error is not None:
            return
        if self._connection is not None:
            self._connection.close()
        self._error = error
        self._wake()

    def release(self) -> Connection | None:
        """Leave, by any door: the connection if it may carry another exchange, else None, and then it is closed."""
        self._alarm.forget(self)
        connection, self._connection = self._connection, None
        self._sink = None
        self._limit_error = _no_content  # a reader's own would keep the reader, which keeps this, from being freed
        if connection is None:
            return None
        if self._ended and connection.is_idle:
            connection.resume_reading()  # else the next exchange, or the news that the server hung up, would never be read
            return connection
        connection.close()
        return None

    def tap(self, tap: Tap | None) -> None:
        """Offer each read to `tap` before it is parsed; see `backends.http1`."""
        if self._connection is not None and not self._ended:
            self._connection.tap = tap

    def pause_reading(self) -> None:
        """Hold the backend back until `resume_reading`: whoever is being written to has enough."""
        self._is_held = True
        if self._connection is not None:
            self._connection.pause_reading()

    def resume_reading(self) -> None:
        self._is_held = False
        self._read_on()

    def is_late(self) -> None:
        """The limit has passed."""
        self.abort(self._limit_error())

    # -- backends.http1.Receiver -------------------------------------------------------------------

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status = status
        self._lines = headers
        self._wake()

    def on_body(self, data: bytes) -> None:
        sink = self._sink
        if sink is None:
            self._buffer.append(data)
            self._buffered += len(data)
            if self._buffered > MAX_BUFFERED_BYTES and self._connection is not None:
                self._is_full = True
                self._connection.pause_reading()
            return
        try:
            if sink(data):
                self._sink = None
                self._wake()
        except BackendError as error:
            self.abort(error)

    def on_end(self) -> None:
        self._ended = True
        self._wake()

    def on_broken(self, error: BackendError) -> None:
        self._error = error
        self._wake()

    # -- inside ------------------------------------------------------------------------------------

    def _read_on(self) -> None:
        if self._connection is not None and not (self._is_full or self._is_held):
            self._connection.resume_reading()

    def news(self) -> asyncio.Future[None]:
        """What to wait for until something has changed. Raises BackendError where nothing will."""
        if self._error is not None:
            raise self._error
        waiter = self._waiter = self._loop.create_future()
        return waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


def _no_content() -> BackendError:
    return FirstTokenTimeout("no content came in time")
