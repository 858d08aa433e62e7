"""A stream that breaks after its first content goes on from another backend; the client sees one stream, or one error event."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.continuing import text_event, usage_event, usage_of
from tests.hearing import BROKEN, WHOLE, breaks_after, hear, stops_after, streams
from tests.offered import A_TOOL
from tests.running import config_for, running
from tests.telling import ALIGN, DONE, ROLE, SENT, STOP, TEXT, WORDS, metric, other, says, two, whole
from tests.upstream import END, STREAM_HEAD, Connection, Received, Script, Upstream, chunked, event, hangs

# -- every way in which a stream breaks -----------------------------------------------------------------

BREAKS: list[tuple[str, Script]] = [
    ("a reset", breaks_after(*SENT)),
    ("a clean end without finish_reason", streams(*SENT)),
    ("[DONE] without finish_reason", streams(*SENT, DONE)),
    ("a malformed event", streams(*SENT, b'data: {"choices":[{"delta":{"content":"gho\n\n', STOP, DONE)),
    (
        "an event of bytes that are no UTF-8",
        streams(*SENT, b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n', STOP, DONE),
    ),
    ("an error event, then [DONE]", streams(*SENT, b'data: {"error":{"message":"ghost","code":500}}\n\n', DONE)),
    ("an event of the type error", streams(*SENT, b'event: error\ndata: {"error":"ghost"}\n\n')),
    ("an abort", streams(*SENT, event({}, "abort"), DONE)),
    ("an abort that still says something", streams(*SENT, event({"content": "ghost"}, "abort"), DONE)),
    ("half an event", breaks_after(*SENT, event({"content": "ghost"})[:-9])),
    ("garbage in the framing", breaks_after(*SENT, b"")),
]


@pytest.mark.parametrize("left", [row[1] for row in BREAKS], ids=[row[0] for row in BREAKS])
async def test_the_client_of_a_stream_that_breaks_hears_one_whole_answer(left: Script) -> None:
    async with two(left, streams(*other(whole(*WORDS)))) as (router, a, b):
        heard = await hear(router)
        assert heard.content == TEXT
        assert heard.ending == WHOLE
        assert "ghost" not in heard.raw
        assert heard.roles == ["assistant"]
        assert (len(heard.alike("id")), len(heard.alike("created")), heard.alike("model")) == (1, 1, {'"jane"'})
        assert '"chatcmpl-1"' not in heard.raw, "the id is no backend's"
        assert (len(a.received), len(b.received)) == (1, 1)
        assert await metric(router, 'crossfade_resumes_total{how="align",model="jane",result="ok"}') == "1.0"
        assert await metric(router, 'crossfade_calls_total{backend="right",model="jane",result="ok"}') == "1.0"
        assert (
            await metric(router, 'crossfade_attempts_total{backend="left",model="jane",outcome="stream_broken"}')
            == "1.0"
        )
        assert await metric(router, 'crossfade_in_flight{backend="left"') == "0.0"


@pytest.mark.parametrize("left", [row[1] for row in BREAKS], ids=[row[0] for row in BREAKS])
async def test_switched_off_each_ends_with_one_error_event(left: Script) -> None:
    async with two(left, streams(*whole(*WORDS)), "split: {left: 1.0}\nresume: {by: []}") as (router, _, b):
        heard = await hear(router)
        assert (heard.content, heard.ending) == ("".join(WORDS[:4]), BROKEN)
        assert "ghost" not in heard.raw
        assert b.received == []


@pytest.mark.parametrize(
    "left", [breaks_after(*whole(*WORDS)[:-1]), stops_after(*whole(*WORDS)[:-1])], ids=["cut", "silent"]
)
async def test_switched_off_a_stream_that_breaks_after_its_finish_reason_is_whole_all_the_same(left: Script) -> None:
    model = "split: {left: 1.0}\nresume: {by: []}\ntimeouts: {between_tokens_s: 0.1}"
    async with two(left, streams(*whole(*WORDS)), model) as (router, _, b):
        heard = await hear(router)
        assert (heard.content, heard.ending, b.received) == (TEXT, WHOLE, [])


async def test_switched_off_one_ended_choice_of_several_is_not_the_whole() -> None:
    async with two(breaks_after(*whole(*WORDS)[:-1]), streams(), "split: {left: 1.0}\nresume: {by: []}") as (
        router,
        _,
        _b,
    ):
        assert (await hear(router, n=2)).errors == ["stream_broken"]


async def test_silence_in_mid_stream_is_a_break_and_comments_do_not_hide_it() -> None:
    async def pings(_request: Received, connection: Connection) -> None:
        await connection.write(STREAM_HEAD, *map(chunked, SENT))
        while not connection.writer.transport.is_closing():
            await connection.write(chunked(b": ping\n\n"))
            await asyncio.sleep(0.02)

    limits = ALIGN + "\ntimeouts: {between_tokens_s: 0.3}"
    for left in (stops_after(*SENT), pings):
        async with two(left, streams(*whole(*WORDS)), limits) as (router, a, _):
            heard = await hear(router)
            assert (heard.content, heard.ending) == (TEXT, WHOLE)
            await asyncio.wait_for(a.gone.wait(), 1)


# -- aligning -------------------------------------------------------------------------------------------

REASON = ("I", " think", " so")
SAYINGS: list[tuple[str, list[bytes], list[bytes]]] = [
    ("cut elsewhere", says(*WORDS[:4]), says("On", "ce up", "on a ti", "me é", '🚀\n "there" was.')),
    ("all at once", says(*WORDS[:4]), says(TEXT)),
    ("letter by letter", says(*WORDS[:4]), says(*TEXT)),
    ("nothing but the end is missing", says(*WORDS), says(*WORDS)),
    ("broken after an emoji", says("Once upon a time é🚀"), says("Once upon a time é", '🚀\n "there" was.')),
]


@pytest.mark.parametrize(("first", "second"), [row[1:] for row in SAYINGS], ids=[row[0] for row in SAYINGS])
async def test_what_was_sent_is_swallowed_to_the_byte(first: list[bytes], second: list[bytes]) -> None:
    async with two(breaks_after(ROLE, *first), streams(ROLE, *second, STOP, DONE)) as (router, _, _b):
        heard = await hear(router)
        assert (heard.content, heard.ending, heard.roles) == (TEXT, WHOLE, ["assistant"])


@pytest.mark.parametrize("sent", [1, 3, 4, 6])
async def test_reasoning_and_content_are_aligned_each_on_its_own(sent: int) -> None:
    events = [*says(*REASON, name="reasoning"), *says(*WORDS)]
    again = [*says("I think", " so", name="reasoning_content"), *says(*WORDS)]
    async with two(breaks_after(ROLE, *events[:sent]), streams(ROLE, *again, STOP, DONE)) as (router, _, _b):
        heard = await hear(router)
        assert (heard.reasoning, heard.content, heard.ending) == ("I think so", TEXT, WHOLE)
        assert "reasoning_content" not in heard.raw, "one stream has one name for it"


DIVERGENT: list[tuple[str, list[bytes]]] = [
    ("another word", [*says("Once", " upon", " my"), STOP, DONE]),
    ("another letter at the border", [*says("Once upon a timf"), STOP, DONE]),
    ("it ends sooner", [*says("Once", " upon"), STOP, DONE]),
    ("it reasons first", [*says("hm", name="reasoning"), *says(*WORDS), STOP, DONE]),
    ("it calls a tool", [*says("Once"), event({"tool_calls": [{"index": 0, "id": "c"}]}), STOP, DONE]),
]


@pytest.mark.parametrize("second", [row[1] for row in DIVERGENT], ids=[row[0] for row in DIVERGENT])
async def test_what_diverges_is_never_glued_on(second: list[bytes]) -> None:
    async with two(breaks_after(*SENT), streams(ROLE, *second)) as (router, _, b):
        heard = await hear(router)
        assert (heard.content, heard.ending) == ("".join(WORDS[:4]), BROKEN)
        assert await metric(router, 'crossfade_resumes_total{how="align",model="jane",result="diverged"}') == "1.0"
        assert (
            await metric(router, 'crossfade_calls_total{backend="right",model="jane",result="stream_broken"}') == "1.0"
        )
        await asyncio.wait_for(b.gone.wait(), 1)


async def test_a_tool_call_after_the_text_goes_on_with_it() -> None:
    call = event({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]})
    async with two(breaks_after(*SENT), streams(*SENT, call, event({}, "tool_calls"), DONE)) as (router, _, _b):
        heard = await hear(router, tools=[{"type": "function", "function": {"name": "f"}}])
        assert heard.ending == (["tool_calls"], 1, [])
        (piece,) = [delta["tool_calls"][0] for delta in heard.deltas if "tool_calls" in delta]
        assert piece["id"].startswith("call_") and piece["function"] == {"name": "f", "arguments": "{}"}


async def test_swallowing_is_no_silence_but_standing_still_while_it_is_one() -> None:
    async def slowly(_request: Received, connection: Connection) -> None:
        await connection.write(STREAM_HEAD)
        for one in whole(*TEXT):
            await connection.write(chunked(one))
            await asyncio.sleep(0.02)
        await connection.write(END)

    limits = ALIGN + "\ntimeouts: {between_tokens_s: 0.25, first_token_s: 0.25, first_token_per_kib_s: 0}"
    async with two(breaks_after(*SENT), slowly, limits) as (router, _, _b):
        assert (await hear(router)).ending == WHOLE
    async with two(breaks_after(*SENT), stops_after(*SENT[:3]), limits) as (router, _, b):
        assert (await hear(router)).ending == BROKEN
        await asyncio.wait_for(b.gone.wait(), 1)
        assert (
            await metric(router, 'crossfade_attempts_total{backend="right",model="jane",outcome="stream_broken"}')
            == "1.0"
        )


async def test_a_long_answer_is_swallowed_and_goes_on() -> None:
    words = [
        f"word {number} of many " for number in range(9000)
    ]  # its events are larger than what is held without content
    first = b"".join(says(*words[:8900]))
    async with two(streams(ROLE, first), streams(ROLE, b"".join(says(*words)), STOP, DONE)) as (router, _, _b):
        heard = await hear(router)
        assert heard.content == "".join(words)
        assert heard.ending == WHOLE


async def test_the_usage_of_an_aligned_answer_is_the_second_backends_own() -> None:
    second = [*whole(*WORDS)[:-1], usage_event(9, 7), DONE]
    async with two(breaks_after(*SENT), streams(*second)) as (router, _, _b):
        heard = await hear(router, stream_options={"include_usage": True})
        assert heard.usages == [usage_of(9, 7)]
        assert len(heard.alike("id")) == 1


async def test_a_stream_of_completions_is_aligned_as_well() -> None:
    first = [text_event(word) for word in WORDS]
    async with two(breaks_after(*first[:3]), streams(*first, text_event("", "stop"), DONE)) as (router, _, _b):
        heard = await hear(router, "/v1/completions")
        assert (heard.content, heard.ending) == (TEXT, WHOLE)
        assert heard.alike("object") == {'"text_completion"'}


# -- what cannot be resumed -----------------------------------------------------------------------------

TOOL = event({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a'}}]})
NEVER: list[tuple[str, list[bytes], str, dict[str, Any], str]] = [
    (
        "a tool call in flight",
        [ROLE, TOOL],
        ALIGN + "\naccept: {tool_calls: any}",  # else it is held back, and the call moves
        {"tools": [A_TOOL]},
        "tool_call",
    ),
    ("a tool call after text", [*SENT, TOOL], ALIGN, {}, "tool_call"),
    ("several choices", SENT, ALIGN, {"n": 2}, "many_choices"),
    ("logprobs", SENT, ALIGN, {"logprobs": True}, "logprobs"),
    ("another model", SENT, ALIGN + "\non: {left: x, right: {name: y, same_model: false}}", {}, "no_backend_left"),
    (
        "broken on another model",
        SENT,
        ALIGN + "\non: {left: {name: x, same_model: false}, right: y}",
        {},
        "no_backend_left",
    ),
    ("too little time", SENT, ALIGN + "\ntimeouts: {total_s: 0.9}", {}, "no_time_left"),
]


@pytest.mark.parametrize(
    ("sent", "model", "fields", "reason"), [row[1:] for row in NEVER], ids=[row[0] for row in NEVER]
)
async def test_where_no_way_is_right_the_stream_ends_with_one_error_event(
    sent: list[bytes], model: str, fields: dict[str, Any], reason: str
) -> None:
    model += "\nretry: {attempts_per_backend: 1}"
    async with Upstream(breaks_after(*sent)) as a, Upstream(streams(*whole(*WORDS))) as b:
        config = config_for({"left": a.url, "right": b.url}, model)
        if "\non:" in model:
            config = config.replace("    on: {left: real-left, right: real-right}\n", "")
        async with running(config) as router:
            heard = await hear(router, **fields)
            assert heard.ending == BROKEN
            assert b.received == []
            assert (
                await metric(router, f'crossfade_resumes_total{{how="none",model="jane",result="{reason}"}}') == "1.0"
            )


async def test_what_breaks_after_its_finish_reason_is_whole() -> None:
    for left in (breaks_after(*SENT, STOP), streams(*SENT, STOP, b"data: {\n\n")):
        async with two(left, hangs) as (router, _, b):
            heard = await hear(router)
            assert (heard.content, heard.ending) == ("".join(WORDS[:4]), WHOLE)
            assert b.received == []
            assert (
                await metric(router, 'crossfade_attempts_total{backend="left",model="jane",outcome="stream_broken"}')
                == "1.0"
            )
