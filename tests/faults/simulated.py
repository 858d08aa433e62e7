"""The router on a clock that jumps and a network in memory: hours of failing backends in milliseconds, with no part of it replaced.

The loop is an ordinary one whose selector, instead of waiting, moves the clock to the next timer. Its connections are pairs of pipes.
Between them stands all that is the product: the client's side of the edge, admission, dispatch, policies, pool, HTTP, relay.
Which call an attempt belongs to is known by a context variable: what a call starts or writes carries its number along.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from router.edge import EdgeProtocol
from router.endpoints import CallEndpoint
from router.serve import server_for
from tests.rawclient import chat_body, request
from tests.upstream import END, STREAM_HEAD, answer, chat_answer, chunked, event

CALL: contextvars.ContextVar[int] = contextvars.ContextVar("the number of the call")


class _Clock(selectors.SelectSelector):
    """Never waits: whoever would be waited for in vain is a timer, and its time comes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = time.monotonic()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits, and nothing is left that could happen"
        self.now_s += max(0.0, timeout)
        return []


@dataclass(frozen=True, slots=True)
class Deed:
    """What a backend does with one attempt: `kind` after `after_s`; a stream that has begun goes on for `more_s`."""

    kind: str
    after_s: float
    more_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Made:
    """One attempt that has reached a backend, or its closed port."""

    call: int
    backend: str
    at_s: float


