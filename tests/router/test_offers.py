"""What is no tool is refused before any backend is asked, and named in OpenAI's way; what only some servers know is passed on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.reading import BadCall, CallBody, read_body
from tests.offered import A_MESSAGES_TOOL, A_RESPONSES_TOOL, A_TOOL
from tests.running import running
from tests.upstream import Upstream, says

FIELDS: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "hi"}]},
    "responses": {"input": "hi"},
    "messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5},
    "count_tokens": {"messages": [{"role": "user", "content": "hi"}]},
}
TOOLS: dict[str, Any] = {
    "chat": A_TOOL,
    "responses": A_RESPONSES_TOOL,
    "messages": A_MESSAGES_TOOL,
    "count_tokens": A_MESSAGES_TOOL,
}


def read(kind: str, tools: Any, **more: Any) -> CallBody:
    return read_body(kind, json.dumps({"model": "jane", **FIELDS[kind], "tools": tools, **more}).encode())


def named(name: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def with_function(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **fields}}


TAKEN: list[tuple[str, str, list[Any]]] = [
    ("a function", "chat", [A_TOOL]),
    ("a function of a name alone", "chat", [named("a_B-9")]),
    ("a name as long as may be", "chat", [named("x" * 64)]),
    ("a function that is said to be strict", "chat", [with_function(strict=True, parameters=None, description=None)]),
    ("a tool of a type that few know", "chat", [{"type": "custom", "custom": {"name": "x"}}, A_TOOL]),
    ("a function of a response", "responses", [A_RESPONSES_TOOL]),
    ("a response's own tools", "responses", [{"type": "web_search"}, {"type": "mcp", "server_label": "x"}]),
    ("a tool of a message", "messages", [A_MESSAGES_TOOL]),
    ("a tool of a message with its type", "messages", [A_MESSAGES_TOOL | {"type": "custom"}]),
    ("a tool of Anthropic's own", "messages", [{"type": "web_search_20250305", "name": "web_search"}]),
    ("tools of another server, without a name", "messages", [{"type": "mcp_toolset", "mcp_server_name": "x"}]),
    ("a tool whose tokens are to be counted", "count_tokens", [A_MESSAGES_TOOL]),
]


@pytest.mark.parametrize(("kind", "tools"), [row[1:] for row in TAKEN], ids=[row[0] for row in TAKEN])
def test_what_is_a_tool_is_sent_on_as_it_is(kind: str, tools: list[Any]) -> None:
    assert json.loads(bytes(read(kind, tools).fields["tools"])) == tools


NAME = "must be 1 to 64 letters"
REFUSED: list[tuple[str, str, Any, str, str]] = [
    ("a word", "chat", "x", "", "must be an object"),
    ("null", "chat", None, "", "must be an object"),
    ("nothing", "chat", {}, ".type", "is missing"),
    ("no type", "chat", {"function": {"name": "f"}}, ".type", "is missing"),
    ("a type that is no string", "chat", {"type": 5}, ".type", "must be a string"),
    ("no function", "chat", {"type": "function"}, ".function", "is missing"),
    ("a function that is none", "chat", {"type": "function", "function": "f"}, ".function", "must be an object"),
    ("a function that is null", "chat", {"type": "function", "function": None}, ".function", "must be an object"),
    ("no name", "chat", {"type": "function", "function": {}}, ".function.name", "is missing"),
    ("a name in numbers", "chat", named(5), ".function.name", NAME),
    ("an empty name", "chat", named(""), ".function.name", NAME),
    ("a name with a blank", "chat", named("a b"), ".function.name", NAME),
    ("a name that ends its line", "chat", named("ab\n"), ".function.name", NAME),
    ("a name that is too long", "chat", named("x" * 65), ".function.name", NAME),
    ("a description in numbers", "chat", with_function(description=5), ".function.description", "must be a string"),
    ("parameters in words", "chat", with_function(parameters="x"), ".function.parameters", "must be an object"),
    ("parameters in a list", "chat", with_function(parameters=[]), ".function.parameters", "must be an object"),
    ("a chat's function in a response", "responses", A_TOOL, ".name", "is missing"),
    ("a response's function in a chat", "chat", A_RESPONSES_TOOL, ".function", "is missing"),
    ("no name in a response", "responses", {"type": "function"}, ".name", "is missing"),
    ("a word in a response", "responses", "x", "", "must be an object"),
    ("no name in a message", "messages", {"input_schema": {}}, ".name", "is missing"),
    ("a schema in words", "messages", {"name": "f", "input_schema": "x"}, ".input_schema", "must be an object"),
    ("a word in a message", "messages", "x", "", "must be an object"),
    ("a word where tokens are counted", "count_tokens", "x", "", "must be an object"),
]  # fmt: skip


@pytest.mark.parametrize("others", [0, 2], ids=["alone", "after others"])
@pytest.mark.parametrize(
    ("kind", "tool", "place", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_what_is_no_tool_is_refused(kind: str, tool: Any, place: str, words: str, others: int) -> None:
    with pytest.raises(BadCall, match=words) as raised:
        read(kind, [*[TOOLS[kind]] * others, tool])
    assert raised.value.param == f"tools[{others}]{place}"


def test_what_is_no_tool_is_refused_beside_a_choice_among_them() -> None:
    for fields in ({"tool_choice": named("f")}, {"tool_choice": "required"}):
        with pytest.raises(BadCall) as raised:
            read_body("chat", json.dumps({"model": "jane", **FIELDS["chat"], **fields, "tools": [{}]}).encode())
        assert raised.value.param == "tools[0].type"


async def test_no_backend_is_asked_and_none_is_charged() -> None:
    async with Upstream(says("x")) as up:
        text = f"""
backends: {{a: {{kind: llama-server, url: {up.url}}}}}
models: {{jane: {{on: {{a: real}}, split: {{a: 1.0}}}}}}
"""
        async with running(text) as router:
            told = await router.chat(tools=[{"type": "function"}])
            assert told.status_code == 400 and not up.received
            assert told.json()["error"] == {
                "message": "tools[0].function is missing",
                "type": "invalid_request_error",
                "param": "tools[0].function",
                "code": None,
            }
