"""Cases 37 to 52: one call suits every backend: what they take differently is translated, what none should get refused or left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.dialects.stage import COMPLETIONS, KINDS, SAMPLING, Scene
from tests.dialects.strict import STRICT
from tests.faults.stage import told

pytestmark = pytest.mark.asyncio(loop_scope="module")

Sent = dict[str, Any]
BOTH = ("vllm", "lmstudio")


def tool(name: str) -> dict[str, Any]:
    properties = {"city": {"type": "string"}}
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


TOOLS = [tool("get_time"), tool("get_weather")]
NAMED = {"type": "function", "function": {"name": "get_weather"}}
JSON_OBJECT = {"type": "json_object"}
IMAGE = [
    {"type": "text", "text": "what is it?"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
]
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
HISTORY = [
    {"role": "user", "content": "weather?"},
    {
        "role": "assistant",
        "content": "Let me see.",
        "reasoning": "Need the weather.",
        "reasoning_content": "Need it.",
        "tool_calls": [CALL],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
]
ROLES = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": "hi"}]
FOREIGN = {
    "priority": 1,
    "kv_transfer_params": {"x": 1},
    "cache_salt": "s",
    "ttl": 60,
    "draft_model": "d",
    "vllm_xargs": {"y": 2},
}


def anything(_sent: Sent) -> bool:
    return True


def without(*names: str) -> Callable[[Sent], bool]:
    return lambda sent: not any(name in sent for name in names)


def having(**fields: Any) -> Callable[[Sent], bool]:
    return lambda sent: all(sent.get(name) == value for name, value in fields.items())


def is_permissive_schema(sent: Sent) -> bool:
    """Any object at all is valid under it, so it asks for no more than JSON mode does."""
    form = sent["response_format"]
    schema = form["json_schema"]["schema"]
    return bool(form["type"] == "json_schema" and schema.get("type") == "object" and not schema.get("required"))


def is_that_one_tool(sent: Sent) -> bool:
    return bool(
        sent["tool_choice"] == "required" and [each["function"]["name"] for each in sent["tools"]] == ["get_weather"]
    )


def has_no_thoughts(sent: Sent) -> bool:
    said = sent["messages"][1]
    return (
        not said.get("content") and not {"reasoning", "reasoning_content"} & set(said) and said["tool_calls"] == [CALL]
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asks, and what each kind of backend gets of it; 200 from all of them."""

    number: int
    what: str
    fields: dict[str, Any]
    gets: dict[str, Callable[[Sent], bool]] = field(default_factory=dict)


def at(kinds: tuple[str, ...], is_right: Callable[[Sent], bool]) -> dict[str, Callable[[Sent], bool]]:
    return dict.fromkeys(kinds, is_right)


