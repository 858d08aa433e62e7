"""What is refused and what is left out of a request, whichever backend answers; the numbers are those of the dialects' cases."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.canonical_request import STEERING
from router.reading import BadCall, CallBody, read_body

TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
USER = {"role": "user", "content": "hi"}
LONG = {"role": "user", "content": "x" * 5_000}


NEEDED: dict[str, dict[str, Any]] = {
    "chat": {"messages": [USER]},
    "completions": {"prompt": "hi"},
    "embeddings": {"input": "hi"},
}


def read(kind: str = "chat", indent: int | None = None, **fields: Any) -> CallBody:
    """A call of the kind with what it must have, and these fields."""
    whole = {"model": "jane", **NEEDED.get(kind, {}), **fields}
    return read_body(kind, json.dumps(whole, indent=indent, separators=None if indent else (",", ":")).encode())


def kept(body: CallBody) -> dict[str, Any]:
    """What of the client's fields is sent on, beside the ones that every call has."""
    sent = json.loads(b"".join(body.write(b'"other"')))
    return {name: value for name, value in sent.items() if name not in ("model", "messages", "prompt", "input")}


LEFT_OUT: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("40: no tools", {"tools": []}, {}),
    (
        "40: no tools, and how to choose among them",
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
        {},
    ),
    ("40: tools that are null", {"tools": None, "tool_choice": "none"}, {}),
    ("40: how to choose among no tools", {"tool_choice": "auto", "parallel_tool_calls": False}, {}),
    ("42: options of a stream without one", {"stream_options": {"include_usage": True}}, {}),
    (
        "42: options of a stream that is off",
        {"stream": False, "stream_options": {"include_usage": True}},
        {"stream": False},
    ),
    ("43: no limit, in the words of two servers", {"max_tokens": -1}, {}),
    ("43: no limit under the newer name", {"max_completion_tokens": -1}, {}),
    ("43: both limits", {"max_tokens": 5, "max_completion_tokens": 9}, {"max_completion_tokens": 9}),
    ("43: both limits, the newer one off", {"max_tokens": 5, "max_completion_tokens": -1}, {"max_tokens": 5}),
    (
        "43: both limits, the older one off and the newer one null",
        {"max_tokens": -1, "max_completion_tokens": None},
        {"max_completion_tokens": None},
    ),
    (
        "43: both limits, the newer one null",
        {"max_tokens": 5, "max_completion_tokens": None},
        {"max_tokens": 5, "max_completion_tokens": None},
    ),
    (
        "50: an answer that is a message of its own",
        {"continue_final_message": False, "add_generation_prompt": True},
        {},
    ),
    ("52: what steers the server", dict.fromkeys(sorted(STEERING), 1), {}),
]


@pytest.mark.parametrize(("fields", "rest"), [row[1:] for row in LEFT_OUT], ids=[row[0] for row in LEFT_OUT])
@pytest.mark.parametrize("indent", [None, 1], ids=["dense", "spread out"])
def test_what_would_mean_nothing_is_left_out(fields: dict[str, Any], rest: dict[str, Any], indent: int | None) -> None:
    body = read(indent=indent, temperature=0.5, **fields)
    assert kept(body) == {"temperature": 0.5, **rest}
    assert body.fields.keys() == {"model", "messages", "temperature", *rest}


