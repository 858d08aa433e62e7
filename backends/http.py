"""A replica of an OpenAI-compatible backend over HTTP: `async with replica.open(call, limits) as reply`.

Leaving the block by any door releases the server: a connection whose answer ended goes back to the pool, any other is closed, and
that is what makes the server stop generating.

The one replay: a kept connection may have been closed by the server while our request was on its way. Where not one byte of an
answer came, the request is sent once more on a fresh connection; the server cannot have answered it, and this is no attempt of the
call's ladder. Source: RFC 9112 section 9.3.1; nginx and Go's net/http do the same for requests that can be replayed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from backends.dialects import Dialect
from backends.errors import BackendError, ConnectFailed, Failed, ProtocolBroken
from backends.exchange import ERROR_BODY_BYTES, ERROR_BODY_S, ErrorFactory, Exchange
from backends.faults import fault_of_answer
from backends.http1 import Connection, Pieces
from backends.pool import IDLE_S, Origin, Pool

PROBE_TIMEOUT_S = 2.0  # an engine that cannot say "200" in this time would not answer a call either
HIDDEN = "[key]"  # what stands where a server quoted the router's key
LONG_BYTES = 8_192  # from here on one system call for several pieces costs less than joining them (measured)
MAX_PROBE_BYTES = 262_144  # a server with hundreds of models lists them in less
MAX_ABOUT_BYTES = 2_097_152  # vLLM 0.32 describes its API in 274,459 bytes (captured)


Keep = Callable[[Exchange], None]
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,99}", re.ASCII)


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """One attempt's request: everything but what belongs to the replica."""

    path: bytes
    body: Pieces
    content_type: bytes = b"application/json"
    request_id: bytes = b""
    method: bytes = b"POST"


class Limits(msgspec.Struct, frozen=True):
    """`connect_s` is a duration; `first_content_s` an instant of the loop's clock, after which `late` says what went wrong."""

    connect_s: float
    first_content_s: float
    late: ErrorFactory


@dataclass(frozen=True, slots=True)
class Replica:
    """One server. `fixed_head` are the header lines of every request to it; it holds the `key`, so neither appears in a repr."""

    origin: Origin
    pool: Pool
    dialect: Dialect
    fixed_head: bytes = field(repr=False)
    key: str = field(default="", repr=False)

    def open(self, call: Outgoing, limits: Limits, keep: Keep | None = None) -> Opening:
        """Start an attempt. Entering raises BackendError for everything but a 2xx answer.

        `keep` gets the exchange where the block is cancelled while the server is at work; without it the server is cut off.
        """
        return Opening(self, self._request(call), limits, keep)

    async def probe(self) -> str:
        """Ask after the server's health, without inference. Returns "" where it is well, else one sentence."""
        try:
            body = await self.get(self.dialect.health_path)
        except BackendError as error:
            self.hide_key(error)
            return str(error) or type(error).__name__
        return (
            ""
            if self.dialect.is_healthy(body)
            else f"{self.dialect.health_path} does not answer as {self.dialect.kind} does"
        )

    async def lists(self) -> tuple[bytes, ...]:
        """What the server says of its models, one body for each of the dialect's `list_paths`; b"" where none came."""
        return await self._get_all(self.dialect.list_paths, MAX_PROBE_BYTES)

    async def about(self) -> tuple[bytes, ...]:
        """What the server says of itself, one body for each of the dialect's `about_paths`; b"" where none came."""
        return await self._get_all(self.dialect.about_paths, MAX_ABOUT_BYTES)

    async def _get_all(self, paths: Sequence[str], max_bytes: int) -> tuple[bytes, ...]:
        bodies = []
        for path in paths:
            try:
                bodies.append(await self.get(path, max_bytes))
            except BackendError:
                bodies.append(b"")
        return tuple(bodies)

    async def get(self, path: str, max_bytes: int = MAX_PROBE_BYTES) -> bytes:
        """The body of GET `path`, for questions that take no inference. Raises BackendError."""
        head = b"GET %b HTTP/1.1\r\n%b\r\n" % (path.encode(), self.fixed_head)
        due_s = asyncio.get_running_loop().time() + PROBE_TIMEOUT_S
        limits = Limits(PROBE_TIMEOUT_S, due_s, lambda: Failed(f"no answer within {PROBE_TIMEOUT_S:g} s"))
        async with Opening(self, (head,), limits) as reply:
            return await reply.read(max_bytes)

    def shown(self, model: str) -> str:
        """A model's name that the server gave, as the operator may read it; what looks like none, or holds the key, is not repeated."""
        is_name = _MODEL_NAME.fullmatch(model) is not None and not (self.key and self.key in model)
        return model if is_name else "another"

    def hide_key(self, error: BackendError) -> None:
        """Take the router's key out of what this server said with `error`: some quote it, and the words go into logs and answers."""
        if self.key:
            for form in {self.key, msgspec.json.encode(self.key).decode()[1:-1]}:
                error.args = (str(error).replace(form, HIDDEN),)
                error.body = error.body.replace(form.encode(), HIDDEN.encode())

    def _request(self, call: Outgoing) -> Pieces:
        if call.method != b"POST":
            head = b"%b %b HTTP/1.1\r\n%bx-request-id: %b\r\n\r\n"
            return (head % (call.method, call.path, self.fixed_head, call.request_id),)
        length = sum(map(len, call.body))
        head = b"POST %b HTTP/1.1\r\n%bcontent-type: %b\r\nx-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (
            call.path,
            self.fixed_head,
            call.content_type,
            call.request_id,
            length,
        )
        if length < LONG_BYTES:
            return (b"".join((head, *call.body)),)
        return head, *call.body


