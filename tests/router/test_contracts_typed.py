"""Contracts in streams of events with names: what moves a call before anything was sent, what is held back, what is only counted."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from policies.schema import MAX_INSTANCE_BYTES
from router.relay import MAX_HELD_ANSWER_BYTES
from tests.backends.captured import captured
from tests.hearing import breaks_after, stops_after, streams
from tests.router.test_contracts import FAST, HOLD, LAX, Stage, in_steps, staged
from tests.router.test_contracts_apis import (
    AS_JSON,
    ASKED,
    M_ANY,
    M_TOOLS,
    MESSAGES,
    R_TOOLS,
    RESPONSES,
    THOUGHT,
    ask,
    called,
    of_message,
    of_response,
    said,
    text,
    used,
)
from tests.upstream import END, STREAM_HEAD, Connection, Received, chunked


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


CREATED = event("response.created", response=of_response(status="in_progress"))
STARTED = event("message_start", message=of_message())


def completed(*items: Mapping[str, Any], **fields: Any) -> bytes:
    response = of_response(*items, **fields)
    return event("response.incomplete" if "status" in fields else "response.completed", response=response)


def spoken(*pieces: str, kind: str = "output_text") -> list[bytes]:
    return [
        event(f"response.{kind}.delta", item_id="i", output_index=0, content_index=0, delta=each) for each in pieces
    ]


def calling(*pieces: str, index: int = 0) -> list[bytes]:
    item = {**called(""), "status": "in_progress"}
    added = event("response.output_item.added", output_index=index, item=item)
    return [added, *spoken(*pieces, kind="function_call_arguments")]


def block(opening: Mapping[str, Any], kind: str, *pieces: str, index: int = 0) -> list[bytes]:
    """One block of a message, whose text or JSON comes in these pieces."""
    name = {"text": "text_delta", "thinking": "thinking_delta", "partial_json": "input_json_delta"}[kind]
    deltas = [event("content_block_delta", index=index, delta={"type": name, kind: each}) for each in pieces]
    start = event("content_block_start", index=index, content_block=opening)
    return [start, *deltas, event("content_block_stop", index=index)]


def stopped(stop_reason: str = "end_turn") -> bytes:
    end = {"stop_reason": stop_reason, "stop_sequence": None}
    return event("message_delta", delta=end, usage={"output_tokens": 9}) + event("message_stop")


def using(*pieces: str, index: int = 0, name: str = "get_weather") -> list[bytes]:
    return block(used({}, name), "partial_json", *pieces, index=index)


THOUGHTS = block({"type": "thinking", "thinking": ""}, "thinking", "h", "m")
LONG = block(text(""), "text", "x" * MAX_INSTANCE_BYTES, "x")
R_THOUGHTS = spoken("hm", kind="reasoning_text")
FITS = ['{"city":', '"Paris"}']
LAST = {RESPONSES: "response.completed", MESSAGES: "message_stop"}
FROM_B: dict[str, list[bytes]] = {
    RESPONSES: [CREATED, *spoken("from b"), completed(said("from b"))],
    MESSAGES: [STARTED, *block(text(""), "text", "from b"), stopped()],
}
R_CUT_OFF = [CREATED, *calling('{"city":"Par'), completed(called('{"city":"Par'))]
M_CUT_OFF = [STARTED, *using('{"city":', '"Par'), stopped("tool_use")]
MOVES: list[tuple[str, list[bytes], str, dict[str, Any], str, str]] = [
    ("nothing", [CREATED, completed()], RESPONSES, {}, "", "empty"),
    ("nothing, with tools", [CREATED, completed()], RESPONSES, R_TOOLS, "", "empty"),
    ("a call cut off", R_CUT_OFF, RESPONSES, R_TOOLS, "", "tool_arguments_not_json"),
    ("a call that comes in one piece", [CREATED, event("response.output_item.done", item=called("{")), completed(called("{"))],
     RESPONSES, R_TOOLS, "", "tool_arguments_not_json"),
    ("a text for JSON, held back", [CREATED, *spoken("Hello"), completed(said("Hello"))], RESPONSES, AS_JSON, HOLD, "json_invalid"),
    ("nothing", [STARTED, stopped()], MESSAGES, {}, "", "empty"),
    ("a text block without a text", [STARTED, *block(text(""), "text"), stopped()], MESSAGES, {}, "", "empty"),
    ("nothing, with tools", [STARTED, stopped()], MESSAGES, M_TOOLS, "", "empty"),
    ("a call cut off", M_CUT_OFF, MESSAGES, M_TOOLS, "", "tool_arguments_not_json"),
    ("a call without its arguments", [STARTED, *using(), stopped()], MESSAGES, M_TOOLS, "", "tool_arguments_mismatch"),
    ("a second call cut off", [STARTED, *using(*FITS), *using("{", index=1), stopped()], MESSAGES, M_TOOLS, "", "tool_arguments_not_json"),
    ("a tool that was not offered", [STARTED, *using(*FITS, name="f"), stopped()], MESSAGES, M_TOOLS, "", "unknown_tool"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("events", "path", "asked", "model", "violation"),
    [row[1:] for row in MOVES],
    ids=[f"{row[2]}: {row[0]}" for row in MOVES],
)
async def test_a_stream_that_is_none_moves_before_anything_of_it_was_sent(
    events: list[bytes], path: str, asked: dict[str, Any], model: str, violation: str
) -> None:
    good = [CREATED, *spoken(*FITS), completed(said("".join(FITS)))] if "text" in asked else FROM_B[path]
    async with staged(streams(*events), streams(*good), model) as stage:
        heard = await ask(stage, path, stream=True, **asked)
        assert (heard.status_code, heard.headers["x-crossfade-backend"]) == (200, "b")
        assert heard.text.count(f"event: {LAST[path]}\n") == 1
        assert (await stage.results())[("a", violation)] == 1


STAYS: list[tuple[str, list[bytes], str, dict[str, Any], str]] = [
    ("a text", FROM_B[RESPONSES], RESPONSES, {}, ""),
    ("a call that fits", [CREATED, *calling(*FITS), completed(called("".join(FITS)))], RESPONSES, R_TOOLS, "ok"),
    ("a call cut off, after thoughts", [CREATED, *R_THOUGHTS, *calling("{", index=1), completed(THOUGHT, called("{"))],
     RESPONSES, R_TOOLS, "tool_arguments_not_json"),
    ("a text where JSON was asked for", [CREATED, *spoken("Hello"), completed(said("Hello"))], RESPONSES, AS_JSON, "json_invalid"),
    ("nothing but thoughts", [CREATED, *R_THOUGHTS, completed(THOUGHT)], RESPONSES, {}, "empty"),
    ("markup behind a text", [CREATED, *spoken("x", "<|end|>"), completed(said("x<|end|>"))], RESPONSES, {}, "harmony_leak"),
    ("a text that is not said again", [CREATED, *spoken("x"), completed()], RESPONSES, {}, ""),
    ("a text with tools that is not said again", [CREATED, *spoken("x"), completed()], RESPONSES, R_TOOLS, "not_judged"),
    ("a call that was cut off", [CREATED, *calling("{"), completed(called("{"), status="incomplete")], RESPONSES, R_TOOLS, "not_judged"),
    ("a text", FROM_B[MESSAGES], MESSAGES, {}, ""),
    ("a call although no tools were offered", [STARTED, *using(*FITS), stopped()], MESSAGES, {}, ""),
    ("a text, with tools", FROM_B[MESSAGES], MESSAGES, M_TOOLS, "ok"),
    ("a call that fits", [STARTED, *using(*FITS), stopped("tool_use")], MESSAGES, M_TOOLS, "ok"),
    ("a call cut off, after thoughts", [STARTED, *THOUGHTS, *using("{", index=1), stopped()], MESSAGES, M_TOOLS, "tool_arguments_not_json"),
    ("no call although there must be one", FROM_B[MESSAGES], MESSAGES, M_ANY, "tool_missing"),
    ("nothing but thoughts", [STARTED, *THOUGHTS, stopped()], MESSAGES, {}, "empty"),
    ("nothing but thoughts, with tools", [STARTED, *THOUGHTS, stopped()], MESSAGES, M_TOOLS, "empty"),
    ("nothing but thoughts, cut off", [STARTED, *THOUGHTS, stopped("max_tokens")], MESSAGES, {}, ""),
    ("a call that was cut off", [STARTED, *using("{"), stopped("max_tokens")], MESSAGES, M_TOOLS, "not_judged"),
    ("a call cut off, after more than is kept", [STARTED, *LONG, *using("{", index=1), stopped()],
     MESSAGES, M_TOOLS, "not_judged"),
    ("a piece of a block that never began", [STARTED, *using(*FITS)[1:], stopped()], MESSAGES, M_TOOLS, "not_judged"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("events", "path", "asked", "result"), [row[1:] for row in STAYS], ids=[f"{row[2]}: {row[0]}" for row in STAYS]
)
async def test_what_was_sent_stays_and_the_violation_is_counted(
    events: list[bytes], path: str, asked: dict[str, Any], result: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "crossfade.calls")
    async with staged(streams(*events)) as stage, staged(streams(*events), model=LAX) as lax:
        heard = await ask(stage, path, stream=True, **asked)
        untouched = await ask(lax, path, stream=True, **asked)
        assert heard.headers["x-crossfade-backend"] == "a"
        assert kinds_in(heard) == kinds_in(untouched) and len(kinds_in(heard)) > 2
        assert await stage.results() == ({("a", result): 1} if result else {})
        assert await lax.results() == {}
    lines = [record.getMessage() for record in caplog.records if "violation" in record.getMessage()]
    assert len(lines) == (result not in ("", "ok", "not_judged"))


def kinds_in(heard: httpx.Response) -> list[str]:
    return [line for line in heard.text.splitlines() if line.startswith("event: ")]


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
@pytest.mark.parametrize("name", ["vllm-0.33-gpt-oss/", "vllm-0.32-smollm2/25_", "llama-server-smollm2/25_"])
async def test_the_streams_of_real_engines_are_taken(path: str, name: str) -> None:
    kind = f"{path.removeprefix('/v1/')}_stream"
    body = captured(name.replace("25_", "24_" if path == RESPONSES else "25_") + kind)[2]
    async with staged(streams(*(each + b"\n\n" for each in body.split(b"\n\n") if each.strip()))) as stage:
        heard = await ask(stage, path, stream=True)
        assert (heard.status_code, heard.headers["x-crossfade-backend"]) == (200, "a")
        assert await stage.results() == {}


HELD: list[tuple[str, str, list[bytes], dict[str, Any], str, bool]] = [
    ("a call", RESPONSES, [CREATED, *calling("{")], R_TOOLS, "", True),
    ("a text before a call", RESPONSES, [CREATED, *spoken("So:")], R_TOOLS, "", False),
    ("a call that may be anything", RESPONSES, [CREATED, *calling("{")], R_TOOLS, "accept: {tool_calls: any}", False),
    ("JSON", RESPONSES, [CREATED, *spoken("{")], AS_JSON, HOLD, True),
    ("JSON that is only counted", RESPONSES, [CREATED, *spoken("{")], AS_JSON, "", False),
    ("a call", MESSAGES, [STARTED, *using("{")[:2]], M_TOOLS, "", True),
    ("thoughts", MESSAGES, [STARTED, *THOUGHTS], M_TOOLS, "", False),
]


@pytest.mark.parametrize(
    ("path", "events", "asked", "model", "is_held"),
    [row[1:] for row in HELD],
    ids=[f"{row[1]}: {row[0]}" for row in HELD],
)
async def test_what_is_held_back_until_its_end(
    path: str, events: list[bytes], asked: dict[str, Any], model: str, is_held: bool
) -> None:
    may_go_on, is_waiting = asyncio.Event(), asyncio.Event()
    end = completed(called("{}")) if path == RESPONSES else stopped()
    async with staged(in_steps([*events, end], may_go_on, is_waiting), model=model) as stage:
        body = {"model": "jane", "stream": True, **ASKED[path], **asked}
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            call = group.create_task(_first_byte(stage, path, body))
            await is_waiting.wait()
            done, _ = await asyncio.wait([call], timeout=0.2 if is_held else 5)
            assert bool(done) is not is_held
            may_go_on.set()


async def _first_byte(stage: Stage, path: str, body: dict[str, Any]) -> None:
    async with stage.router.client.stream("POST", path, json=body) as response:
        async for _ in response.aiter_raw():
            return


BEGUN_CALLS = {RESPONSES: [CREATED, *calling('{"city":')], MESSAGES: [STARTED, *using('{"city":')[:2]]}
WITH_TOOLS = {RESPONSES: R_TOOLS, MESSAGES: M_TOOLS}
LOST = {"stands still": stops_after, "breaks": breaks_after, "ends without an end": streams}


@pytest.mark.parametrize("how", LOST)
@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
async def test_a_call_moves_where_what_is_held_back_does_not_end(path: str, how: str) -> None:
    async with staged(LOST[how](*BEGUN_CALLS[path]), streams(*FROM_B[path]), FAST) as stage:
        heard = await ask(stage, path, stream=True, **WITH_TOOLS[path])
        assert (heard.status_code, heard.headers["x-crossfade-backend"]) == (200, "b")
        assert "from b" in heard.text and "event: error" not in heard.text


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
async def test_while_an_answer_is_held_back_the_time_between_two_tokens_counts_on(path: str) -> None:
    async def drips(_request: Received, connection: Connection) -> None:
        pieces = ['{"city":', '"P', "a", "r", "i", 's"}']
        events = [CREATED, *calling(*pieces)] if path == RESPONSES else [STARTED, *using(*pieces)]
        await connection.write(STREAM_HEAD)
        for each in events:
            await connection.write(chunked(each))
            await asyncio.sleep(0.1)  # all of them take longer than a first token may
        end = completed(called("".join(pieces))) if path == RESPONSES else stopped("tool_use")
        await connection.write(chunked(end), END)

    async with staged(drips, model=FAST) as stage:
        heard = await ask(stage, path, stream=True, **WITH_TOOLS[path])
        assert heard.headers["x-crossfade-backend"] == "a" and LAST[path] in heard.text
        assert await stage.results() == {("a", "ok"): 1}


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
async def test_what_is_too_long_to_be_held_back_is_let_go(path: str) -> None:
    """And what is too long to be kept is not judged; a response says all of it again at its end."""
    pieces = ["x" * 65_536] * (MAX_HELD_ANSWER_BYTES // 65_536 + 1)
    events = [CREATED, *calling(*pieces)] if path == RESPONSES else [STARTED, *using(*pieces)]
    end = completed(called("{")) if path == RESPONSES else stopped()
    may_go_on, is_waiting = asyncio.Event(), asyncio.Event()
    async with staged(in_steps([*events, end], may_go_on, is_waiting)) as stage:
        body = {"model": "jane", "stream": True, **ASKED[path], **WITH_TOOLS[path]}
        async with asyncio.timeout(5), stage.router.client.stream("POST", path, json=body) as response:
            parts = response.aiter_raw()
            assert await anext(parts)
            may_go_on.set()
            assert LAST[path] in b"".join([part async for part in parts]).decode()
        assert await stage.results() == {("a", "not_judged" if path == MESSAGES else "tool_arguments_not_json"): 1}


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
async def test_what_is_held_back_arrives_event_by_event_as_it_came(path: str) -> None:
    end = completed(called("".join(FITS))) if path == RESPONSES else stopped("tool_use")
    opening, pieces = (CREATED, calling(*FITS)) if path == RESPONSES else (STARTED, using(*FITS))
    async with staged(streams(opening, *pieces, end)) as stage:
        heard = await ask(stage, path, stream=True, **WITH_TOOLS[path])
        deltas = [line for line in heard.text.splitlines() if line.startswith("data: ") and "delta" in line]
        assert [json.dumps(piece) in line for piece, line in zip(FITS, deltas, strict=False)] == [True, True]
