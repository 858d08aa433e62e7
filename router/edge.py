"""The client's side of a connection: uvicorn's HTTP protocol, with a direct way to write a chunk and to hear that the client left.

An ASGI `send` costs a coroutine, a dictionary, a list and a write to the socket of its own, and a stream of a thousand chunks pays
for them a thousand times. So calls are answered on the transport directly (`router.client`).

What uvicorn leaves open and is closed here: a head or the rest of a body that never comes, heads and URLs without a limit, requests
without a Host or under a stranger's name, with a whole URL in their first line, in HTTP/0.9, or in a transfer coding that is not read;
trailers that pose as headers; errors in another shape than OpenAI's; and reading that stays paused after a long body, which would keep
a client's leaving from being heard.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from router.cycle import CallCycle, HangsUpGently
from router.doors import Doors
from router.faults import OUT_OF_MEMORY_S, Fault, overloaded
from router.heads import (
    HEAD_TOO_LONG,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_URL_BYTES,
    NOT_HTTP,
    URL_TOO_LONG,
    VERSIONS,
    bad,
    fault_of_head,
)
from router.rest import Rest

EXTENSION = "crossfade.edge"
# nginx's default; Node's fetch re-uses a socket for 4 s and loses calls where the server closes near that.
KEEP_ALIVE_S = 75
HEAD_TIMEOUT_S = 10.0  # from a head's first byte to its last; HAProxy's usual `timeout http-request`
# For a whole body, absolute as HAProxy's (slowloris); also for the rest of one whose call is answered.
BODY_TIMEOUT_S = 30.0
SLOW_CLIENT_S = 60.0  # nginx's `send_timeout`: nothing at all was read for so long
LOOKS = 6  # how often in this time a slow client is looked after
LINGER_S = 5.0  # how long a connection that is being closed is still read; nginx's `lingering_timeout`

# Keeps nothing: a trailer must not be read as a header (RFC 9110, 6.5.1).
_TRAILERS: deque[tuple[bytes, bytes]] = deque(maxlen=0)


class Listener(Protocol):
    """Who wants to know about the client of the call that is being answered."""

    def client_left(self) -> None: ...
    def client_is_slow(self) -> None: ...
    def client_caught_up(self) -> None: ...


class EdgeProtocol(HttpToolsProtocol):
    """One client connection. How long it is waited for, in seconds, is the class's: a subclass may be less patient."""

    head_timeout_s = HEAD_TIMEOUT_S
    body_timeout_s = BODY_TIMEOUT_S
    slow_client_s = SLOW_CLIENT_S
    linger_s = LINGER_S
    doors = Doors()

    listener: Listener | None = None
    is_gone = False
    _raw_endpoints: Mapping[bytes, ASGI3Application] = MappingProxyType({})
    _is_lingering = False
    _is_in_head = False
    _asks_for_another_protocol = False
    _read = b""
    _is_split = False
    _head_bytes = 0
    _host = b"\n"  # the last that was accepted, so that the next need not be judged; at first one that none can be
    _fault: Fault | None = None
    _due: asyncio.TimerHandle | None = None
    _slow_due: asyncio.TimerHandle | None = None
    _unread_bytes = 0
    _read_at_s = 0.0

    @property
    def is_slow(self) -> bool:
        """Whether the client has more than the high-water mark (64 KiB) still to read."""
        return bool(self.flow.write_paused)

    def hang_up_after(self, cycle: RequestResponseCycle) -> None:
        """Close once `cycle` is answered, because the rest of its request will not be read as one."""
        cycle.keep_alive = False
        cycle.transport = HangsUpGently(self.transport, self.linger)  # type: ignore[assignment]

    def is_to_close(self) -> None:
        """Make the answer that is being prepared the connection's last."""
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def linger(self) -> None:
        """End our side now and the connection soon: closed at once while the client still writes, its kernel would drop the answer."""
        if self.is_gone or self._is_lingering:
            return
        self._is_lingering = True
        self.rest.end()
        self.flow.resume_reading()
        if not self.transport.is_closing():
            self.transport.write_eof()
        self._arm(self.linger_s, self.transport.abort)

    # -- asyncio.Protocol --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.is_gone = False  # read for every chunk, and found sooner here than in the class
        self._raw_endpoints = getattr(self.app, "raw_endpoints", self._raw_endpoints)
        self.rest = Rest(self.timeout_keep_alive, self.loop, self._has_rested)
        self.rest.begin()

    def data_received(self, data: bytes) -> None:
        if self._is_lingering:
            return
        if self.rest.until_s < math.inf:
            if not data.strip(b"\r\n"):
                return  # empty lines begin no request (RFC 9112, 2.2), and must not put off the end of an idle connection
            self.rest.end()
        goes_on = self._is_in_head
        self._read = data
        self._feed(data)
        if not self._is_in_head or self._is_lingering:
            self._is_split = False
            return
        self._is_split = True
        self._head_bytes = self._head_bytes + len(data) if goes_on else 0
        if len(self.url) > MAX_URL_BYTES:
            self._refuse(URL_TOO_LONG)
        elif self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(HEAD_TOO_LONG)
        elif self._due is None:
            self._arm(self.head_timeout_s, self._head_is_late)

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as news:
            self._read_without_upgrade(news)
        except httptools.HttpParserError as error:
            is_out_of_memory = isinstance(error.__context__, MemoryError)
            self._refuse(overloaded(OUT_OF_MEMORY_S) if is_out_of_memory else self._fault or NOT_HTTP)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_gone = True
        self._disarm()
        self._caught_up()
        self.rest.close()
        super().connection_lost(exc)
        if self.listener is not None:
            self.listener.client_left()

    def pause_writing(self) -> None:
        """A client that has stopped reading is as good as gone, and must keep neither a backend nor memory here, its call over or not."""
        super().pause_writing()
        self._unread_bytes, self._read_at_s = 0, self.loop.time()
        self._look_after_reader()
        if self.listener is not None:
            self.listener.client_is_slow()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._caught_up()
        if self.listener is not None:
            self.listener.client_caught_up()

    # -- httptools callbacks and uvicorn's own -------------------------------------------------------

    def on_message_begin(self) -> None:
        self._is_in_head = True
        self._fault = None
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        if self._due is not None:
            self._disarm()
        lines, url, parser = self.headers, self.url, self.parser
        headers, version = dict(lines), parser.get_http_version()
        if b"expect" in headers:
            self.expect_100_continue = headers[b"expect"].lower() == b"100-continue"
        if (
            headers.get(b"host") != self._host
            or len(headers) != len(lines)  # one stands there twice
            or b"transfer-encoding" in headers
            or len(headers) > MAX_HEADERS
            or len(url) > MAX_URL_BYTES
            or len(self._read) > MAX_HEAD_BYTES
            or self._is_split
            or b"#" in url
            or version not in VERSIONS
        ):
            self._judge_head(headers)
        if parser.should_upgrade() and parser.get_method() != b"CONNECT":
            self._asks_for_another_protocol = True
            return
        endpoint = self._raw_endpoints.get(url)
        self._begin(headers) if endpoint is None else self._begin_call(endpoint, headers, version)
        self.headers = _TRAILERS  # type: ignore[assignment]
        if self.doors.are_closing:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if not isinstance(cycle, CallCycle) or self._asks_for_another_protocol:
            super().on_body(body)
        elif not cycle.response_complete and cycle.take(body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        if self._asks_for_another_protocol:
            return
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()
        if not self.pipeline:
            self.flow.resume_reading()
        if self._due is not None:  # the rest of a body whose call is answered; the connection may carry the next call
            self._disarm()
            self.rest.begin()

    def on_response_complete(self) -> None:
        """As uvicorn's, but with one timer for many rests."""
        self.server_state.total_requests += 1
        is_read = self.pipeline or not self.cycle.more_body
        if self._is_lingering:
            self.pipeline.clear()  # what came behind a request after which we hang up is never begun
        if self.transport.is_closing():  # which takes as long as there is something to read
            self._arm(self.slow_client_s, self.transport.abort)
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif is_read or self._is_lingering:
            self.rest.begin()
        else:
            self._arm(self.body_timeout_s, self.linger)

    def _has_rested(self) -> None:
        self.timeout_keep_alive_handler()
        self._arm(self.linger_s, self.transport.abort)

    def shutdown(self) -> None:
        """Close what is idle; a request that has begun to arrive is still answered."""
        if not self._is_in_head:
            super().shutdown()

    # -- inside ------------------------------------------------------------------------------------

    def _read_without_upgrade(self, news: httptools.HttpParserUpgrade) -> None:
        """Java's client asks for HTTP/2 in its first request. The parser drops such a request's body, so read it again without the wish."""
        if not self._asks_for_another_protocol:
            return
        self._asks_for_another_protocol = False
        wishes = (b"connection", b"upgrade", b"http2-settings")
        lines = b"".join(b"%b: %b\r\n" % line for line in self.headers if line[0] not in wishes)
        head = b"%b %b HTTP/1.1\r\n%b\r\n" % (self.parser.get_method(), self.url, lines)
        self.parser = httptools.HttpRequestParser(self)
        self._feed(head + self._read[news.args[0] :])

    def _begin_call(self, endpoint: ASGI3Application, headers: dict[bytes, bytes], version: str) -> None:
        """Start the task of a request to a raw endpoint."""
        before: RequestResponseCycle | None = self.cycle
        cycle = self.cycle = CallCycle(self, version)
        cycle.scope["extensions"] = {EXTENSION: Turn(self, cycle, headers)}
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, endpoint)
        else:  # pipelined
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, endpoint))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if not isinstance(cycle, CallCycle):
            super()._start_asgi_task(cycle, app)
            return
        task: asyncio.Task[None] = self.loop.create_task(app(cycle.scope, cycle.receive, cycle.send))  # type: ignore[arg-type]
        task.add_done_callback(cycle.is_over)
        self.tasks.add(task)

    def _begin(self, by_name: dict[bytes, bytes]) -> None:
        """Start the task of any other request, as uvicorn does."""
        headers, url, expects = self.headers, self.url, self.expect_100_continue
        super().on_message_begin()  # makes the scope
        self.headers.extend(headers)
        self.url, self.expect_100_continue = url, expects
        super().on_headers_complete()
        if not self.url.startswith(b"/"):
            self.scope["raw_path"] = self.url  # a whole URL is no path, and nothing stands at it
        self.scope["extensions"] = {EXTENSION: Turn(self, self.cycle, by_name)}  # type: ignore[dict-item]

    def _judge_head(self, headers: dict[bytes, bytes]) -> None:
        """Take a key that stands there twice out of `headers`.

        Raises where the request must not become one: the parser's error, which `_feed` answers with the fault.
        """
        self._fault = fault_of_head(self.url, self.headers, self.parser.get_http_version(), self.doors.hosts)
        if self._fault is not None:
            raise ValueError(self._fault.message)
        self._host = headers.get(b"host", self._host)
        names = [name for name, _ in self.headers]
        for key in (b"authorization", b"x-api-key"):
            if names.count(key) > 1:
                del headers[key]  # whoever stands in front may have judged any of them, so none counts

    def _refuse(self, fault: Fault) -> None:
        """Answer what never became a whole request, but never into the middle of a running call's answer: then only close."""
        self._is_in_head = False
        self.doors.turned_away(fault.result)
        running: RequestResponseCycle | None = self.cycle
        if running is not None and not running.response_complete:
            if self.pipeline or running.response_started or not running.more_body:
                self.transport.close()
                return
            # Its body is what went wrong, and this is its answer: nobody else may give one.
            running.response_started = running.response_complete = True
        body = fault.body()
        lines = [
            (b"x-request-id", secrets.token_hex(16).encode()),
            *fault.all_headers(),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        head = b"".join(b"%b: %b\r\n" % line for line in lines)
        status_line = f"HTTP/1.1 {fault.status} {HTTPStatus(fault.status).phrase}\r\n".encode()
        self.transport.write(b"%b%b\r\n%b" % (status_line, head, body))
        self.linger()
        if self.listener is not None:
            self.listener.client_left()

    def _head_is_late(self) -> None:
        self._refuse(bad(408, f"The head of the request did not arrive within {self.head_timeout_s:g} s."))

    def _arm(self, delay_s: float, callback: Callable[[], Any]) -> None:
        self._disarm()
        self._due = self.loop.call_later(delay_s, callback)

    def _look_after_reader(self) -> None:
        """What is still to be read may grow meanwhile, by the rest of what the backend had sent; only where it shrinks, somebody reads."""
        now_s, unread_bytes = self.loop.time(), self.transport.get_write_buffer_size()
        if unread_bytes < self._unread_bytes:
            self._read_at_s = now_s
        self._unread_bytes = unread_bytes
        if now_s - self._read_at_s >= self.slow_client_s:
            self.transport.abort()
        else:
            self._slow_due = self.loop.call_later(self.slow_client_s / LOOKS, self._look_after_reader)

    def _caught_up(self) -> None:
        if self._slow_due is not None:
            self._slow_due.cancel()
            self._slow_due = None

    def _disarm(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None


class Turn(NamedTuple):
    """One request on its connection; with pipelining the connection's own `cycle` may be a later one.

    `headers` by their names in small letters; of several lines the last, of several keys none.
    """

    edge: EdgeProtocol
    cycle: RequestResponseCycle
    headers: dict[bytes, bytes]


def turn_of(scope: Any) -> Turn:
    """The connection that a request came in on, and its place there. Raises KeyError under a server that is not Crossfade's own.

    It is taken out of the scope: the cycle holds the scope, and a call that holds itself would be left to the garbage collector.
    """
    turn: Turn = scope["extensions"].pop(EXTENSION)
    return turn
