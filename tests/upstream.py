"""A scripted backend on loopback: a raw socket server whose every answer a test decides, byte by byte."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

_LIST = (
    b'{"object":"list","data":[{"object":"model","root":"/"}]}'  # without a name: it serves whatever a test asks for
)
HEALTHY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_LIST), _LIST)


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Connection:
    """One client of the scripted backend: write what the script says, hang up how it says."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int

    async def write(self, *pieces: bytes) -> None:
        """Write each piece in a packet of its own."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)

    def reset(self) -> None:
        """Hang up with a reset, as a killed server's kernel does; closing alone would send a FIN."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        if sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def until_gone(self) -> None:
        """Wait until the other side has hung up."""
        while await self.reader.read(65536):
            pass


Script = Callable[[Received, Connection], Awaitable[None]]
Skill = Callable[[Received], bytes]  # the answer to a question after what a server makes of a conversation
HELD = "/v1/responses/"  # what is asked for there is a call, whatever the method
SKILL_PATHS = frozenset({"/tokenize", "/detokenize", "/apply-template"})


def knows_nothing(_request: Received) -> bytes:
    """The answer of a server that has no such route."""
    return b"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


@dataclass
class Upstream:
    """`async with Upstream(script) as up:`; `up.url`, and `up.received`, the calls that came.

    Health probes are answered and not kept, as is every GET but for a response that is held; questions after its skills are answered
    by `skill` and kept in `questions`.
    """

    script: Script
    skill: Skill = knows_nothing
    questions: list[Received] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    connections: int = 0
    is_well: bool = True
    lists: dict[str, bytes] = field(default_factory=dict)  # what it answers to GET, by path, where that is not HEALTHY
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Refuse connections from now on, and end those that there are."""
        if self._server is not None:
            self._server.close()
            while self._tasks:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None or not self._server.is_serving():
            writer.transport.abort()  # it was accepted in the moment of stopping
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = Connection(reader, writer, self.connections)
        try:
            while (request := await _read_request(reader)) is not None:
                if request.method == "GET" and not request.path.startswith(HELD):
                    if not self.is_well:
                        return
                    await connection.write(self.lists.get(request.path, HEALTHY))
                    continue
                if request.path in SKILL_PATHS:
                    self.questions.append(request)
                    await connection.write(self.skill(request))
                    continue
                self.received.append(request)
                await self.script(request, connection)
                if writer.is_closing():
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.gone.set()
            writer.transport.abort()


async def _read_request(reader: asyncio.StreamReader) -> Received | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(method, path, headers, body)


def answer(
    body: bytes | dict[str, Any], status: str = "200 OK", *headers: str, content_type: str = "application/json"
) -> bytes:
    """A whole answer with its length."""
    data = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
    lines = [f"HTTP/1.1 {status}", f"content-type: {content_type}", f"content-length: {len(data)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + data


def chat_answer(text: str = "Hello", model: str = "m") -> dict[str, Any]:
    """A chat completion."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model, "choices": [choice]}


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunked(data: bytes) -> bytes:
    """One chunk of HTTP's chunked coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(delta: dict[str, Any], finish_reason: str | None = None, model: str = "m") -> bytes:
    """One event of a chat stream."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice]}
    return b"data: %b\n\n" % json.dumps(body, separators=(",", ":")).encode()


def stream(*texts: str, model: str = "m") -> list[bytes]:
    """The packets of a whole chat stream: head, role, one chunk a text, finish, [DONE]."""
    events = [
        event({"role": "assistant", "content": ""}, model=model),
        *(event({"content": text}, model=model) for text in texts),
        event({}, "stop", model=model),
        b"data: [DONE]\n\n",
    ]
    return [STREAM_HEAD, *(chunked(one) for one in events), END]


def says(text: str = "Hello") -> Script:
    """A backend that answers every chat call with `text`, streamed word by word or whole."""

    async def script(request: Received, connection: Connection) -> None:
        asked = request.json
        if asked.get("stream"):
            words = [f"{word} " for word in text.split()]
            await connection.write(*stream(*words, model=asked["model"]))
        else:
            await connection.write(answer(chat_answer(text, asked["model"])))

    return script


def sends(*pieces: bytes) -> Script:
    """A backend that answers every call with these packets."""

    async def script(_request: Received, connection: Connection) -> None:
        await connection.write(*pieces)

    return script


def hangs_up_after(*pieces: bytes) -> Script:
    """A backend that writes these packets and resets the connection."""

    async def script(_request: Received, connection: Connection) -> None:
        await connection.write(*pieces)
        connection.reset()

    return script


async def hangs(_request: Received, connection: Connection) -> None:
    """A backend that never says anything."""
    await connection.until_gone()


@dataclass
class Backend:
    """A script that a test sets, and sets anew, while its backend runs."""

    script: Script = field(default_factory=lambda: says("x"))

    async def __call__(self, request: Received, connection: Connection) -> None:
        await self.script(request, connection)