ASKED = [
    Asked(
        37,
        "json_object suits LM Studio as a schema that allows any object",
        {"response_format": JSON_OBJECT},
        {"lmstudio": is_permissive_schema, "vllm": having(response_format=JSON_OBJECT)},
    ),
    Asked(
        38,
        "a tool that is named suits LM Studio as the only one there is",
        {"tools": TOOLS, "tool_choice": NAMED},
        {"lmstudio": is_that_one_tool, "vllm": having(tool_choice=NAMED, tools=TOOLS)},
    ),
    Asked(40, "an empty list of tools is left out", {"tools": []}, at(KINDS, without("tools"))),
    Asked(
        41, "no reasoning is little reasoning", {"reasoning_effort": "none"}, at(BOTH, having(reasoning_effort="low"))
    ),
    Asked(
        41,
        "minimal reasoning is little reasoning",
        {"reasoning_effort": "minimal"},
        at(BOTH, having(reasoning_effort="low")),
    ),
    Asked(
        41,
        "very much reasoning is much reasoning",
        {"reasoning_effort": "xhigh"},
        at(BOTH, having(reasoning_effort="high")),
    ),
    Asked(
        41,
        "the most reasoning is much reasoning",
        {"reasoning_effort": "max"},
        at(BOTH, having(reasoning_effort="high")),
    ),
    Asked(
        41, "an effort that all know stays", {"reasoning_effort": "medium"}, at(BOTH, having(reasoning_effort="medium"))
    ),
    Asked(
        42,
        "options of a stream without one are left out",
        {"stream_options": {"include_usage": True}},
        at(KINDS, without("stream_options")),
    ),
    Asked(43, "no limit is no limit", {"max_tokens": -1}, at(KINDS, without("max_tokens", "max_completion_tokens"))),
    Asked(
        43,
        "no limit is no limit, by its newer name",
        {"max_completion_tokens": -1},
        at(KINDS, without("max_tokens", "max_completion_tokens")),
    ),
    Asked(
        44,
        "LM Studio gets a limit by the name that it knows",
        {"max_completion_tokens": 7},
        {
            "lmstudio": lambda sent: having(max_tokens=7)(sent) and without("max_completion_tokens")(sent),
            "vllm": lambda sent: 7 in (sent.get("max_tokens"), sent.get("max_completion_tokens")),
        },
    ),
    Asked(
        45, "four strings to stop at are enough for all", {"stop": list("abcd")}, at(KINDS, having(stop=list("abcd")))
    ),
    Asked(
        47,
        "a penalty by llama.cpp's name",
        {"repeat_penalty": 1.1},
        {
            "lmstudio": having(repeat_penalty=1.1),
            "llama-server": having(repeat_penalty=1.1),
            "vllm": lambda sent: having(repetition_penalty=1.1)(sent) and without("repeat_penalty")(sent),
        },
    ),
    Asked(
        47,
        "a penalty by vLLM's name",
        {"repetition_penalty": 1.1},
        {
            "vllm": having(repetition_penalty=1.1),
            "lmstudio": lambda sent: having(repeat_penalty=1.1)(sent) and without("repetition_penalty")(sent),
            "llama-server": having(repeat_penalty=1.1),
        },
    ),
    Asked(
        49,
        "LM Studio gets the developer's word as the system's",
        {"messages": ROLES},
        {
            "lmstudio": lambda sent: [m["role"] for m in sent["messages"]] == ["system", "user"],
            "vllm": having(messages=ROLES),
        },
    ),
    Asked(
        51,
        "an answer with thoughts, words and a call of a tool may be sent back",
        {"messages": HISTORY, "tools": TOOLS},
        {
            "lmstudio": has_no_thoughts,
            "vllm": lambda sent: sent["messages"][1]["tool_calls"] == [CALL],
            "llama-server": anything,
        },
    ),
    Asked(52, "what only an engine's operator may set is left out", FOREIGN, at(KINDS, without(*FOREIGN))),
]
PLAYED = [
    pytest.param(
        asked,
        kind,
        is_right,
        stream,
        id=f"{asked.number:02}-{asked.what} ({kind}, {'a stream' if stream else 'whole'})",
    )
    for asked in ASKED
    for kind, is_right in asked.gets.items()
    for stream in (False, True)
    if not (stream and asked.number == 42)  # which is about calls that are no streams
]


@pytest.mark.parametrize(("asked", "kind", "is_right", "stream"), PLAYED)
async def test_case(asked: Asked, kind: str, is_right: Callable[[Sent], bool], stream: bool, scene: Scene) -> None:
    scene.begin(**STRICT)
    heard = await scene.ask(f"{kind} alone lax", stream=stream or None, **asked.fields)
    assert heard.status == 200, heard.body
    sent = scene.sent_to(kind)
    assert is_right(sent), sent


@dataclass(frozen=True, slots=True)
class Refused:
    """What a client asks in vain: a 400 of the router's own, whatever backend it would have gone to."""

    number: int
    what: str
    fields: dict[str, Any]
    param: str | None
    kinds: tuple[str, ...] = KINDS


