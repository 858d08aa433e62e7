"""What is fed to each reader of foreign bytes, and what must hold of the outcome whatever the bytes are."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Any

from backends.answers import ChunkShape, read_chunk
from backends.canonical import Naming
from backends.canonical_forms import Answer
from backends.errors import BackendError, ProtocolBroken
from backends.faults import fault_of_answer, fault_of_error, retry_after_s
from backends.http1 import Connection
from backends.sse import Event, SseDecoder
from router.config import Config, ConfigInvalid, loads
from router.edge import EdgeProtocol
from router.faults import fault_of
from router.multipart import read_form
from router.reading import BadCall, read_body
from router.serve import server_for
from tests.faults.simulated import CALL, VirtualLoop, World, joined
from tests.upstream import event

Target = Callable[[bytes], None]
NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
NO_ANSWERS = {400, 401, 403, 404, 405, 408, 413, 415, 417, 421, 431, 200, 503}


def sse(data: bytes) -> None:
    """The events are the same whole, byte by byte and cut in the middle; nothing but ProtocolBroken is raised."""
    ways = [_events([data]), _events([data[i : i + 1] for i in range(len(data))])]
    ways.append(_events([data[: len(data) // 2], data[len(data) // 2 :]]))
    assert ways[0] == ways[1] == ways[2]


def _events(reads: list[bytes]) -> list[Event] | None:
    decoder, events = SseDecoder(), list[Event]()
    try:
        for read in reads:
            events += decoder.feed(read)
    except ProtocolBroken:
        return None
    return events


def retry_after(data: bytes) -> None:
    """A wait that is a number of seconds, or none."""
    wait_s = retry_after_s(data.decode("latin-1"), NOW)
    assert wait_s is None or (wait_s >= 0 and math.isfinite(wait_s))


def body(data: bytes) -> None:
    """A call's body is refused as the caller's fault, or read; and what is sent on differs in the model's name alone."""
    for kind in ("chat", "completions", "embeddings", "pass"):
        try:
            read = read_body(kind, data)
        except BadCall:
            continue
        asked, sent = json.loads(data), json.loads(b"".join(read.write(b'"other"')))
        assert sent == {**asked, "model": "other"} or asked != asked  # NaN, which Python's own reader lets pass


def form(data: bytes) -> None:
    """The same for a form."""
    try:
        read = read_form(data, b"multipart/form-data; boundary=x")
    except BadCall:
        return
    assert read.model


def error(data: bytes) -> None:
    """Any body of any refusal has a meaning, and words for the client in OpenAI's envelope."""
    for fault in (fault_of_error(data), *(fault_of_answer(status, {}, data) for status in (400, 404, 429, 500))):
        assert isinstance(fault, BackendError)
        told = json.loads(fault_of(fault).body())
        assert set(told["error"]) == {"message", "type", "param", "code"}
        assert 400 <= fault_of(fault).status <= 599


class _Ends:
    """Counts how often an answer ends."""

    def __init__(self) -> None:
        self.ends = 0

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        assert 200 <= status <= 999

    def on_body(self, data: bytes) -> None: ...
    def on_end(self) -> None:
        self.ends += 1

    def on_broken(self, error: BackendError) -> None:
        assert isinstance(error, ProtocolBroken)
        self.ends += 1


class _Wire(asyncio.Transport):
    """A socket that takes everything."""

    is_over = False

    def write(self, data: bytes | bytearray | memoryview) -> None: ...
    def abort(self) -> None:
        self.is_over = True

    def is_closing(self) -> bool:
        return self.is_over

    def get_write_buffer_size(self) -> int:
        return 0


def answer(data: bytes) -> None:
    """What a backend sends ends once as an answer or once as none, in any number of reads."""
    for size in (1, 7, 1 << 20):
        connection, wire, heard = Connection(), _Wire(), _Ends()
        connection.connection_made(wire)
        connection.send((b"GET / HTTP/1.1\r\n\r\n",), heard)
        for start in range(0, len(data), size):
            if not wire.is_over:
                connection.data_received(data[start : start + size])
        connection.connection_lost(None)
        assert heard.ends == 1


LEARNED = event({"content": "learned"})
CANONICAL = Naming("m", "jane").begin(Answer("chat", wants_usage=False, one_tool_only=False))
CANONICAL.begin_stream("chat")


def canonical(event: bytes) -> bytes:
    """A text event as clients get it."""
    out: list[bytes] = []
    CANONICAL.put(read_chunk(event[6:-2]), out)
    return out[-1]


def shape(data: bytes) -> None:
    """What is taken by its shape is what reading it in full gives."""
    known = ChunkShape()
    assert known.learn(LEARNED, canonical(LEARNED))
    out, taken = known.apply(data)
    chunks, position = [], 0
    while position < taken:
        end = data.index(b"\r\n", position)
        size = int(data[position:end], 16)
        chunks.append(data[end + 2 : end + 2 + size])
        position = end + 4 + size
    assert position == taken
    framed = b""
    for chunk in chunks:
        said = json.loads(chunk.removeprefix(b"data: "))
        assert chunk.startswith(b"data: ") and said["model"] == "m" and said["choices"][0]["finish_reason"] is None
        sent = canonical(chunk)
        framed += b"%x\r\n%b\r\n" % (len(sent), sent)
    assert out.lower() == framed.lower()


def config(data: bytes) -> None:
    """A file is a configuration, or every problem of it is said."""
    try:
        loaded = loads(data.decode("utf-8", "surrogateescape"), {})
    except ConfigInvalid as invalid:
        assert invalid.problems
        str(invalid).encode()
        return
    assert isinstance(loaded.config, Config)


@cache
def _config() -> Config:
    return loads(
        "backends: {a: {kind: vllm, url: 'http://h:1'}}\nmodels: {jane: {on: {a: m}, split: {a: 1}}}", {}
    ).config


def head(data: bytes) -> None:
    """What a client sends is answered, refused or waited for; never with a 500, and nothing else happens in the loop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop: Any = runner.get_loop()
        loop.world = World({1: []}, {1: "a"})
        runner.run(_told(data))


class _Heard(asyncio.Protocol):
    def __init__(self) -> None:
        self.said = b""

    def data_received(self, data: bytes) -> None:
        self.said += data


async def _told(data: bytes) -> None:
    loop = asyncio.get_running_loop()
    stumbles: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: stumbles.append(context))
    CALL.set(0)
    server = server_for(_config(), {})
    server.config.load()
    heard = _Heard()
    wire = joined(heard, EdgeProtocol(server.config, server.server_state, {}))
    for piece in (data[: len(data) // 3], data[len(data) // 3 :]):
        wire.write(piece)
        await asyncio.sleep(0.01)
    await asyncio.sleep(15)  # of the virtual clock: past what a head may take
    wire.close()
    await asyncio.sleep(0)
    assert not stumbles, stumbles
    for line in heard.said.split(b"HTTP/1.1 ")[1:2]:
        assert int(line[:3]) in NO_ANSWERS, line


TARGETS: dict[str, Target] = {
    "sse": sse,
    "retry_after": retry_after,
    "body": body,
    "form": form,
    "error": error,
    "answer": answer,
    "shape": shape,
    "config": config,
    "head": head,
}
