"""One contract over every kind of backend: open, head, chunks, release, cancel, probe, against a server of that kind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from backends.answers import read_chunk, read_whole
from backends.dialects import DIALECTS
from backends.errors import BackendError, Failed, FirstTokenTimeout, KeyRefused, ProtocolBroken, Refused
from backends.http import Replica
from backends.sse import SseDecoder
from tests.backends.captured import captured
from tests.backends.wire import CALL, Handler, Wire, body_of, limits, request_of, serving
from tests.upstream import END, STREAM_HEAD, Connection, answer, chat_answer, chunked, event, stream

LISTS = answer({"object": "list", "data": [{"id": "m", "object": "model"}]})
WELL = {
    "openai": LISTS,
    "lmstudio": LISTS,
    "vllm": answer(captured("vllm-0.33-gpt-oss/health")[2]),
    "llama-server": answer(captured("llama-server-smollm2/01_health")[2]),
}
# Each kind's own end of a stream and its own mid-stream error, in its own lines.
STREAMS = {
    "openai": stream("one ", "two "),
    "vllm": stream("one ", "two "),
    "lmstudio": [
        STREAM_HEAD,
        *(chunked(event({"role": "assistant", "content": text, "tool_calls": []})) for text in ("one ", "two ")),
        chunked(event({"role": "assistant"}, "stop")),
        chunked(b"data: [DONE]\n\n"),
        END,
    ],
    "llama-server": [
        STREAM_HEAD,
        chunked(event({"role": "assistant", "content": None}) + event({"content": "one "})),
        chunked(b":\n\n"),
        chunked(event({"content": "two "})),
        chunked(event({}, "stop") + b"data: [DONE]\n\n"),
        END,
    ],
}

kinds = pytest.mark.parametrize("kind", sorted(DIALECTS))


def of_kind(kind: str, *pieces: bytes) -> Handler:
    """A server that answers its kind's probe, and every call with these packets."""

    async def handle(connection: Connection) -> None:
        while True:
            request = await request_of(connection)
            is_probe = request.startswith(b"GET %b HTTP/1.1\r\n" % DIALECTS[kind].health_path.encode())
            await connection.write(*([WELL[kind]] if is_probe else pieces))

    return handle


@asynccontextmanager
async def backend(kind: str, *pieces: bytes) -> AsyncIterator[tuple[Wire, Replica]]:
    """A replica of this kind and the server behind it."""
    async with serving(of_kind(kind, *pieces)) as wire:
        yield wire, replace(wire.replica(), dialect=DIALECTS[kind])


def test_every_kind_has_its_part_in_the_contract() -> None:
    assert set(WELL) == set(STREAMS) == set(DIALECTS)


@kinds
async def test_a_whole_answer(kind: str) -> None:
    async with backend(kind, answer(chat_answer("Hello"))) as (wire, replica):
        async with replica.open(CALL, limits()) as reply:
            assert reply.status == 200 and reply.headers["content-type"] == "application/json"
            assert read_whole("chat", await reply.read(1 << 20)).model == "m"
        assert replica.pool.idle == 1 and wire.connections == 1


@kinds
async def test_a_stream_is_the_same_text_whoever_sends_it(kind: str) -> None:
    async with backend(kind, *STREAMS[kind]) as (_, replica):
        decoder, events = SseDecoder(), list[bytes]()
        async with replica.open(CALL, limits()) as reply:
            assert reply.headers["content-type"].startswith("text/event-stream")
            await reply.pump(lambda data: events.extend(one.data for one in decoder.feed(data)))
            assert not reply.is_at_work
        assert replica.pool.idle == 1
    assert events.pop() == b"[DONE]"
    chunks = [read_chunk(data) for data in events]
    texts = [choice.delta.content for chunk in chunks for choice in chunk.choices or () if choice.delta is not None]
    assert "".join(text for text in texts if isinstance(text, str)) == "one two "
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]
    assert sum(chunk.has_content for chunk in chunks) == 2


@kinds
async def test_leaving_before_the_end_hangs_up_and_the_next_call_is_served(kind: str) -> None:
    async with backend(kind, *STREAMS[kind][:-1]) as (wire, replica):
        async with replica.open(CALL, limits()) as reply:
            await reply.pump(lambda _: True)
        await wire.until_one_is_gone()
        assert replica.pool.idle == 0
        async with replica.open(CALL, limits()) as reply:
            await reply.pump(lambda _: True)
        assert wire.connections == 2


@kinds
async def test_a_cancelled_call_hangs_up(kind: str) -> None:
    async with backend(kind, *STREAMS[kind][:2]) as (wire, replica):
        began = asyncio.Event()

        async def call() -> None:
            async with replica.open(CALL, limits()) as reply:
                await reply.pump(lambda _: began.set())

        task = asyncio.create_task(call())
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await wire.until_one_is_gone()


REFUSALS: list[tuple[str, list[bytes], type[BackendError]]] = [
    ("too busy", [answer({"error": {"message": "busy"}}, "503 Service Unavailable")], Refused),
    ("failed", [answer({"error": {"message": "boom"}}, "500 Internal Server Error")], Failed),
    ("the key", [answer({"error": "Unauthorized"}, "401 Unauthorized")], KeyRefused),
    ("a redirect", [answer(b"", "307 Temporary Redirect", "location: /")], ProtocolBroken),
    ("garbage", [b"\x00\x01\r\n\r\n"], ProtocolBroken),
    ("silence", [], FirstTokenTimeout),
]


@kinds
@pytest.mark.parametrize(("pieces", "error"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
async def test_what_is_no_answer_raises_as_the_block_is_entered(
    kind: str, pieces: list[bytes], error: type[BackendError]
) -> None:
    async with backend(kind, *pieces) as (_, replica):
        with pytest.raises(BackendError) as caught:
            await body_of(replica, within=limits(5 if pieces else 0.05))
        assert type(caught.value) is error


@kinds
async def test_a_probe_of_a_server_that_is_well_says_nothing_and_keeps_its_connection(kind: str) -> None:
    async with backend(kind, answer(chat_answer())) as (wire, replica):
        assert await replica.probe() == ""
        assert await body_of(replica)
        assert await replica.probe() == ""
        assert wire.connections == 1 and replica.pool.idle == 1


UNWELL: list[tuple[str, bytes, str]] = [
    (
        "loading",
        answer({"error": {"message": "Loading model", "code": 503}}, "503 Service Unavailable"),
        "Loading model",
    ),
    ("dead", answer(b"", "503 Service Unavailable"), "answered 503"),
    ("another kind's lie", answer({"error": "Unexpected endpoint or method. (GET /x)"}), "does not answer as"),
    ("no such path", answer({"detail": "Not Found"}, "404 Not Found"), "Not Found"),
]


@kinds
@pytest.mark.parametrize(("said", "words"), [row[1:] for row in UNWELL], ids=[row[0] for row in UNWELL])
async def test_a_probe_of_a_server_that_is_not_well_says_why(kind: str, said: bytes, words: str) -> None:
    async def handle(connection: Connection) -> None:
        await request_of(connection)
        await connection.write(said)

    async with serving(handle) as wire:
        replica = replace(wire.replica(), dialect=DIALECTS[kind])
        assert words in await replica.probe()