REFUSED = [
    Refused(43, "a limit of no tokens at all", {"max_tokens": 0}, "max_tokens"),
    Refused(
        43, "a limit of no tokens at all, by its newer name", {"max_completion_tokens": 0}, "max_completion_tokens"
    ),
    Refused(45, "five strings to stop at", {"stop": list("abcde")}, "stop"),
    Refused(46, "two answers, of LM Studio", {"n": 2}, "n", ("lmstudio",)),
    Refused(46, "probabilities, of LM Studio", {"logprobs": True}, "logprobs", ("lmstudio",)),
    Refused(48, "an image", {"messages": [{"role": "user", "content": IMAGE}]}, None, BOTH),
    Refused(
        50,
        "a message that goes on",
        {"continue_final_message": True, "add_generation_prompt": False},
        "continue_final_message",
    ),
]
REFUSALS = [(row, kind) for row in REFUSED for kind in row.kinds]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("row", "kind"), REFUSALS, ids=[f"{row.number:02}-{row.what} is a 400 ({kind})" for row, kind in REFUSALS]
)
async def test_case_refused(row: Refused, kind: str, stream: bool, scene: Scene) -> None:
    heard = await scene.ask(f"{kind} alone", stream=stream or None, **row.fields)
    assert told(heard).status == 400 and heard.json["error"]["type"] == "invalid_request_error"
    assert row.param in (None, heard.json["error"]["param"])
    assert not scene.at[kind].received


@pytest.mark.parametrize("path", [COMPLETIONS], ids=["43-completions too"])
async def test_case_43(path: str, scene: Scene) -> None:
    assert (await scene.ask("vllm alone", path, max_tokens=0)).status == 400 and not scene.at["vllm"].received


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_case_39_a_tool_that_is_named_ends_alike_on_both(stream: bool, scene: Scene) -> None:
    """vLLM ends it with `stop` (captured), LM Studio, which is asked for any tool of one, with `tool_calls`."""
    finishes = []
    for kind in BOTH:
        scene.begin(**STRICT)
        asked: dict[str, Any] = {"tools": TOOLS, "tool_choice": NAMED}
        if stream:
            finishes.append((await scene.hear(f"{kind} alone", **asked)).finishes)
        else:
            heard = await scene.ask(f"{kind} alone", **asked)
            finishes.append([choice["finish_reason"] for choice in heard.json["choices"]])
    assert finishes == [["tool_calls"]] * 2


@pytest.mark.parametrize("needs", [{"n": 2}, {"logprobs": True}], ids=["two answers", "probabilities"])
async def test_case_46_what_lm_studio_cannot_do_goes_to_who_can(needs: dict[str, Any], scene: Scene) -> None:
    heard = await scene.ask("lmstudio", **needs)
    assert heard.headers["x-crossfade-backend"] == "b" and not scene.at["lmstudio"].received
    assert {name: scene.sent_to("b")[name] for name in needs} == needs


@pytest.mark.parametrize("needs", [{"n": 2}, {"logprobs": True}], ids=["two answers", "probabilities"])
async def test_case_46_while_only_lm_studio_is_alive_it_is_an_error(needs: dict[str, Any], scene: Scene) -> None:
    heard = told(await scene.ask("lmstudio or closed", **needs))
    assert heard.status in (400, 503) and not scene.at["lmstudio"].received


@pytest.mark.parametrize("path", ["/v1/chat/completions", COMPLETIONS])
@pytest.mark.parametrize("kind", BOTH)
async def test_case_47_who_sends_no_sampling_gets_the_models(kind: str, path: str, scene: Scene) -> None:
    await scene.ask(f"{kind} sampled", path)
    assert {name: scene.sent_to(kind).get(name) for name in SAMPLING} == SAMPLING
    await scene.ask(f"{kind} sampled", path, temperature=0.1)
    assert {name: scene.sent_to(kind).get(name) for name in SAMPLING} == {**SAMPLING, "temperature": 0.1}


async def test_case_41_an_effort_that_nobody_knows_is_refused_alike_by_both(scene: Scene) -> None:
    statuses = []
    for kind in BOTH:
        scene.begin(**STRICT)
        statuses.append((await scene.ask(f"{kind} alone", reasoning_effort="banana")).status)
    assert len(set(statuses)) == 1