KEPT: list[tuple[str, str, dict[str, Any]]] = [
    ("limits", "chat", {"max_tokens": 1, "stop": ["a", "b", "c", "d"], "reasoning_effort": "max"}),
    ("limits that are null", "chat", {"max_tokens": None, "stop": None, "reasoning_effort": None}),
    ("bounds", "chat", {"temperature": 2, "top_p": 0, "frequency_penalty": -2, "presence_penalty": 2.0, "n": 1}),
    ("values that are null", "chat", {"temperature": None, "top_p": None, "n": None, "response_format": None}),
    ("the best of two, before a suffix", "completions", {"best_of": 2, "suffix": "!"}),
    ("a whole number with a point", "chat", {"max_tokens": 5.0}),
    ("one stop string", "completions", {"stop": "a", "max_tokens": 7}),
    ("tools and how to choose", "chat", {"tools": [TOOL], "tool_choice": NAMED, "parallel_tool_calls": False}),
    ("a choice in one word", "chat", {"tools": [TOOL], "tool_choice": "required"}),
    ("a choice of another form", "chat", {"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}),
    ("options of a stream", "chat", {"stream": True, "stream_options": {"include_usage": False}}),
    ("only the prompt's own logprobs", "completions", {"max_tokens": 0, "echo": True}),
    ("what an embedding may have", "embeddings", {"dimensions": 3, "stop": [], "max_tokens": 0}),
    (
        "another API's fields",
        "responses",
        {"input": "x", "max_tokens": 0, "tools": [], "reasoning": {"effort": "none"}},
    ),
    ("a question that renders", "tokenize", {"messages": [], "add_generation_prompt": False}),
    ("what is not known", "chat", {"foo": {"priority": 1}, "guided_json": {}}),
]


@pytest.mark.parametrize(("kind", "fields"), [row[1:] for row in KEPT], ids=[row[0] for row in KEPT])
def test_what_means_something_is_sent_on(kind: str, fields: dict[str, Any]) -> None:
    if kind == "tokenize":
        fields = {**fields, "messages": [USER]}
    rest = {name: value for name, value in fields.items() if name not in ("messages", "input")}
    assert kept(read(kind, **fields)) == rest


STEERS = (
    "priority kv_transfer_params ec_transfer_params cache_salt ttl draft_model vllm_xargs request_id return_token_ids session_id "
    "return_prompt_text stream_interval id_slot cache_prompt n_keep lora response_fields timings_per_token verbose"
)


@pytest.mark.parametrize("name", STEERS.split())
def test_52_what_steers_a_server_is_no_clients_to_say(name: str) -> None:
    fields: dict[str, Any] = {name: 1, "seed": 2}
    assert kept(read(**fields)) == {"seed": 2}


@pytest.mark.parametrize("kind", ["chat", "completions", "embeddings", "responses", "messages", "tokenize", "pass"])
def test_52_no_client_steers_a_server_whatever_it_asks(kind: str) -> None:
    needed: dict[str, Any] = {"messages": [USER], "max_tokens": 5, "input": "x", "prompt": "x"}
    body = read(kind, **needed, priority=-1, kv_transfer_params={"remote_host": "h"}, cache_salt="s", ttl=1)
    assert body.fields.keys() == {"model", *needed}


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("no messages", {"messages": []}, "messages", "must not be empty"),
    ("43: no tokens", {"max_tokens": 0}, "max_tokens", "at least 1"),
    ("43: fewer than none", {"max_completion_tokens": -5}, "max_completion_tokens", "at least 1"),
    (
        "43: no tokens beside a limit that counts",
        {"max_tokens": 0, "max_completion_tokens": 5},
        "max_tokens",
        "at least 1",
    ),
    ("a limit in words", {"max_tokens": "5"}, "max_tokens", "whole number"),
    ("half a token", {"max_tokens": 1.5}, "max_tokens", "whole number"),
    ("a limit that is a flag", {"max_tokens": True}, "max_tokens", "whole number"),
    ("45: five stop strings", {"stop": list("abcde")}, "stop", "at most 4 strings, not 5"),
    ("45: a stop that is empty", {"stop": ""}, "stop", "an empty string"),
    ("45: one stop string that is empty", {"stop": ["a", ""]}, "stop", "an empty string"),
    ("45: a stop that is no string", {"stop": [1]}, "stop", "list of strings"),
    ("41: an effort that nobody knows", {"reasoning_effort": "banana"}, "reasoning_effort", "one of none, minimal"),
    ("41: an effort in numbers", {"reasoning_effort": 3}, "reasoning_effort", "string"),
    ("42: options that are none", {"stream": True, "stream_options": "usage"}, "stream_options", "an object"),
    ("40: a tool to be called, of none", {"tools": [], "tool_choice": "required"}, "tool_choice", "tools has none"),
    ("40: one tool by name, without any", {"tool_choice": NAMED}, "tool_choice", "tools has none"),
    (
        "a tool that is not offered",
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "nope"}}},
        "tool_choice",
        "not among the tools",
    ),
    ("tools of another form beside a named one", {"tools": ["x"], "tool_choice": NAMED}, "tools[0]", "an object"),
    ("too hot", {"temperature": 3}, "temperature", "between 0 and 2"),
    ("below nothing", {"temperature": -0.1}, "temperature", "between 0 and 2"),
    ("heat in words", {"temperature": "x"}, "temperature", "a number"),
    ("more than all", {"top_p": 1.5}, "top_p", "between 0 and 1"),
    ("less than none", {"top_p": -0.1}, "top_p", "between 0 and 1"),
    ("too much of a penalty", {"frequency_penalty": 3}, "frequency_penalty", "between -2 and 2"),
    ("too much of a reward", {"presence_penalty": -3}, "presence_penalty", "between -2 and 2"),
    ("no choice", {"n": 0}, "n", "at least 1"),
    ("fewer choices than none", {"n": -1}, "n", "at least 1"),
    ("choices in words", {"n": "2"}, "n", "a whole number"),
    ("a form in one word", {"response_format": "json"}, "response_format", "an object with a type"),
    ("a form without a type", {"response_format": {}}, "response_format", "an object with a type"),
    (
        "a user's null",
        {"messages": [USER, {"role": "user", "content": None}]},
        "messages[1].content",
        "a string or a list",
    ),
    (
        "a user's null after much",
        {"messages": [LONG, {"role": "user", "content": None}]},
        "messages[1].content",
        "a string or a list",
    ),
    (
        "a user's null beside a developer",
        {"messages": [{"role": "developer", "content": "x"}, {"role": "user", "content": None}]},
        "messages[1].content",
        "a string or a list",
    ),
    ("50: a message left open", {"continue_final_message": True}, "continue_final_message", "not supported"),
    ("50: no new turn", {"add_generation_prompt": False}, "add_generation_prompt", "not supported"),
    ("50: a flag in words", {"continue_final_message": "yes"}, "continue_final_message", "true or false"),
]


