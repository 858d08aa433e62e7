"""A body that is read and written again says the same, but for the model; what decides something is read as JSON says it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.canonical_request import STEERING
from router.reading import MAX_DEPTH, BadCall, read_body
from tests.offered import A_TOOL

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
RULED = STEERING | {"model", "stream", "stream_options", "tools", "user", "prompt", "stop", "max_tokens"}
RULED |= {"n", "best_of", "temperature", "top_p", "frequency_penalty", "presence_penalty", "suffix", "response_format"}
FIELDS = st.dictionaries(TEXT.filter(lambda name: name not in RULED), VALUES)
LAYOUTS = st.sampled_from(
    [{"separators": (",", ":")}, {}, {"indent": 2}, {"indent": 90}, {"separators": (" ,\t", "\r\n: ")}]
)


@settings(max_examples=100, deadline=None)
@given(before=FIELDS, after=FIELDS, layout=LAYOUTS, ascii_only=st.booleans())
def test_every_field_is_written_as_it_was_read_but_the_model(
    before: dict[str, Any], after: dict[str, Any], layout: dict[str, Any], ascii_only: bool
) -> None:
    fields = {**before, "model": "jane", "prompt": "x", **after}
    body = json.dumps(fields, ensure_ascii=ascii_only, **layout).encode()
    read = read_body("completions", body)
    assert (read.model, read.size_bytes) == ("jane", len(body))
    sent = b"".join(read.write(b'"other"'))
    assert json.loads(sent) == {**fields, "model": "other"} and list(json.loads(sent)) == list(fields)
    raw = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    again = msgspec.json.decode(sent, type=dict[str, msgspec.Raw])
    assert {n: bytes(v) for n, v in again.items()} == {n: bytes(v) for n, v in raw.items()} | {"model": b'"other"'}


@settings(max_examples=100, deadline=None)
@given(fields=FIELDS, twice=st.integers(0, 100), layout=LAYOUTS)
def test_a_field_that_stands_twice_is_always_found(fields: dict[str, Any], twice: int, layout: dict[str, Any]) -> None:
    fields = {**fields, "model": "jane", "prompt": "x"}
    body = json.dumps(fields, **layout).rstrip()
    name = list(fields)[twice % len(fields)]
    doubled = body[:-1] + "," + json.dumps({name: fields[name]}, **layout).strip()[1:]
    with pytest.raises(BadCall, match="twice"):
        read_body("completions", doubled.encode())


def deep(value: Any) -> int:
    """How many levels of lists and objects a value has."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inside is None else 1 + max(map(deep, inside), default=0)


@settings(max_examples=100, deadline=None)
@given(shape=st.lists(st.sampled_from("[{"), min_size=MAX_DEPTH - 6, max_size=MAX_DEPTH + 4), wide=VALUES)
def test_depth_is_counted_exactly(shape: list[str], wide: Any) -> None:
    value: Any = wide
    for kind in shape:
        value = [value, []] if kind == "[" else {"a": {}, "]}": value}
    fields = {"model": "jane", "prompt": value}
    body = json.dumps(fields).encode()
    if deep(fields) > MAX_DEPTH:
        with pytest.raises(BadCall, match="deeper than 64"):
            read_body("completions", body)
    else:
        assert read_body("completions", body).model == "jane"


@settings(max_examples=100, deadline=None)
@given(
    body=st.binary(max_size=60) | st.text(max_size=60).map(str.encode) | TEXT.map(lambda t: b'{"model":%b' % t.encode())
)
def test_no_bytes_end_in_anything_but_a_call_or_a_bad_call(body: bytes) -> None:
    try:
        read_body("chat", body)
    except BadCall as error:
        assert str(error)


FACTS: list[tuple[str, dict[str, Any], tuple[bool, bool, str | None]]] = [
    ("nothing said", {}, (False, False, None)),
    ("all of it", {"stream": True, "tools": [A_TOOL], "user": "u"}, (True, True, "u")),
    ("null everywhere", {"stream": None, "tools": None, "user": None}, (False, False, None)),
    ("false and empty", {"stream": False, "tools": [], "user": ""}, (False, False, "")),
]


