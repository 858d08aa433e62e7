"""How a call is put to each kind of server: field by field, and whole, whatever else is in it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.asking import Fields, raw, translations
from backends.dialects import DIALECTS

TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("time", "weather")
]
NAMED = {"type": "function", "function": {"name": "weather"}}
USAGE = {"stream_options": {"include_usage": True}}
CALL = {"id": "c", "type": "function", "function": {"name": "time", "arguments": "{}"}}
THOUGHTFUL = {"role": "assistant", "content": "Let me see.", "reasoning": "r", "reasoning_content": "r", "tool_calls": [CALL]}  # fmt: skip
BARE = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ANY_OBJECT = {"type": "json_schema", "json_schema": {"name": "json_object", "schema": {"type": "object"}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "required": ["a"]}}}


def as_fields(values: dict[str, Any]) -> Fields:
    return {name: raw(value) for name, value in values.items()}


def written(opening: bytes, fields: Fields) -> bytes:
    """The body of both."""
    body = msgspec.json.encode(fields)
    return opening + body[1:] if opening else body


def sent(kind: str, fields: dict[str, Any], of: str = "chat", **more: Any) -> dict[str, Any]:
    """What a server of this kind gets of a call with these fields; `sampling`, and `stream` if it is one, are in `more`."""
    translation = translations(DIALECTS[kind].asks, more.get("sampling", {}))[of]
    flags = {"is_streamed": more.get("stream", False), "has_odd_turns": "messages" in fields}
    put = translation.put(as_fields(fields), **flags)
    whole = translation.whole(as_fields(fields), **flags)
    got: dict[str, Any] = json.loads(written(*put))
    assert got == json.loads(msgspec.json.encode(whole)), (
        "a call that is made anew has other fields than one that is sent on"
    )
    return got


BY_FIELD: list[tuple[str, dict[str, Any], dict[str, dict[str, Any]]]] = [
    ("37: JSON mode", {"response_format": {"type": "json_object"}}, {"lmstudio": {"response_format": ANY_OBJECT}}),
    (
        "37: JSON mode with a schema",
        {"response_format": {"type": "json_object", "schema": {"type": "object", "required": ["a"]}}},
        {
            "lmstudio": {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "json_object", "schema": {"type": "object", "required": ["a"]}},
                }
            }
        },
    ),
    ("the likeliest token alone", {"top_p": 0}, {"vllm": {"top_p": 1e-6}}),
    ("37: a schema", {"response_format": SCHEMA}, {}),
    ("37: no form", {"response_format": None}, {}),
    (
        "38: a tool by name",
        {"tools": TOOLS, "tool_choice": NAMED},
        {key: {"tools": TOOLS[1:], "tool_choice": "required"} for key in ("lmstudio", "llama-server")},
    ),
    ("38: a tool by name, of none", {"tool_choice": NAMED}, {}),
    ("38: any tool", {"tools": TOOLS, "tool_choice": "required"}, {}),
    ("38: a choice of another form", {"tools": TOOLS, "tool_choice": {"type": "allowed_tools"}}, {}),
    ("38: tools of another form", {"tools": ["weather"], "tool_choice": NAMED}, {}),
    (
        "41: no reasoning",
        {"reasoning_effort": "none"},
        {key: {"reasoning_effort": "low"} for key in ("vllm", "lmstudio")},
    ),
    (
        "41: minimal",
        {"reasoning_effort": "minimal"},
        {key: {"reasoning_effort": "low"} for key in ("vllm", "lmstudio")},
    ),
    ("41: xhigh", {"reasoning_effort": "xhigh"}, {key: {"reasoning_effort": "high"} for key in ("vllm", "lmstudio")}),
    ("41: max", {"reasoning_effort": "max"}, {key: {"reasoning_effort": "high"} for key in ("vllm", "lmstudio")}),
    ("41: medium", {"reasoning_effort": "medium"}, {}),
    ("44: the newer limit", {"max_completion_tokens": 9}, {"lmstudio": {"max_tokens": 9}}),
    (
        "44: the newer limit, null beside the older one",
        {"max_tokens": 5, "max_completion_tokens": None},
        {"lmstudio": {"max_tokens": 5}},
    ),
    ("47: llama.cpp's penalty", {"repeat_penalty": 1.1}, {"vllm": {"repetition_penalty": 1.1}}),
    (
        "47: vLLM's penalty",
        {"repetition_penalty": 1.1},
        {key: {"repeat_penalty": 1.1} for key in ("lmstudio", "llama-server")},
    ),
    ("logprobs of the chosen tokens", {"prompt": "x", "logprobs": 0}, {"llama-server": {"prompt": "x", "logprobs": 1}}),
    ("logprobs of others too", {"prompt": "x", "logprobs": 2}, {}),
    ("logprobs of the chosen tokens of a chat", {"messages": [], "logprobs": True, "top_logprobs": 0}, {}),
    (
        "47: both penalties",
        {"repetition_penalty": 1.1, "repeat_penalty": 1.2},
        {
            "vllm": {"repetition_penalty": 1.1},
            "lmstudio": {"repeat_penalty": 1.2},
            "llama-server": {"repeat_penalty": 1.2},
        },
    ),
    (
        "47: both penalties, the server's own null",
        {"repetition_penalty": None, "repeat_penalty": 1.2},
        {
            "vllm": {"repetition_penalty": 1.2},
            "lmstudio": {"repeat_penalty": 1.2},
            "llama-server": {"repeat_penalty": 1.2},
        },
    ),
    (
        "49: a developer",
        {"messages": [{"role": "developer", "content": "x"}, {"role": "user", "content": "developer"}]},
        {"lmstudio": {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "developer"}]}},
    ),
    (
        "51: thoughts and words beside a tool call",
        {"messages": [THOUGHTFUL, BARE, {"role": "assistant", "content": "a", "reasoning": "b"}]},
        {
            "lmstudio": {
                "messages": [
                    {"role": "assistant", "content": "", "tool_calls": [CALL]},
                    BARE,
                    {"role": "assistant", "content": "a", "reasoning": "b"},
                ]
            }
        },
    ),
    ("messages of another form", {"messages": ["x", {"role": "user", "tool_calls": "x"}, 3]}, {}),
]


@pytest.mark.parametrize("kind", DIALECTS)
@pytest.mark.parametrize(("fields", "by_kind"), [row[1:] for row in BY_FIELD], ids=[row[0] for row in BY_FIELD])
def test_each_kind_gets_a_field_as_it_takes_it(
    kind: str, fields: dict[str, Any], by_kind: dict[str, dict[str, Any]]
) -> None:
    assert sent(kind, {"seed": 1, **fields}) == {"seed": 1, **by_kind.get(kind, fields)}


STREAMED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("nothing said", {}, USAGE),
    ("asked for", USAGE, USAGE),
    ("not asked for", {"stream_options": {"include_usage": False}}, USAGE),
    ("null", {"stream_options": None}, USAGE),
    ("something else", {"stream_options": {"x": 1}}, {"stream_options": {"x": 1, "include_usage": True}}),
    ("on every chunk", {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}, USAGE),
]


@pytest.mark.parametrize("kind", DIALECTS)
@pytest.mark.parametrize("of", ["chat", "completions"])
@pytest.mark.parametrize(("fields", "options"), [row[1:] for row in STREAMED], ids=[row[0] for row in STREAMED])
def test_65_every_stream_is_asked_for_its_usage_once(
    kind: str, of: str, fields: dict[str, Any], options: dict[str, Any]
) -> None:
    assert sent(kind, {"seed": 1, **fields}, of, stream=True) == {"seed": 1, **options}
    assert sent(kind, {"seed": 1}, of) == {"seed": 1}


PINNED = {"temperature": 0.7, "max_completion_tokens": 50, "repetition_penalty": 1.05, "reasoning_effort": "none"}
FILLED: list[tuple[str, str, str, dict[str, Any], dict[str, Any]]] = [
    ("all of it", "vllm", "chat", {}, {**PINNED, "reasoning_effort": "low"}),
    (
        "all of it by a server's own names",
        "lmstudio",
        "chat",
        {},
        {"temperature": 0.7, "max_tokens": 50, "repeat_penalty": 1.05, "reasoning_effort": "low"},
    ),
    ("all of it as it stands", "openai", "chat", {}, PINNED),
    (
        "no effort to reason for a bare prompt",
        "vllm",
        "completions",
        {},
        {"temperature": 0.7, "max_tokens": 50, "repetition_penalty": 1.05},
    ),
    ("nothing for an embedding", "vllm", "embeddings", {}, {}),
    (
        "not what the client says",
        "vllm",
        "chat",
        {"temperature": 0, "reasoning_effort": "high"},
        {"temperature": 0, "reasoning_effort": "high", "max_completion_tokens": 50, "repetition_penalty": 1.05},
    ),
    (
        "not what the client says by another name",
        "vllm",
        "chat",
        {"max_tokens": 3, "repeat_penalty": 1.0},
        {"max_tokens": 3, "repetition_penalty": 1.0, "temperature": 0.7, "reasoning_effort": "low"},
    ),
    (
        "not what the client says by a name that is changed",
        "lmstudio",
        "chat",
        {"max_completion_tokens": 3, "repetition_penalty": 1.0},
        {"max_tokens": 3, "repeat_penalty": 1.0, "temperature": 0.7, "reasoning_effort": "low"},
    ),
    (
        "what the client leaves open as null",
        "lmstudio",
        "chat",
        {"temperature": None, "max_completion_tokens": None, "max_tokens": None, "repetition_penalty": None},
        {"temperature": 0.7, "max_tokens": 50, "repeat_penalty": 1.05, "reasoning_effort": "low"},
    ),
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("kind", "of", "fields", "rest"), [row[1:] for row in FILLED], ids=[row[0] for row in FILLED])
def test_47_what_a_client_leaves_open_is_filled_in(
    kind: str, of: str, fields: dict[str, Any], rest: dict[str, Any], stream: bool
) -> None:
    options = USAGE if stream and of != "embeddings" else {}
    assert sent(kind, {"seed": 1, **fields}, of, sampling=PINNED, stream=stream) == {"seed": 1, **options, **rest}


def test_one_limit_is_filled_in_where_two_names_of_it_are_pinned() -> None:
    for kind, name in (("lmstudio", "max_tokens"), ("vllm", "max_tokens")):
        assert sent(kind, {"seed": 1}, sampling={"max_tokens": 5, "max_completion_tokens": 9}) == {"seed": 1, name: 5}


def test_null_fills_nothing_in() -> None:
    assert sent("vllm", {"seed": 1}, sampling={"temperature": None, "top_p": 0.5}) == {"seed": 1, "top_p": 0.5}


def test_a_plain_call_is_sent_on_behind_an_opening_and_is_not_looked_into() -> None:
    translation = translations(DIALECTS["lmstudio"].asks, {"top_p": 0.9})["chat"]
    fields = as_fields({"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 0.5})
    opening, same = translation.put(fields, is_streamed=True, has_odd_turns=False)
    assert same is fields and json.loads(opening[:-1] + b"}") == {**USAGE, "top_p": 0.9}


def test_what_changes_nothing_leaves_the_fields_as_they_are() -> None:
    translation = translations(DIALECTS["lmstudio"].asks, {})["chat"]
    fields = as_fields({"messages": [BARE], "tool_choice": "auto", "reasoning_effort": "low", **USAGE})
    assert translation.put(fields, is_streamed=True, has_odd_turns=True) == (b"", fields)


NAMES = sorted({name for dialect in DIALECTS.values() for name in dialect.asks} | {"max_tokens", "tools", "top_k", "x"})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.sampled_from(["none", "max", "", "é"]),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(st.sampled_from(["type", "role", "function", "name", "tool_calls"]), inner, max_size=3),
    max_leaves=8,
) | st.sampled_from([NAMED, TOOLS, [THOUGHTFUL], [{"role": "developer"}], {"type": "json_object"}, 1.5])  # fmt: skip
TOUCHED = {name: {name} for name in (*NAMES, "stream_options")} | {
    "tool_choice": {"tool_choice", "tools"},
    "max_completion_tokens": {"max_completion_tokens", "max_tokens"},
    "max_tokens": {"max_completion_tokens", "max_tokens"},
    "repetition_penalty": {"repetition_penalty", "repeat_penalty"},
    "repeat_penalty": {"repetition_penalty", "repeat_penalty"},
}


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(sorted(DIALECTS)),
    of=st.sampled_from(["chat", "completions", "embeddings"]),
    fields=st.dictionaries(st.sampled_from([*NAMES, "stream_options"]), VALUES),
    sampling=st.dictionaries(
        st.sampled_from(["max_tokens", "max_completion_tokens", "repeat_penalty", "x"]), st.just(1)
    ),
    flags=st.tuples(st.booleans(), st.booleans()),
)
def test_whatever_a_call_holds_a_backend_gets_each_field_once_and_all_that_nobody_touches_byte_by_byte(
    kind: str, of: str, fields: dict[str, Any], sampling: dict[str, int], flags: tuple[bool, bool]
) -> None:
    given_fields = as_fields({"model": "m", **fields})
    dialect = DIALECTS[kind]
    put = translations(dialect.asks, sampling)[of].put(given_fields, is_streamed=flags[0], has_odd_turns=flags[1])
    body = written(*put)
    pairs: list[tuple[str, Any]] = json.loads(body, object_pairs_hook=list)
    names = [name for name, _ in pairs]
    assert len(names) == len(set(names)), body
    got = msgspec.json.decode(body, type=Fields)
    touched = set().union(*(TOUCHED[name] for name in (*dialect.asks, *sampling, "stream_options")))
    untouched = {name: bytes(value) for name, value in given_fields.items() if name not in touched}
    assert {name: bytes(got[name]) for name in untouched} == untouched
