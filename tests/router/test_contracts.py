"""Answers held to their contract: what moves a call, what waits, and what is only counted, on scripts and on captures of gpt-oss."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from router.relay import MAX_HELD_ANSWER_BYTES
from tests.backends.captured import captured
from tests.hearing import WHOLE, Heard, breaks_after, hear, stops_after, streams
from tests.running import Router, config_for, running
from tests.upstream import END, STREAM_HEAD, Connection, Received, Script, Upstream, answer, chunked, event, says, sends

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": CITY}}]
OBJECT = {"type": "json_object"}
CITY_JSON = {"type": "json_schema", "json_schema": {"name": "x", "schema": CITY}}
DONE = b"data: [DONE]\n\n"
ROLE = event({"role": "assistant", "content": ""})
CALLED: tuple[list[str], int, list[Any]] = (["tool_calls"], 1, [])
NO_RESUME = "resume: {by: []}"
HOLD = "accept: {json: hold}"


def call_whole(arguments: str, name: str = "get_weather") -> dict[str, Any]:
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}


def whole(*messages: Mapping[str, Any], finish_reason: str = "stop") -> Script:
    choices = [
        {"index": place, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}
        for place, message in enumerate(messages)
    ]
    return sends(answer({"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": choices}))


def calls(*pieces: str, name: str = "get_weather") -> list[bytes]:
    """The events of a stream of one tool call, whose arguments come in these pieces."""
    first = {"index": 0, "id": "c", "type": "function", "function": {"name": name, "arguments": ""}}
    more = [{"index": 0, "function": {"arguments": piece}} for piece in pieces]
    return [event({"tool_calls": [piece]}) for piece in (first, *more)]


def texts(*pieces: str, name: str = "content") -> list[bytes]:
    return [event({name: piece}) for piece in pieces]


THOUGHTS = texts("hm", name="reasoning")
CUT_OFF = calls('{"city":"Par')
SECOND = event({"tool_calls": [{"index": 1, "id": "d", "function": {"name": "f", "arguments": "{"}}]})


def ended(*events: bytes, finish_reason: str = "stop") -> Script:
    return streams(ROLE, *events, event({}, finish_reason), DONE)


def of_gpt_oss(name: str, *words: tuple[bytes, bytes]) -> Script:
    """A captured answer of vLLM with gpt-oss. Its stub tokenizer wrote token ids; `words` are what the real one writes."""
    _, headers, body = captured(f"vllm-0.33-gpt-oss/{name}")
    for stub, word in words:
        assert stub in body
        body = body.replace(stub, word)
    if "event-stream" not in headers["content-type"]:
        return sends(answer(body))
    return streams(*(each + b"\n\n" for each in body.split(b"\n\n") if each.strip()))


@dataclass(frozen=True, slots=True)
class Stage:
    router: Router
    a: Upstream
    b: Upstream

    async def results(self) -> dict[tuple[str, str], float]:
        """What was judged so far, by backend and result."""
        rows = (await self.router.client.get("/metrics")).text.splitlines()
        found = [row for row in rows if row.startswith("crossfade_contract_judged_total{")]
        return {
            (row.split('backend="')[1].split('"')[0], row.split('result="')[1].split('"')[0]): float(row.split()[-1])
            for row in found
        }


@asynccontextmanager
async def staged(a: Script, b: Script | None = None, model: str = "") -> AsyncIterator[Stage]:
    """A router with `a` before `b`, which answers well unless told otherwise; without `b` if `model` says so."""
    async with Upstream(a) as first, Upstream(b or says("from b")) as second:
        backends = {"a": first.url} if "alone" in model else {"a": first.url, "b": second.url}
        rules = "split: {a: 1.0}\nretry: {backoff_s: [0.001, 0.002]}\n" + model.replace("alone", "")
        async with running(config_for(backends, rules)) as router:
            yield Stage(router, first, second)


LEAK = (b"t200006 t173781 t200005 t12606 t815 t316 t28", b"<|start|>assistant<|channel|>commentary to=")
RETURN = (b"t13225 t21402 t2201 t2935 t1062 t9334 t540 t722 t200002", b"Hello there!<|return|>")
BESIDE: dict[str, Any] = {"tools": TOOLS}
NONE, MUST = {**BESIDE, "tool_choice": "none"}, {**BESIDE, "tool_choice": "required"}
NAMED = {**BESIDE, "tool_choice": {"type": "function", "function": {"name": "get_weather"}}}
SOME = {**BESIDE, "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": []}}}
AS_JSON = {"response_format": OBJECT}
AS_CITY = {"response_format": CITY_JSON}
ONE_ONLY = {**BESIDE, "parallel_tool_calls": False}
# (what a says, what was asked beside the message, the violation)
WHOLE_ROWS: list[tuple[str, Script, dict[str, Any], str]] = [
    ("arguments cut off, by gpt-oss", of_gpt_oss("tool_badjson"), BESIDE, "tool_arguments_not_json"),
    ("nothing, by gpt-oss", of_gpt_oss("malformed"), BESIDE, "empty"),
    ("nothing, to a plain call", of_gpt_oss("malformed"), {}, "empty"),
    ("nothing but a call of a tool that may not be called, by gpt-oss", of_gpt_oss("tool_none"), NONE, "empty"),
    ("a text instead of a call, by gpt-oss", of_gpt_oss("tool_required_but_final"), MUST, "tool_missing"),
    ("markup, by gpt-oss", of_gpt_oss("tool_truncated", LEAK), BESIDE, "harmony_leak"),
    ("markup behind a text, by gpt-oss", of_gpt_oss("nochannel", RETURN), {}, "harmony_leak"),
    ("a text where JSON was asked for, by gpt-oss", of_gpt_oss("json_schema"), AS_CITY, "json_invalid"),
    ("JSON of another schema", whole({"content": '{"town":"x"}'}), AS_CITY, "json_mismatch"),
    ("arguments of another type", whole({"content": None, "tool_calls": [call_whole('{"city":5}')]}), BESIDE, "tool_arguments_mismatch"),
    ("a tool that was not offered", whole({"content": None, "tool_calls": [call_whole("{}", "f")]}), BESIDE, "unknown_tool"),
    ("a second choice that is empty", whole({"content": "x"}, {"content": ""}), {"n": 2}, "empty"),
    ("a text where a tool was named", whole({"content": "x"}), NAMED, "tool_missing"),
    ("a text where one of some tools must be called", whole({"content": "x"}), SOME, "tool_missing"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("says_what", "asked", "violation"), [row[1:] for row in WHOLE_ROWS], ids=[row[0] for row in WHOLE_ROWS]
)
async def test_a_whole_answer_that_is_none_moves_the_call(
    says_what: Script, asked: dict[str, Any], violation: str
) -> None:
    may_call = asked.get("tool_choice") != "none"
    good = whole({"content": '{"city":"Paris"}', "tool_calls": [call_whole('{"city":"Paris"}')] if may_call else []})
    async with staged(says_what, good) as stage:
        heard = await stage.router.chat(**asked)
        assert (heard.status_code, heard.headers["x-crossfade-backend"]) == (200, "b")
        results = await stage.results()
        assert results[("a", violation)] == 1
        assert results.get(("b", "ok"), 0) == ("tools" in asked or "response_format" in asked)


async def test_with_nobody_left_an_answer_is_asked_for_once_more_and_then_the_client_hears_why() -> None:
    async with staged(of_gpt_oss("tool_badjson"), model="alone") as stage:
        heard = await stage.router.chat(tools=TOOLS)
        assert (heard.status_code, heard.json()["error"]["code"]) == (502, "answer_not_accepted")
        assert "the arguments of a tool call are not valid JSON" in heard.json()["error"]["message"]
        assert heard.headers["x-should-retry"] == "false"
        assert len(stage.a.received) == 2


GOOD = whole({"content": None, "tool_calls": [call_whole('{"city":"Paris"}')]}, finish_reason="tool_calls")
ACCEPTED: list[tuple[str, Script, dict[str, Any], str]] = [
    ("a text, to a plain call", says("x"), {}, ""),
    ("a call that fits", GOOD, BESIDE, "ok"),
    ("a call with a text before it, by gpt-oss", of_gpt_oss("tool_preamble"), {"tools": [*TOOLS]}, "ok"),
    ("nothing but thoughts, cut off by max_tokens, by gpt-oss", of_gpt_oss("onlyreason"), {"max_tokens": 6}, ""),
    ("nothing, where the client set stop", whole({"content": ""}), {"stop": ["x"]}, ""),
    ("nothing more, where the client began the answer", whole({"content": ""}),
     {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello"}]}, ""),
    ("the rest of JSON that the client began", whole({"content": '"x"}'}),
     {"response_format": OBJECT, "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": '{"a":'}]}, "not_judged"),
    ("a refusal", whole({"content": None, "refusal": "no"}), AS_JSON, "not_judged"),
    ("what is said of markup", whole({"content": 'It writes "<|channel|>" then.'}), {}, ""),
    ("a call that is dropped, since the client takes one",
     whole({"content": None, "tool_calls": [call_whole('{"city":"x"}'), call_whole("{")]}), ONE_ONLY, "ok"),
    ("a schema that refers elsewhere", whole({"content": '{"a":1}'}),
     {"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "http://127.0.0.1:1/"}}}}, "not_judged"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("says_what", "asked", "result"), [row[1:] for row in ACCEPTED], ids=[row[0] for row in ACCEPTED]
)
async def test_what_is_an_answer_stays_where_it_is(says_what: Script, asked: dict[str, Any], result: str) -> None:
    async with staged(says_what) as stage:
        heard = await stage.router.chat(**asked)
        assert (heard.status_code, heard.headers["x-crossfade-backend"]) == (200, "a"), heard.text
        assert await stage.results() == ({("a", result): 1} if result else {})


async def test_tools_that_nobody_can_read_leave_an_answer_where_it_is() -> None:
    async with Upstream(whole({"content": "x"})) as a, Upstream(says("from b")) as b:
        able = config_for({"a": a.url, "b": b.url}).replace("a: real-a", "a: {name: real-a, can: {custom_tools: true}}")
        async with running(able) as router:
            heard = await router.chat(tools=[{"type": "custom", "function": 5}])
            assert (heard.status_code, heard.headers["x-crossfade-backend"]) == (200, "a")
            assert await Stage(router, a, b).results() == {("a", "ok"): 1}


LAX = "accept: {tool_calls: any, json: any, empty: allow}"


@pytest.mark.parametrize("row", WHOLE_ROWS, ids=[row[0] for row in WHOLE_ROWS])
async def test_a_contract_that_takes_anything_takes_it_as_it_is(row: tuple[str, Script, dict[str, Any], str]) -> None:
    async with staged(row[1], model=LAX) as stage:
        heard = await stage.router.chat(**row[2])
        assert (heard.status_code, heard.headers["x-crossfade-backend"]) == (200, "a")
        assert await stage.results() == {}


# -- streams --------------------------------------------------------------------------------------------

FITS = ['{"city":', '"Paris"}']
MOVES: list[tuple[str, Script, dict[str, Any], str, str]] = [
    ("a call with arguments cut off", ended(*CUT_OFF, finish_reason="tool_calls"), BESIDE, "", "tool_arguments_not_json"),
    ("a call of a tool that was not offered", ended(*calls("{}", name="f")), BESIDE, "", "unknown_tool"),
    ("nothing, by gpt-oss", of_gpt_oss("malformed_stream"), BESIDE, "", "empty"),
    ("nothing, to a plain call", of_gpt_oss("malformed_stream"), {}, "", "empty"),
    ("nothing, where nothing is resumed", of_gpt_oss("malformed_stream"), {}, NO_RESUME, "empty"),
    ("markup in one piece, by gpt-oss", of_gpt_oss("nochannel_stream", RETURN), {}, "", "harmony_leak"),
    ("markup", ended(*texts("<|channel|>", "analysis")), {}, "", "harmony_leak"),
    ("a text where JSON was asked for, held back", ended(*texts("Hello ", "there")), AS_JSON, HOLD, "json_invalid"),
    ("thoughts and a text where JSON was asked for", ended(*THOUGHTS, *texts("Hello")), AS_JSON, HOLD, "json_invalid"),
    ("JSON of another schema, held back", ended(*texts('{"to', 'wn":1}')), AS_CITY, HOLD, "json_mismatch"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("says_what", "asked", "model", "violation"), [row[1:] for row in MOVES], ids=[row[0] for row in MOVES]
)
async def test_a_stream_that_is_none_moves_before_anything_of_it_was_sent(
    says_what: Script, asked: dict[str, Any], model: str, violation: str
) -> None:
    good = ended(*texts(*FITS)) if "response_format" in asked else ended(*texts("from b"))
    async with staged(says_what, good, model) as stage:
        heard = await hear(stage.router, **asked)
        assert (heard.backend, heard.ending, heard.roles) == ("b", WHOLE, ["assistant"])
        assert (await stage.results())[("a", violation)] == 1


SENT: list[tuple[str, Script, dict[str, Any], str, str]] = [
    ("a call with arguments cut off, after thoughts", ended(*THOUGHTS, *CUT_OFF), BESIDE, "", "tool_arguments_not_json"),
    ("a call with arguments cut off, after a text", ended(*texts("Let me see."), *CUT_OFF), BESIDE, "", "tool_arguments_not_json"),
    ("nothing but thoughts, by gpt-oss", of_gpt_oss("tool_none_stream"), NONE, "", "empty"),
    ("nothing but thoughts, to a plain call", of_gpt_oss("tool_none_stream"), {}, "", "empty"),
    ("a text where JSON was asked for", ended(*texts("Hello ", "there")), AS_JSON, "", "json_invalid"),
    ("a text for JSON, where nothing is resumed", ended(*texts("Hello ", "there")), AS_JSON, NO_RESUME, "json_invalid"),
    ("no call although there must be one", ended(*texts("Hello ", "there")), MUST, "", "tool_missing"),
    ("markup after thoughts", ended(*THOUGHTS, *texts("comment", "ary to=func", "tions.x")), {}, "", "harmony_leak"),
    ("markup behind a text", ended(*texts("Hello ", "there", "!", "<|return|>")), {}, "", "harmony_leak"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("says_what", "asked", "model", "violation"), [row[1:] for row in SENT], ids=[row[0] for row in SENT]
)
async def test_what_was_sent_stays_and_the_violation_is_counted(
    says_what: Script,
    asked: dict[str, Any],
    model: str,
    violation: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "crossfade.calls")
    async with staged(says_what, model=model) as stage:
        heard = await hear(stage.router, **asked)
        async with staged(says_what, model=LAX) as lax:
            untouched = await hear(lax.router, **asked)
        assert (heard.backend, said_in(heard), heard.ending) == ("a", said_in(untouched), untouched.ending)
        assert await stage.results() == {("a", violation): 1}
    (line,) = [record.getMessage() for record in caplog.records if "violation" in record.getMessage()]
    assert json.loads(line)["violation"] == violation
    assert not any(word in line for word in ("Paris", "Hello", "Par", "get_weather", "hm"))


def said_in(heard: Heard) -> str:
    """What a client heard, without what differs from call to call."""
    return re.sub(r"call_\w+", "call_x", json.dumps(heard.deltas))


KEPT: list[tuple[str, Script, dict[str, Any], str, str]] = [
    ("a text, to a plain call", ended(*texts("Hello ", "there")), {}, "", ""),
    ("a call that fits", ended(*calls(*FITS), finish_reason="tool_calls"), BESIDE, "", "ok"),
    ("thoughts and a call that fits", ended(*THOUGHTS, *calls(*FITS)), BESIDE, "", "ok"),
    ("a call after a text, by gpt-oss", of_gpt_oss("tool_preamble_stream"), BESIDE, "", "ok"),
    ("a text although tools were offered", ended(*texts("Hello ", "there")), BESIDE, "", "ok"),
    ("JSON", ended(*texts(*FITS)), AS_CITY, "", "ok"),
    ("JSON, held back", ended(*texts(*FITS)), AS_CITY, HOLD, "ok"),
    ("thoughts cut off by max_tokens, by gpt-oss", of_gpt_oss("onlyreason_stream"), {"max_tokens": 6}, "", ""),
    ("nothing, where the client set stop", ended(), {"stop": "x"}, "", ""),
    ("arguments cut off by max_tokens", ended(*calls('{"ci'), finish_reason="length"), BESIDE, "", "not_judged"),
    ("what the client cannot take", ended(*calls(*FITS), SECOND),
     ONE_ONLY, "", "ok"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("says_what", "asked", "model", "result"), [row[1:] for row in KEPT], ids=[row[0] for row in KEPT]
)
async def test_a_stream_that_is_an_answer_arrives_as_without_a_contract(
    says_what: Script, asked: dict[str, Any], model: str, result: str
) -> None:
    async with staged(says_what, model=model) as stage, staged(says_what, model=LAX) as lax:
        heard, untouched = await hear(stage.router, **asked), await hear(lax.router, **asked)
        assert (heard.backend, said_in(heard), heard.ending) == ("a", said_in(untouched), untouched.ending)
        assert await stage.results() == ({("a", result): 1} if result else {})


def in_steps(steps: Sequence[bytes], may_go_on: asyncio.Event, is_waiting: asyncio.Event) -> Script:
    """Sends the first events, says that it waits, and sends the last one when it may."""

    async def script(_request: Received, connection: Connection) -> None:
        *first, last = steps
        await connection.write(STREAM_HEAD, *map(chunked, first))
        is_waiting.set()
        await may_go_on.wait()
        await connection.write(chunked(last), END)

    return script


@pytest.mark.parametrize(
    ("events", "asked", "model", "is_held"),
    [
        ([ROLE, *calls(*FITS)], BESIDE, "", True),
        ([ROLE, *calls(*FITS)], BESIDE, "accept: {tool_calls: any}", False),
        ([ROLE, *THOUGHTS, *calls(*FITS)], BESIDE, "", False),
        ([ROLE, *calls(*FITS)], {}, "", False),
        ([ROLE, *texts(*FITS)], AS_JSON, "", False),
        ([ROLE, *texts(*FITS)], AS_JSON, HOLD, True),
        ([ROLE, *texts(*FITS)], {"response_format": {"type": "text"}}, HOLD, False),
        ([ROLE, *texts(*FITS)], {}, HOLD, False),
    ],
    ids=[
        "a call", "a call, where any will do", "a call after thoughts", "a call although no tools were offered", "JSON",
        "JSON, to be held back", "a text, with JSON to be held back", "a plain call, with JSON to be held back",
    ],
)  # fmt: skip
async def test_what_is_held_back_until_its_end(
    events: list[bytes], asked: dict[str, Any], model: str, is_held: bool
) -> None:
    may_go_on, is_waiting = asyncio.Event(), asyncio.Event()
    script = in_steps([*events, event({}, "stop") + DONE], may_go_on, is_waiting)
    async with staged(script, model=model) as stage:
        body = {"model": "jane", "stream": True, "messages": [{"role": "user", "content": "hi"}], **asked}
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            call = group.create_task(_first_byte(stage.router, body))
            await is_waiting.wait()
            done, _ = await asyncio.wait([call], timeout=0.2 if is_held else 5)
            assert bool(done) is not is_held
            may_go_on.set()


async def _first_byte(router: Router, body: dict[str, Any]) -> None:
    async with router.client.stream("POST", "/v1/chat/completions", json=body) as response:
        async for _ in response.aiter_raw():
            return


async def test_what_is_held_back_arrives_event_by_event_as_it_came() -> None:
    """Held back, not put together: an SDK sees the same deltas."""
    async with staged(ended(*calls(*FITS), finish_reason="tool_calls")) as stage:
        heard = await hear(stage.router, tools=TOOLS)
        pieces = [delta["tool_calls"][0]["function"]["arguments"] for delta in heard.deltas if "tool_calls" in delta]
        assert (pieces, heard.ending) == (["", *FITS], CALLED)


FAST = "timeouts: {between_tokens_s: 0.3, first_token_s: 0.3, first_token_per_kib_s: 0}"


async def test_while_an_answer_is_held_back_the_time_between_two_tokens_counts_on() -> None:
    async def drips(_request: Received, connection: Connection) -> None:
        await connection.write(STREAM_HEAD, chunked(ROLE))
        for piece in calls('{"city":', '"P', "a", "r", "i", 's"}'):
            await connection.write(chunked(piece))
            await asyncio.sleep(0.1)  # seven of them take longer than a first token may
        await connection.write(chunked(event({}, "tool_calls")), chunked(DONE), END)

    async with staged(drips, model=FAST) as stage:
        heard = await hear(stage.router, tools=TOOLS)
        assert (heard.backend, heard.ending) == ("a", CALLED)


LOST = {"stands still": stops_after(ROLE, *calls('{"city":')), "breaks": breaks_after(ROLE, *calls('{"city":')),
        "ends without an end": streams(ROLE, *calls('{"city":'))}  # fmt: skip


@pytest.mark.parametrize("script", LOST.values(), ids=LOST)
async def test_a_call_moves_where_what_is_held_back_does_not_end(script: Script) -> None:
    """Without the contract the client would have seen a piece of it, and then an error."""
    async with staged(script, model=FAST) as stage:
        heard = await hear(stage.router, tools=TOOLS)
        assert (heard.backend, heard.ending, heard.content) == ("b", WHOLE, "from b ")


async def test_what_is_too_long_to_be_held_back_is_let_go() -> None:
    piece = "x" * 65_536
    events = calls('{"city":"', *[piece] * (MAX_HELD_ANSWER_BYTES // len(piece) + 2))
    may_go_on, is_waiting = asyncio.Event(), asyncio.Event()
    async with staged(in_steps([ROLE, *events, event({}, "tool_calls") + DONE], may_go_on, is_waiting)) as stage:
        async with asyncio.timeout(10):
            body = {"model": "jane", "stream": True, "messages": [{"role": "user", "content": "hi"}], **BESIDE}
            await _first_byte(stage.router, body)
        may_go_on.set()
        assert await stage.results() == {("a", "not_judged"): 1}