def replica_at(origin: Origin, dialect: Dialect, key: str = "", *, idle_s: float = IDLE_S) -> Replica:
    """A replica of its own pool; `key` is what the server wants as a bearer token, "" for none.

    Raises ValueError where the key holds what no header may carry; the blank space of a secret's file at its ends is dropped.
    """
    key = key.strip()
    if not all("!" <= character <= "~" for character in key):
        raise ValueError(f"the key of {origin.url} holds a character that no header may carry; use printable ASCII")
    bearer = f"authorization: Bearer {key}\r\n" if key else ""
    head = f"host: {origin.authority}\r\naccept-encoding: identity\r\n{bearer}"
    return Replica(origin, Pool(origin, idle_s=idle_s), dialect, head.encode("ascii"), key)


class Opening:
    """The block around one exchange. Built by `Replica.open`; enter it once."""

    __slots__ = ("_exchange", "_keep", "_limits", "_loop", "_replica", "_request")

    def __init__(self, replica: Replica, request: Pieces, limits: Limits, keep: Keep | None = None):
        self._replica = replica
        self._keep = keep
        self._request = request
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._exchange = Exchange(self._loop, limits.first_content_s, limits.late, replica.pool.alarm)

    async def __aenter__(self) -> Exchange:
        exchange = self._exchange
        try:
            warm = self._replica.pool.take_warm(self._loop.time())
            if warm is not None:
                try:
                    exchange.start(warm, self._request)
                    while not exchange.status:
                        await exchange.news()
                except (ConnectionError, ProtocolBroken) as error:
                    self._give_up(warm, error)
            if not exchange.status:
                await self._ask_afresh()
            if not 200 <= exchange.status < 300:
                limit_s = min(self._limits.first_content_s, self._loop.time() + ERROR_BODY_S)
                exchange.set_limit(limit_s, self._limits.late)
                body = await exchange.excerpt(ERROR_BODY_BYTES)
                raise fault_of_answer(exchange.status, exchange.headers, body)
        except BaseException as error:
            self._leave(type(error))
            raise
        return exchange

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._leave(kind)

    def _give_up(self, warm: Connection, error: ConnectionError | ProtocolBroken) -> None:
        """The kept connection is gone. Raises the error where an answer had begun on it."""
        if isinstance(error, ConnectionError):
            warm.close()
        elif self._exchange.got_bytes:
            raise error
        self._exchange.forget_connection()

    async def _ask_afresh(self) -> None:
        exchange = self._exchange
        fresh = await self._connect()
        try:
            exchange.start(fresh, self._request)
            await exchange.head()
        except ConnectionError as exc:
            fresh.close()
            raise ConnectFailed(f"{self._replica.origin.url} hung up at once") from exc

    async def _connect(self) -> Connection:
        """A fresh connection. The limit covers connecting too: whichever of the two ends first says what went wrong."""
        limits = self._limits
        left_s = limits.first_content_s - self._loop.time()
        try:
            return await self._replica.pool.connect(max(0.0, min(limits.connect_s, left_s)))
        except ConnectFailed as error:
            if isinstance(error.__cause__, TimeoutError) and left_s <= limits.connect_s:
                raise limits.late() from error
            raise

    def _leave(self, kind: type[BaseException] | None) -> None:
        if kind is asyncio.CancelledError and self._keep is not None and self._exchange.is_at_work:
            self._keep(self._exchange)
            return
        connection = self._exchange.release()
        if connection is not None:
            self._replica.pool.give(connection, self._loop.time())
