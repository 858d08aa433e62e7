"""A stream's relay takes most chunks by their shape: what the client gets must not depend on it, nor on how reads fell."""

from __future__ import annotations

import asyncio
import json
from typing import cast

from hypothesis import example, given
from hypothesis import strategies as st

from backends.canonical import Naming
from backends.canonical_forms import Answer
from backends.exchange import Exchange
from backends.http1 import Connection
from router.client import Client
from router.relay import StreamLimits, StreamRelay
from tests.upstream import END, STREAM_HEAD, chunked, event


class Wire(asyncio.Transport):
    """A socket that is fed by hand."""

    def write(self, data: bytes | bytearray | memoryview) -> None: ...
    def is_closing(self) -> bool:
        return False

    def abort(self) -> None: ...
    def get_write_buffer_size(self) -> int:
        return 0


class Reader:
    """A client that keeps what it gets, and counts what came by shape; `is_chunked` False: nothing may come so."""

    def __init__(self, *, is_chunked: bool):
        self.is_chunked = is_chunked
        self.got = b""
        self.by_shape = 0

    def write(self, data: bytes) -> None:
        self.got += data

    def write_framed(self, framed: bytes) -> None:
        while framed:
            size, _, framed = framed.partition(b"\r\n")
            self.by_shape += 1
            self.got += framed[: int(size, 16)]
            framed = framed[int(size, 16) + 2 :]

    def read_from(self, reader: object) -> None: ...


SAME = Answer("chat", wants_usage=True, one_tool_only=False)


async def relayed(reads: list[bytes], *, is_chunked: bool, turns: bool = False) -> Reader:
    """What a client got of these reads; `turns`: the loop turns after each."""
    loop = asyncio.get_running_loop()
    connection, exchange, reader = Connection(), Exchange(loop, loop.time() + 9), Reader(is_chunked=is_chunked)
    connection.connection_made(Wire())
    exchange.start(connection, (b"",))
    canonical = Naming("m", "jane").begin(SAME)
    canonical.begin_stream("chat")
    limits = StreamLimits(9, loop.time() + 9, loop.time() + 9)
    relay = StreamRelay(exchange, cast(Client, reader), canonical, limits)

    async def relay_all() -> None:
        await exchange.head()
        await relay.until_content()
        await relay.to_the_end()

    task = loop.create_task(relay_all())
    for read in reads:
        if turns:
            await asyncio.sleep(0)
        connection.data_received(read)
    await task
    exchange.release()
    return reader


def in_reads(raw: bytes, sizes: list[int]) -> list[bytes]:
    reads = []
    for size in sizes:
        reads.append(raw[:size])
        raw = raw[size:]
    return [read for read in [*reads, raw] if read]


DONE = b"data: [DONE]\n\n"
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":2,"completion_tokens":5}}\n\n'
EVENTS = st.sampled_from(
    [
        *(event({"content": text}) for text in ("a", " b", "longer than the others", "a\n", 'a"', "é", "")),
        event({"content": "x"}).replace(b'"model":"m"', b'"model": "m"'),
        event({"content": "crlf"}).removesuffix(b"\n\n") + b"\r\n\r\n",
        event({"content": "cr"}).removesuffix(b"\n\n") + b"\r\r",
        event({"reasoning": "why"}),
        event({"content": "a", "role": "assistant"}),
        event({"tool_calls": [{"index": 0, "function": {"arguments": '{"text":"'}}]}),
        b": ping\n\n",
        b": ping\n",
        event({"content": "two lines"}).replace(b',"choices"', b',\ndata: "choices"'),
    ]
)


@given(
    events=st.lists(EVENTS, max_size=14),
    after_done=st.lists(EVENTS, max_size=2),
    cuts=st.lists(st.integers(0, 260), max_size=20),
    sizes=st.lists(st.integers(1, 400), max_size=30),
    turns=st.booleans(),
)
@example(events=[event({"content": "a"})] * 9, after_done=[event({"content": "ghost"})], cuts=[], sizes=[], turns=True)
def test_what_the_client_gets_depends_neither_on_shapes_nor_on_how_chunks_and_reads_fell(
    events: list[bytes], after_done: list[bytes], cuts: list[int], sizes: list[int], turns: bool
) -> None:
    stream = [event({"content": "first"}), *events, event({}, "stop"), USAGE, DONE, *after_done]
    by_event = STREAM_HEAD + b"".join(chunked(one) for one in stream) + END
    cut_anywhere = STREAM_HEAD + b"".join(chunked(part) for part in in_reads(b"".join(stream), cuts)) + END
    one_a_read = [STREAM_HEAD, *(chunked(one) for one in stream), END]

    async def all_ways() -> list[bytes]:
        return [
            (await relayed(reads, is_chunked=is_chunked, turns=turns)).got
            for is_chunked in (False, True)
            for reads in (one_a_read, in_reads(by_event, sizes), in_reads(cut_anywhere, sizes))
        ]

    ways = asyncio.run(all_ways())
    assert len(set(ways)) == 1
    assert ways[0].endswith(DONE) and b"ghost" not in ways[0] and b'"m"' not in ways[0]
    assert [json.loads(one.removeprefix(b"data: ")) for one in ways[0].split(b"\n\n")[:-2]][-1]["usage"]


async def test_the_chunks_of_a_plain_stream_are_taken_by_their_shape() -> None:
    words = [chunked(event({"content": f"word {number}"})) for number in range(100)]
    reads = [STREAM_HEAD, *words, chunked(event({}, "stop")), chunked(DONE), END]
    assert (await relayed(reads, is_chunked=True, turns=True)).by_shape >= 98
    assert (await relayed(reads, is_chunked=False, turns=True)).by_shape == 0


async def test_a_stream_that_has_said_done_is_whole_although_its_framing_never_ends() -> None:
    words = [event({"content": "a"}), event({}, "stop"), DONE]
    for reads in ([STREAM_HEAD, *map(chunked, words)], [STREAM_HEAD + b"".join(map(chunked, words))]):
        async with asyncio.timeout(5):  # far below the 9 s between two tokens
            assert (await relayed(reads, is_chunked=True, turns=True)).got.endswith(DONE)