@pytest.mark.parametrize(("more", "facts"), [row[1:] for row in FACTS], ids=[row[0] for row in FACTS])
@pytest.mark.parametrize("indent", [None, 1], ids=["dense", "spread out"])
def test_the_facts_of_a_call(more: dict[str, Any], facts: tuple[bool, bool, str | None], indent: int | None) -> None:
    body = json.dumps({"model": "jane", "messages": [{"role": "user"}], **more}, indent=indent).encode()
    read = read_body("chat", body)
    assert (read.stream, read.has_tools, read.user) == facts
    assert json.loads(bytes(read.messages)) == [{"role": "user"}]


WISHES: list[tuple[str, dict[str, Any], tuple[bool, bool]]] = [
    ("nothing said", {}, (False, False)),
    ("both", {"stream_options": {"include_usage": True}, "parallel_tool_calls": False}, (True, True)),
    ("neither", {"stream_options": {"include_usage": False}, "parallel_tool_calls": True}, (False, False)),
    ("null everywhere", {"stream_options": None, "parallel_tool_calls": None}, (False, False)),
    ("null inside", {"stream_options": {"include_usage": None}}, (False, False)),
    ("what means something else", {"stream_options": {"x": {"include_usage": True}}}, (False, False)),
]


@pytest.mark.parametrize(("more", "wishes"), [row[1:] for row in WISHES], ids=[row[0] for row in WISHES])
@pytest.mark.parametrize("indent", [None, 1], ids=["dense", "spread out"])
def test_what_a_client_wants_of_the_answer(more: dict[str, Any], wishes: tuple[bool, bool], indent: int | None) -> None:
    body = {"model": "jane", "messages": [{"role": "user"}], "stream": True, "tools": [A_TOOL], **more}
    read = read_body("chat", json.dumps(body, indent=indent).encode())
    assert (read.wants_usage, read.one_tool_only) == wishes


@pytest.mark.parametrize("kind", ["embeddings", "count_tokens", "tokenize"])
def test_what_has_no_streamed_form_is_never_streamed(kind: str) -> None:
    assert not read_body(kind, b'{"model":"jane","input":"x","messages":[{}],"stream":true}').stream


REQUIRED: list[tuple[str, dict[str, Any], str]] = [
    ("responses", {}, "input"),
    ("responses", {"input": "hi", "conversation": "conv_1"}, "conversation"),
    ("messages", {"max_tokens": 5}, "messages"),
    ("messages", {"messages": [], "max_tokens": 5}, "messages"),
    ("messages", {"messages": [{}]}, "max_tokens"),
    ("count_tokens", {"max_tokens": 5}, "messages"),
    ("tokenize", {"input": "hi"}, "messages"),
]


@pytest.mark.parametrize(("kind", "fields", "param"), REQUIRED, ids=[f"{k} {f}" for k, f, _ in REQUIRED])
def test_a_call_without_what_its_kind_must_have_is_the_clients_to_mend(
    kind: str, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadCall) as raised:
        read_body(kind, json.dumps({"model": "jane", **fields}).encode())
    assert raised.value.param == param


ENOUGH: list[tuple[str, dict[str, Any]]] = [
    ("responses", {"input": [], "conversation": None}),
    ("messages", {"messages": [{}], "max_tokens": 5}),
    ("count_tokens", {"messages": [{}]}),
    ("tokenize", {"prompt": ""}),
    ("tokenize", {"messages": [{}]}),
]


@pytest.mark.parametrize(("kind", "fields"), ENOUGH, ids=[f"{kind} {fields}" for kind, fields in ENOUGH])
def test_a_call_with_what_its_kind_must_have_is_the_backends_to_judge(kind: str, fields: dict[str, Any]) -> None:
    assert read_body(kind, json.dumps({"model": "jane", **fields}).encode()).model == "jane"


@pytest.mark.parametrize(
    ("metadata", "user"), [({"user_id": "u"}, "u"), ({"user_id": 5}, None), ({}, None), ("x", None), (None, None)]
)
def test_anthropics_api_has_the_user_in_its_metadata(metadata: object, user: str | None) -> None:
    body = {"model": "jane", "messages": [{}], "max_tokens": 5, "metadata": metadata}
    assert read_body("messages", json.dumps(body).encode()).user == user