class Pipe(asyncio.Transport):
    """One end of a connection in memory; what is written arrives at the other end in the loop's next turn, in its order."""

    def __init__(self, protocol: asyncio.Protocol):
        super().__init__()
        self.protocol = protocol
        self.peer: Pipe | None = None
        self._loop = asyncio.get_running_loop()
        self._is_closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._is_closing and self.peer is not None:
            self._loop.call_soon(self.peer.receive, bytes(data))

    def receive(self, data: bytes) -> None:
        if not self._is_closing:
            self.protocol.data_received(data)

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._loop.call_soon(self.protocol.connection_lost, None)
            if self.peer is not None:
                self._loop.call_soon(self.peer.hang_up)

    def hang_up(self) -> None:
        """The other end is gone."""
        if not self._is_closing:
            self._is_closing = True
            self.protocol.connection_lost(None)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self._is_closing

    def write_eof(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default


def joined(left: asyncio.Protocol, right: asyncio.Protocol) -> Pipe:
    """The left end of a new connection between two protocols."""
    ours, theirs = Pipe(left), Pipe(right)
    ours.peer, theirs.peer = theirs, ours
    right.connection_made(theirs)
    left.connection_made(ours)
    return ours


FOREVER_S = 600.0
WELL = Deed("ok", 0.01)


@dataclass
class World:
    """Backends by port, each with the deeds that are still to come; when they are used up it is well."""

    deeds: Mapping[int, list[Deed]]
    names: Mapping[int, str]
    made: list[Made] = field(default_factory=list)

    def take(self, port: int) -> Deed:
        """The deed of the attempt that is being made now."""
        self.made.append(Made(CALL.get(), self.names[port], asyncio.get_running_loop().time()))
        return self.deeds[port].pop(0) if self.deeds[port] else WELL

    def is_next(self, port: int, *kinds: str) -> bool:
        return bool(self.deeds[port]) and self.deeds[port][0].kind in kinds

    async def reach(self, port: int) -> None:
        """Return where a connection can be made; raises, or waits for ever, where not."""
        if self.is_next(port, "refuse", "drop"):
            deed = self.take(port)
            await asyncio.sleep(deed.after_s if deed.kind == "refuse" else 1e6)
            raise ConnectionRefusedError(111, "Connection refused")


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop in which waiting takes no time and every connection leads into `world`."""

    world: World

    def __init__(self) -> None:
        self._clock = _Clock()
        self._reached: dict[socket.socket, int] = {}
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now_s

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
        """Every name is known, and has one address."""
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))]

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Reach a port of the world; the socket itself stays as it is, and only stands for it."""
        await self.world.reach(address[1])
        self._reached[sock] = address[1]

    async def create_connection(self, factory: Any, *, sock: socket.socket, **_: Any) -> Any:  # type: ignore[override]
        """A connection to the port of the world that was reached."""
        sock.close()
        protocol = factory()
        joined(protocol, _Server(self.world, self._reached.pop(sock)))
        return protocol.transport, protocol


class _Server(asyncio.Protocol):
    """A backend's side of one connection."""

    def __init__(self, world: World, port: int):
        self._world, self._port = world, port
        self._read = b""
        self._is_kept = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast(Pipe, transport)

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, _, body = self._read.partition(b"\r\n\r\n")
        length = next(int(line[16:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length: "))
        if len(body) < length:
            return
        self._read = b""
        if self._is_kept and self._world.is_next(self._port, "refuse", "drop", "reset", "break"):
            self._wire.close()  # it has been restarted: a kept connection is gone, and the request is sent on a new one
            return
        self._is_kept = True
        deed = self._world.take(self._port)
        asyncio.get_running_loop().call_later(deed.after_s, self._play, deed, b'"stream":true' in body)

    def _play(self, deed: Deed, is_stream: bool) -> None:
        if deed.kind in ("ok", "break", "stall") and is_stream:
            self._wire.write(STREAM_HEAD + chunked(event({"content": "word "})))
            if deed.kind != "stall":
                asyncio.get_running_loop().call_later(deed.more_s, self._end, deed.kind == "ok")
        elif deed.kind == "ok":
            self._wire.write(answer(chat_answer("words")))
        elif deed.kind in ("break", "reset"):
            self._wire.close()
        elif deed.kind == "garbage":
            self._wire.write(b"\0\1\r\n\r\n")
        elif deed.kind not in ("stall", "silent"):
            status, _, wait = deed.kind.partition(" ")
            lines = [f"retry-after: {wait}"] if wait else []
            self._wire.write(answer({"error": {"message": "no"}}, f"{status} No", *lines))

    def _end(self, is_well: bool) -> None:
        if is_well:
            self._wire.write(chunked(event({}, "stop")) + chunked(b"data: [DONE]\n\n") + END)
        else:
            self._wire.close()


@dataclass(frozen=True, slots=True)
class Ask:
    """One call: when it comes, whether it streams, how long it may take in all."""

    at_s: float
    stream: bool
    total_s: float


@dataclass(slots=True)
class Answered(asyncio.Protocol):
    """The client's side of one call."""

    ask: Ask
    began_s: float = 0.0
    ended_s: float | None = None
    said: bytes = b""

    def data_received(self, data: bytes) -> None:
        self.said += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended_s = asyncio.get_running_loop().time()

    @property
    def took_s(self) -> float:
        assert self.ended_s is not None, "the call was never answered"
        return self.ended_s - self.began_s


@dataclass(frozen=True, slots=True)
class Played:
    """What came of it. `seconds`: from the first call to the last answer."""

    answers: list[Answered]
    made: list[Made]
    endpoint: CallEndpoint
    seconds: float


def play(config: Any, ports: Mapping[str, int], deeds: Mapping[str, Sequence[Deed]], asks: Sequence[Ask]) -> Played:
    """Run the router of `config` in front of backends at `ports` that do these deeds, and make these calls."""
    world = World(
        {ports[name]: list(each) for name, each in deeds.items()}, {port: name for name, port in ports.items()}
    )
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        cast(VirtualLoop, runner.get_loop()).world = world
        return runner.run(_play(config, world, asks))


async def _play(config: Any, world: World, asks: Sequence[Ask]) -> Played:
    loop = asyncio.get_running_loop()
    server = server_for(config, {})
    server.config.load()
    app: Any = server.config.loaded_app
    while not hasattr(app, "raw_endpoints"):
        app = app.app
    endpoint: CallEndpoint = app.raw_endpoints[b"/v1/chat/completions"]
    endpoint.fleet.rng.seed(1)
    answers = [Answered(ask) for ask in asks]
    began_s = loop.time()

    def begin(number: int, answered: Answered) -> None:
        CALL.set(number)
        answered.began_s = loop.time()
        edge = EdgeProtocol(server.config, server.server_state, {})
        wire = joined(answered, edge)
        body = chat_body(**({"stream": True} if answered.ask.stream else {}))
        wire.write(request(body, f"x-crossfade-timeout-s: {answered.ask.total_s}", "connection: close"))

    for number, answered in enumerate(answers):
        loop.call_later(answered.ask.at_s, begin, number, answered, context=contextvars.Context())
    while any(answered.ended_s is None for answered in answers):
        await asyncio.sleep(0.5)
        assert loop.time() - began_s < FOREVER_S, "a call is never answered"
    seconds = max(answered.ended_s or 0.0 for answered in answers) - began_s
    for backend in endpoint.fleet.backends.values():
        for replica in backend.replicas:
            replica.server.pool.close()
    return Played(answers, world.made, endpoint, seconds)
