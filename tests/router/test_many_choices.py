"""Streams of calls with `n > 1`: each choice ends by itself, and only all ends together are the end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.running import config_for, running
from tests.upstream import END, STREAM_HEAD, Connection, Received, Upstream, chunked, sends

HELD = "split: {a: 1.0}\naccept: {json: hold}"
AS_JSON = {"response_format": {"type": "json_object"}}
DONE = chunked(b"data: [DONE]\n\n")


def piece(index: int, text: str | None = None, finish_reason: str | None = None) -> bytes:
    """A chunk of one choice."""
    delta: dict[str, Any] = {"content": text} if text is not None else {}
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
    return chunked(b"data: %b\n\n" % json.dumps({"model": "m", "choices": [choice]}, separators=(",", ":")).encode())


TALK = [STREAM_HEAD, piece(0, "a"), piece(1, "b"), piece(0, "a"), piece(0, None, "stop"), piece(1, "b")]

ENDS: list[tuple[str, list[bytes], bool]] = [
    ("cut after the first choice's end", [*TALK, END], False),
    ("all ended, then [DONE]", [*TALK, piece(1, None, "length"), DONE, END], True),
    ("all ended, without [DONE]", [*TALK, piece(1, None, "stop"), END], True),
]


@pytest.mark.parametrize(("pieces", "is_whole"), [row[1:] for row in ENDS], ids=[row[0] for row in ENDS])
async def test_a_stream_of_two_choices_is_whole_only_when_both_have_ended(pieces: list[bytes], is_whole: bool) -> None:
    async with Upstream(sends(*pieces)) as a, running(config_for({"a": a.url})) as router:
        response = await router.chat(stream=True, n=2)
    assert response.text.endswith("data: [DONE]\n\n") is is_whole
    assert ('"error"' in response.text) is not is_whole


@pytest.mark.parametrize("pieces", [[piece(0, ""), piece(1, ""), piece(0, "{")], [piece(0, "{"), piece(1, "{")]])
async def test_choices_that_are_not_judged_are_not_held_back(pieces: list[bytes]) -> None:
    may_end = asyncio.Event()

    async def begins(_request: Received, connection: Connection) -> None:
        await connection.write(STREAM_HEAD, *pieces)
        await may_end.wait()
        await connection.write(piece(0, None, "stop"), piece(1, None, "stop"), DONE, END)

    body = {"model": "jane", "messages": [{"role": "user", "content": "x"}], "stream": True, "n": 2, **AS_JSON}
    async with (
        Upstream(begins) as a,
        running(config_for({"a": a.url}, model=HELD)) as router,
        asyncio.timeout(10),
        router.client.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        lines = response.aiter_lines()
        async for line in lines:
            if '"content":"{"' in line:
                break
        may_end.set()
        assert [line async for line in lines if line][-1] == "data: [DONE]"


async def test_the_type_of_an_answer_may_be_written_in_capitals() -> None:
    head = STREAM_HEAD.replace(b"text/event-stream", b"Text/Event-Stream")
    pieces = [head, piece(0, "a"), piece(0, None, "stop"), DONE, END]
    async with Upstream(sends(*pieces)) as a, running(config_for({"a": a.url})) as router:
        response = await router.chat(stream=True)
    assert response.status_code == 200 and response.text.endswith("data: [DONE]\n\n")