@pytest.mark.parametrize(("fields", "param", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_backends_disagree_on_is_refused(fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(BadCall, match=words) as raised:
        read(**fields)
    assert raised.value.param == param


@pytest.mark.parametrize("prompt", ["", None, [], [""]])
def test_an_empty_prompt_is_refused(prompt: Any) -> None:
    with pytest.raises(BadCall, match="must not be empty") as raised:
        read("completions", prompt=prompt)
    assert raised.value.param == "prompt"


def test_an_empty_suffix_is_left_out() -> None:
    assert kept(read("completions", suffix="", seed=1)) == {"seed": 1}


@pytest.mark.parametrize("kind", ["responses", "messages"])
def test_other_apis_have_the_same_bounds(kind: str) -> None:
    with pytest.raises(BadCall, match="between 0 and 2"):
        read(kind, messages=[USER], input="x", max_tokens=5, temperature=3)


@pytest.mark.parametrize("echo", [False, None, 1], ids=["off", "null", "no flag"])
def test_43_no_tokens_are_refused_where_the_prompt_is_not_echoed(echo: Any) -> None:
    with pytest.raises(BadCall, match="at least 1"):
        read("completions", max_tokens=0, echo=echo)


def test_43_an_echo_without_a_limit_has_none() -> None:
    assert kept(read("completions", max_tokens=-1, echo=True)) == {"echo": True}


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool", "function"])
@pytest.mark.parametrize("around", [[], [LONG]], ids=["short", "long"])
def test_every_role_of_the_api_is_taken(role: str, around: list[Any]) -> None:
    body = read(messages=[*around, {"role": role, "content": "hi"}])
    assert body.has_odd_turns is (role == "developer")


BAD_TURNS: list[tuple[str, Any, str, str]] = [
    ("a role that nobody knows", {"role": "alien", "content": "hi"}, ".role", "must be system, developer"),
    ("a role that begins like one", {"role": "users", "content": "hi"}, ".role", "must be system, developer"),
    ("the role last", {"content": "hi", "role": "alien"}, ".role", "must be system, developer"),
    ("a role in capitals", {"role": "User", "content": "hi"}, ".role", "must be system, developer"),
    ("a role that is no string", {"role": ["user"]}, ".role", "must be system, developer"),
    ("no role", {"content": "hi"}, ".role", "is missing"),
    ("a role that is null", {"role": None}, ".role", "is missing"),
]


@pytest.mark.parametrize(("turn", "place", "words"), [row[1:] for row in BAD_TURNS], ids=[row[0] for row in BAD_TURNS])
@pytest.mark.parametrize("indent", [None, 1], ids=["dense", "spread out"])
@pytest.mark.parametrize("around", [[USER], [LONG]], ids=["short", "long"])
def test_a_turn_of_nobody_is_refused(turn: Any, place: str, words: str, indent: int | None, around: list[Any]) -> None:
    with pytest.raises(BadCall, match=words) as raised:
        read(messages=[*around, turn, USER], indent=indent)
    assert raised.value.param == f"messages[1]{place}"


@pytest.mark.parametrize("turn", ["hi", None, 3, [USER], []])
@pytest.mark.parametrize("first", [USER, LONG], ids=["short", "long"])
def test_what_is_no_message_is_refused_wherever_it_stands(first: Any, turn: Any) -> None:
    for messages in ([first, turn], [first, turn, USER], [turn, first]):
        with pytest.raises(BadCall, match="must be an object") as raised:
            read(messages=messages)
        assert raised.value.param == f"messages[{messages.index(turn)}]"


def test_a_role_that_stands_twice_is_refused_where_one_of_them_is_nobodys() -> None:
    with pytest.raises(BadCall, match="role twice"):
        read_body("chat", b'{"model":"jane","messages":[{"role":"alien","role":"user","content":"x"}]}')


def test_a_turn_is_looked_at_however_many_stand_before_it() -> None:
    many = [{"role": "user", "content": "x" * 60}] * 80
    assert not read(messages=many).has_odd_turns
    assert read(messages=[*many, {"role": "developer", "content": "x"}]).has_odd_turns
    with pytest.raises(BadCall, match="must be system"):
        read(messages=[*many, {"role": "alien", "content": "x"}])


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ODD: list[tuple[str, list[Any], bool]] = [
    ("plain turns", [USER, {"role": "assistant", "content": "a"}, {"role": "system", "content": "s"}], False),
    ("turns with parts", [{"role": "user", "content": [{"type": "text", "text": "x"}]}], False),
    ("a turn with tool calls", [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}], True),
    ("a developer's turn", [{"role": "developer", "content": "x"}], True),
    ("a developer in the text only", [{"role": "user", "content": '{"role":"developer"} "tool_calls":[]'}], False),
    ("a name before the role", [{"name": "x", "role": "user", "content": "y"}], False),
]


@pytest.mark.parametrize(("messages", "is_odd"), [row[1:] for row in ODD], ids=[row[0] for row in ODD])
@pytest.mark.parametrize("indent", [None, 1], ids=["dense", "spread out"])
@pytest.mark.parametrize("around", [[], [LONG]], ids=["short", "long"])
def test_turns_that_a_dialect_may_have_to_change_are_known(
    messages: list[Any], is_odd: bool, indent: int | None, around: list[Any]
) -> None:
    assert read(messages=[*around, *messages], indent=indent).has_odd_turns is is_odd
