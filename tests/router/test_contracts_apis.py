"""Contracts in the APIs beside chat: whole responses, messages and completions; their streams are in test_contracts_typed.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from tests.backends.captured import captured
from tests.router.test_contracts import CITY, LAX, Stage, staged
from tests.running import config_for, running
from tests.upstream import Script, Upstream, answer, says, sends

RESPONSES, MESSAGES, COMPLETIONS = "/v1/responses", "/v1/messages", "/v1/completions"
ASKED: dict[str, dict[str, Any]] = {
    RESPONSES: {"input": "hi"},
    MESSAGES: {"max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]},
    COMPLETIONS: {"prompt": "Once"},
}
R_TOOLS: dict[str, Any] = {"tools": [{"type": "function", "name": "get_weather", "parameters": CITY}]}
M_TOOLS: dict[str, Any] = {"tools": [{"name": "get_weather", "input_schema": CITY}]}
R_SEARCH: dict[str, Any] = {"tools": [{"type": "web_search"}, *R_TOOLS["tools"]]}
M_SEARCH: dict[str, Any] = {"tools": [{"type": "web_search_20250305", "name": "web_search"}, *M_TOOLS["tools"]]}
R_MUST: dict[str, Any] = {**R_TOOLS, "tool_choice": "required"}
R_SOME: dict[str, Any] = {**R_TOOLS, "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": []}}
R_NAMED: dict[str, Any] = {**R_TOOLS, "tool_choice": {"type": "function", "name": "get_weather"}}
M_ANY: dict[str, Any] = {**M_TOOLS, "tool_choice": {"type": "any"}}
M_NAMED: dict[str, Any] = {**M_TOOLS, "tool_choice": {"type": "tool", "name": "get_weather"}}
M_NONE: dict[str, Any] = {**M_TOOLS, "tool_choice": {"type": "none"}}
AS_JSON: dict[str, Any] = {"text": {"format": {"type": "json_object"}}}
AS_CITY: dict[str, Any] = {"text": {"format": {"type": "json_schema", "name": "x", "schema": CITY}}}
THOUGHT = {"type": "reasoning", "id": "rs", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
THINKING = {"type": "thinking", "thinking": "hm", "signature": ""}


def said(*texts: str) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [
        {"annotations": [], "text": text, "type": "output_text", "logprobs": None} for text in texts
    ]
    return {"id": "msg", "content": parts, "role": "assistant", "status": "completed", "type": "message"}


def called(arguments: str, name: str = "get_weather") -> dict[str, Any]:
    return {"type": "function_call", "id": "fc", "call_id": "c", "name": name, "arguments": arguments}


def used(given: Any, name: str = "get_weather") -> dict[str, Any]:
    return {"type": "tool_use", "id": "toolu", "name": name, "input": given}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def of_response(*items: Mapping[str, Any], status: str = "completed", tokens: int = 9) -> dict[str, Any]:
    usage = {"input_tokens": 9, "output_tokens": tokens, "total_tokens": 9 + tokens}
    about = {"id": "resp_1", "object": "response", "created_at": 1, "status": status, "model": "m"}
    return {**about, "output": list(items), "usage": usage}


def of_message(*blocks: Mapping[str, Any], stop_reason: str = "end_turn") -> dict[str, Any]:
    usage = {"input_tokens": 9, "output_tokens": 9}
    about = {"id": "m", "type": "message", "role": "assistant", "model": "m", "stop_reason": stop_reason}
    return {**about, "content": list(blocks), "usage": usage}


def of_completion(*texts: str, finish_reason: str = "stop") -> dict[str, Any]:
    choices = [{"index": place, "text": each, "finish_reason": finish_reason} for place, each in enumerate(texts)]
    return {"id": "x", "object": "text_completion", "created": 1, "model": "m", "choices": choices}


def whole(body: Mapping[str, Any]) -> Script:
    """As vLLM writes it: no space between tokens."""
    return sends(answer(json.dumps(body, separators=(",", ":")).encode()))


GOOD: dict[str, Script] = {
    RESPONSES: whole(of_response(called('{"city":"Paris"}'))),
    MESSAGES: whole(of_message(used({"city": "Paris"}), stop_reason="tool_use")),
    COMPLETIONS: whole(of_completion(" upon a time")),
}
CITY_SAID = whole(of_response(said('{"city":"Paris"}')))


async def ask(stage: Stage, path: str, **fields: Any) -> httpx.Response:
    return await stage.router.client.post(path, json={"model": "jane", **ASKED[path], **fields})


# (what a says, the path, what was asked beside the prompt, the violation)
NONE_ROWS: list[tuple[str, dict[str, Any], str, dict[str, Any], str]] = [
    ("nothing", of_response(), RESPONSES, {}, "empty"),
    ("a message without a text", of_response(said("")), RESPONSES, {}, "empty"),
    ("nothing but thoughts", of_response(THOUGHT), RESPONSES, {}, "empty"),
    ("markup", of_response(said("<|channel|>analysis")), RESPONSES, {}, "harmony_leak"),
    ("markup behind a text", of_response(said("Hello there!<|return|>")), RESPONSES, {}, "harmony_leak"),
    ("arguments cut off", of_response(called('{"city":"Par')), RESPONSES, R_TOOLS, "tool_arguments_not_json"),
    ("arguments of another type", of_response(called('{"city":5}')), RESPONSES, R_TOOLS, "tool_arguments_mismatch"),
    ("a bad call behind a good one", of_response(called('{"city":"x"}'), called("{")), RESPONSES, R_TOOLS, "tool_arguments_not_json"),
    ("a tool that was not offered", of_response(called("{}", "f")), RESPONSES, R_TOOLS, "unknown_tool"),
    ("a text where a tool must be called", of_response(said("x")), RESPONSES, R_MUST, "tool_missing"),
    ("a text where a tool was named", of_response(said("x")), RESPONSES, R_NAMED, "tool_missing"),
    ("a text where one of some must be called", of_response(said("x")), RESPONSES, R_SOME, "tool_missing"),
    ("a text where JSON was asked for", of_response(THOUGHT, said("Hello")), RESPONSES, AS_JSON, "json_invalid"),
    ("a list where an object was asked for", of_response(said("[1]")), RESPONSES, AS_JSON, "json_mismatch"),
    ("JSON of another schema", of_response(said('{"town":"x"}')), RESPONSES, AS_CITY, "json_mismatch"),
    ("nothing", of_message(), MESSAGES, {}, "empty"),
    ("a text block without a text", of_message(text("")), MESSAGES, {}, "empty"),
    ("nothing but thoughts", of_message(THINKING), MESSAGES, {}, "empty"),
    ("markup", of_message(text("assistantfinal Hello")), MESSAGES, {}, "harmony_leak"),
    ("arguments of another type", of_message(used({"city": 5})), MESSAGES, M_TOOLS, "tool_arguments_mismatch"),
    ("arguments that are no object", of_message(used('{"city":"x"}')), MESSAGES, M_TOOLS, "tool_arguments_mismatch"),
    ("a tool that was not offered", of_message(used({}, "f")), MESSAGES, M_TOOLS, "unknown_tool"),
    ("a call although none may be made", of_message(used({"city": "x"})), MESSAGES, M_NONE, "unknown_tool"),
    ("a text where a tool must be called", of_message(text("x")), MESSAGES, M_ANY, "tool_missing"),
    ("a text where a tool was named", of_message(text("x")), MESSAGES, M_NAMED, "tool_missing"),
    ("nothing", of_completion(""), COMPLETIONS, {}, "empty"),
]  # fmt: skip
NONE_IDS = [f"{row[2]}: {row[0]}" for row in NONE_ROWS]


@pytest.mark.parametrize(("body", "path", "asked", "violation"), [row[1:] for row in NONE_ROWS], ids=NONE_IDS)
async def test_a_whole_answer_that_is_none_moves_the_call(
    body: dict[str, Any], path: str, asked: dict[str, Any], violation: str
) -> None:
    is_text = "text" in asked or asked == M_NONE
    good = GOOD[path] if not is_text else CITY_SAID if path == RESPONSES else whole(of_message(text("x")))
    async with staged(whole(body), good) as stage:
        heard = await ask(stage, path, **asked)
        assert (heard.status_code, heard.headers["x-crossfade-backend"]) == (200, "b"), heard.text
        assert await stage.results() == {("a", violation): 1, **({("b", "ok"): 1} if asked else {})}


@pytest.mark.parametrize(("body", "path", "asked"), [row[1:4] for row in NONE_ROWS], ids=NONE_IDS)
async def test_a_contract_that_takes_anything_takes_it_as_it_is(
    body: dict[str, Any], path: str, asked: dict[str, Any]
) -> None:
    async with staged(whole(body), model=LAX) as stage:
        heard = await ask(stage, path, **asked)
        assert (heard.status_code, heard.headers["x-crossfade-backend"]) == (200, "a")
        assert await stage.results() == {}


SEARCHED = {"type": "web_search_call", "id": "ws", "status": "completed"}
SEARCHING = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
BEGUN = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello"}]
REFUSED = {**said(), "content": [{"type": "refusal", "refusal": "no"}]}
TAKEN_ROWS: list[tuple[str, dict[str, Any], str, dict[str, Any], str]] = [
    ("a text, to a plain call", of_response(THOUGHT, said("Hello")), RESPONSES, {}, ""),
    ("a text that begins as markup may", of_response(said("commentary is free")), RESPONSES, {}, ""),
    ("a text before a message without one", of_response(said("x"), said("")), RESPONSES, {}, ""),
    ("a call that fits", of_response(THOUGHT, called('{"city":"Paris"}')), RESPONSES, R_TOOLS, "ok"),
    ("a call of a tool without a schema", of_response(called("{}", "f")), RESPONSES, {"tools": [{"type": "function", "name": "f"}]}, "ok"),
    ("JSON behind words of another message", of_response(said("Let me see."), said('{"city":"x"}')), RESPONSES, AS_CITY, "ok"),
    ("what the engine has searched for", of_response(SEARCHED), RESPONSES, R_SEARCH, "ok"),
    ("a tool that the engine may have", of_response(called("{}", "f")), RESPONSES, R_SEARCH, "not_judged"),
    ("a refusal", of_response(REFUSED), RESPONSES, AS_JSON, "not_judged"),
    ("what was cut off", of_response(called('{"ci'), status="incomplete"), RESPONSES, R_TOOLS, "not_judged"),
    ("what was cut off as complete", of_response(said("{"), tokens=12), RESPONSES, {**AS_JSON, "max_output_tokens": 12}, "not_judged"),
    ("thoughts that used up all tokens", of_response(THOUGHT, tokens=12), RESPONSES, {"max_output_tokens": 12}, ""),
    ("a response that has only begun", of_response(status="queued"), RESPONSES, {"background": True}, ""),
    ("one with tools that has only begun", of_response(status="in_progress"), RESPONSES, {**R_TOOLS, "background": True}, "not_judged"),
    ("items of a form that nobody knows", of_response({"type": 5}), RESPONSES, R_TOOLS, "not_judged"),
    ("nothing, where the client set stop", of_response(), RESPONSES, {"stop": ["x"]}, ""),
    ("a call of tools that nobody reads", of_response(called("{}", "f")), RESPONSES, {"tools": [{"type": "x", "name": 5}]}, "not_judged"),
    ("a text, to a plain call", of_message(THINKING, text("Hello")), MESSAGES, {}, ""),
    ("a call that fits", of_message(THINKING, text("So:"), used({"city": "x"}), stop_reason="tool_use"), MESSAGES, M_TOOLS, "ok"),
    ("a tool that the engine runs", of_message(SEARCHING), MESSAGES, M_SEARCH, "ok"),
    ("what was cut off", of_message(used({}), stop_reason="max_tokens"), MESSAGES, M_TOOLS, "not_judged"),
    ("thoughts that used up all tokens", of_message(THINKING, stop_reason="max_tokens"), MESSAGES, {}, ""),
    ("a refusal", of_message(stop_reason="refusal"), MESSAGES, {}, ""),
    ("nothing, where the client set what stops it", of_message(), MESSAGES, {"stop_sequences": ["x"]}, ""),
    ("nothing more, where the client began the answer", of_message(), MESSAGES, {"messages": BEGUN}, ""),
    ("a text", of_completion("x"), COMPLETIONS, {}, ""),
    ("nothing, by max_tokens", of_completion("", finish_reason="length"), COMPLETIONS, {"max_tokens": 1}, ""),
    ("nothing, where the client set stop", of_completion(""), COMPLETIONS, {"stop": ["x"]}, ""),
    ("nothing, where the prompt is said again", of_completion(""), COMPLETIONS, {"echo": True}, ""),
    ("nothing to one of two prompts", of_completion("", "x"), COMPLETIONS, {"prompt": ["a", "b"]}, ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "path", "asked", "result"),
    [row[1:] for row in TAKEN_ROWS],
    ids=[f"{row[2]}: {row[0]}" for row in TAKEN_ROWS],
)
async def test_what_is_an_answer_stays_where_it_is(
    body: dict[str, Any], path: str, asked: dict[str, Any], result: str
) -> None:
    async with staged(whole(body)) as stage:
        heard = await ask(stage, path, **asked)
        assert (heard.status_code, heard.headers["x-crossfade-backend"]) == (200, "a"), heard.text
        assert await stage.results() == ({("a", result): 1} if result else {})


async def test_a_completion_that_says_nothing_before_a_suffix_stays_where_it_is() -> None:
    async with Upstream(whole(of_completion(""))) as a, Upstream(says("from b")) as b:
        able = config_for({"a": a.url, "b": b.url}).replace("a: real-a", "a: {name: real-a, can: {suffix: true}}")
        async with running(able) as router:
            heard = await router.client.post(COMPLETIONS, json={"model": "jane", "prompt": "x", "suffix": "y"})
            assert (heard.status_code, heard.headers["x-crossfade-backend"]) == (200, "a")


@pytest.mark.parametrize(
    "name",
    [
        "vllm-0.33-gpt-oss/responses", "vllm-0.33-gpt-oss/messages", "vllm-0.32-smollm2/24_responses",
        "vllm-0.32-smollm2/25_messages", "llama-server-smollm2/24_responses", "llama-server-smollm2/25_messages",
    ],
)  # fmt: skip
async def test_what_real_engines_answer_is_taken(name: str) -> None:
    async with staged(sends(answer(captured(name)[2]))) as stage:
        heard = await ask(stage, RESPONSES if "responses" in name else MESSAGES)
        assert (heard.status_code, heard.headers["x-crossfade-backend"]) == (200, "a")
        assert await stage.results() == {}


@pytest.mark.parametrize(
    ("path", "bad", "asked"),
    [
        (RESPONSES, of_response(called("{")), R_TOOLS),
        (MESSAGES, of_message(used({})), M_TOOLS),
        (COMPLETIONS, of_completion(""), {}),
    ],
    ids=ASKED,
)
async def test_with_nobody_left_the_client_hears_why(path: str, bad: dict[str, Any], asked: dict[str, Any]) -> None:
    async with staged(whole(bad), model="alone") as stage:
        heard = await ask(stage, path, **asked)
        assert (heard.status_code, heard.headers["x-should-retry"]) == (502, "false")
        assert "model" in heard.json()["error"]["message"] or "tool" in heard.json()["error"]["message"]
        assert len(stage.a.received) == 2


async def test_a_count_is_no_answer() -> None:
    async with staged(whole({"input_tokens": 9})) as stage:
        heard = await stage.router.client.post(
            "/v1/messages/count_tokens", json={"model": "jane", **ASKED[MESSAGES], **M_TOOLS}
        )
        assert (heard.status_code, heard.json()) == (200, {"input_tokens": 9})
        assert await stage.results() == {}


async def test_a_stored_response_is_no_new_answer() -> None:
    """That it is empty was judged when it was made."""
    async with staged(CITY_SAID) as stage:
        made = (await ask(stage, RESPONSES)).json()["id"]
        stage.a.script = whole(of_response())
        heard = await stage.router.client.get(f"{RESPONSES}/{made}")
        assert (heard.status_code, heard.json()["output"]) == (200, [])
        assert await stage.results() == {}
