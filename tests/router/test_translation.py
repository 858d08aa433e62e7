"""What each kind of backend receives of one and the same call, byte for byte where nothing has to change, and when a call moves."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.asking import translations
from backends.dialects import DIALECTS
from router.canonical_request import STEERING
from router.reading import BadCall, read_body
from tests.running import Router, running
from tests.upstream import END, Script, Upstream, answer, chunked, event, says, sends
from tests.upstream import STREAM_HEAD as HEAD

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
OTHER = {"type": "function", "function": {"name": "g", "parameters": {"type": "object"}}}
NAMED = {"type": "function", "function": {"name": "g"}}
KINDS = ("vllm", "lmstudio", "llama-server", "openai")
LISTS = b'{"object":"list","data":[{"id":"theirs"}]}'


@asynccontextmanager
async def backends(scripts: Mapping[str, Script], model: str = "") -> AsyncIterator[tuple[Router, dict[str, Upstream]]]:
    """A router before one backend of each kind named, which has the kind's name, in this order of fallback."""
    async with AsyncExitStack() as stack:
        ups = {kind: await stack.enter_async_context(Upstream(script)) for kind, script in scripts.items()}
        for up in ups.values():
            up.lists |= {"/v1/models": answer(LISTS), "/api/v0/models": answer(LISTS)}
        config = {
            "server": {"port": 8000},
            "backends": {kind: {"kind": kind, "url": up.url} for kind, up in ups.items()},
            "models": {
                "jane": {"on": dict.fromkeys(ups, "theirs"), "split": {next(iter(ups)): 1.0}}
                | json.loads(model or "{}")
            },
        }
        yield await stack.enter_async_context(running(json.dumps(config))), ups


def busy() -> Script:
    """A backend that takes no calls now, so that they move on."""

    async def script(_request: Any, connection: Any) -> None:
        await connection.write(answer({"error": {"message": "busy"}}, "503 Busy"))

    return script


@pytest.mark.parametrize("kind", KINDS)
async def test_a_plain_call_arrives_as_it_was_written_but_for_the_model(kind: str) -> None:
    """And a stream behind the one field that every stream is asked with."""
    async with backends({kind: says("Hello")}) as (router, ups):
        for before, after in [
            (b'{"model":"jane","messages":[{"role":"user","content":"h\\u0069"}],"temperature":1e0}', b""),
            (b'{"temperature":1e0,"messages":[{"role":"user","content":"h\\u0069"}],"model":"jane"}', b""),
            (
                b'{"model":"jane","messages":[{"role":"user","content":"h\\u0069"}],"stream":true,"seed":0}',
                b'"stream_options":{"include_usage":true},',
            ),
        ]:
            headers = {"content-type": "application/json"}
            told = await router.client.post("/v1/chat/completions", content=before, headers=headers)
            assert told.status_code == 200
            assert ups[kind].received[-1].body == b"{" + after + before[1:].replace(b"jane", b"theirs")


ALL: dict[str, Any] = {
    "response_format": {"type": "json_object"},
    "tools": [TOOL, OTHER],
    "tool_choice": NAMED,
    "max_completion_tokens": 9,
    "repetition_penalty": 1.1,
    "reasoning_effort": "max",
    "messages": [{"role": "developer", "content": "d"}, USER],
    "seed": 7,
    "priority": 3,
    "top_p": None,
}
SYSTEM = [{"role": "system", "content": "d"}, USER]
ANY_OBJECT = {"type": "json_schema", "json_schema": {"name": "json_object", "schema": {"type": "object"}}}
PINNED = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 400}
AS_IT_IS = {name: value for name, value in ALL.items() if name not in ("priority", "top_p")}
COUNTED = {
    "model": "theirs",
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 0.5,
    "top_p": 0.9,
}
NAMED_AS_ONLY = {"tools": [OTHER], "tool_choice": "required"}
RECEIVED: dict[str, dict[str, Any]] = {
    "openai": AS_IT_IS,
    "vllm": {**AS_IT_IS, "reasoning_effort": "high"},
    "llama-server": {
        **{name: value for name, value in AS_IT_IS.items() if name != "repetition_penalty"},
        **NAMED_AS_ONLY,
        "repeat_penalty": 1.1,
    },
    "lmstudio": {
        "response_format": ANY_OBJECT,
        **NAMED_AS_ONLY,
        "max_tokens": 9,
        "repeat_penalty": 1.1,
        "reasoning_effort": "high",
        "messages": SYSTEM,
        "seed": 7,
    },
}
SAMPLED = json.dumps({"sampling": PINNED, "resume": {"by": []}})


@pytest.mark.parametrize("kind", KINDS)
async def test_each_kind_receives_the_call_in_its_own_form(kind: str) -> None:
    async with backends({kind: says("{}")}, SAMPLED) as (router, ups):
        await router.chat(stream=True, **ALL)
        await router.chat(stream=True, **{name: value for name, value in ALL.items() if name != "priority"})
        assert [each.json for each in ups[kind].received] == [{**COUNTED, **RECEIVED[kind]}] * 2


@pytest.mark.parametrize("first", KINDS)
async def test_a_call_that_moves_is_put_to_each_backend_in_that_ones_form(first: str) -> None:
    order = [first, *(kind for kind in KINDS if kind != first)]
    scripts = {kind: busy() for kind in order[:-1]} | {order[-1]: says("{}")}
    async with backends(scripts, SAMPLED) as (router, ups):
        await router.chat(stream=True, **ALL)
        got = {kind: up.received[-1].json for kind, up in ups.items()}
    assert got == {kind: {**COUNTED, **RECEIVED[kind]} for kind in KINDS}


@pytest.mark.parametrize("way", ["continue", "align"])
async def test_a_stream_that_broke_at_vllm_is_carried_on_in_lm_studios_form(way: str) -> None:
    """The router's own fields go in behind the translation: the client's `continue_final_message` would have been refused."""

    async def breaks(_request: Any, connection: Any) -> None:
        await connection.write(HEAD, chunked(event({"role": "assistant", "content": "Once upon a"}, model="theirs")))
        connection.reset()

    async def goes_on(_request: Any, connection: Any) -> None:
        said = " time" if way == "continue" else "Once upon a time"
        await connection.write(
            HEAD,
            chunked(event({"content": said}, model="theirs")),
            chunked(event({}, "stop", "theirs")),
            chunked(b"data: [DONE]\n\n"),
            END,
        )

    on = {"vllm": "theirs", "lmstudio": {"name": "theirs", "continues": "yes" if way == "continue" else "no"}}
    model = json.dumps({"on": on, "sampling": PINNED, "retry": {"attempts_per_backend": 1}, "resume": {"by": [way]}})
    async with backends({"vllm": breaks, "lmstudio": goes_on}, model) as (router, ups):
        fields: dict[str, Any] = {
            "repetition_penalty": 1.1,
            "max_completion_tokens": 30,
            "reasoning_effort": "max",
            "seed": 7,
            "priority": 1,
        }
        told = await router.chat(stream=True, messages=[{"role": "developer", "content": "d"}, USER], **fields)
        assert told.text.endswith("data: [DONE]\n\n"), told.text
        (got,) = ups["lmstudio"].received
    common = {**COUNTED, "repeat_penalty": 1.1, "reasoning_effort": "high", "seed": 7}
    if way == "align":
        assert got.json == {**common, "max_tokens": 30, "messages": SYSTEM}
    else:
        messages = [*SYSTEM, {"role": "assistant", "content": "Once upon a"}]
        own = {"continue_final_message": True, "add_generation_prompt": False}
        assert got.json == {**common, **own, "max_tokens": 29, "messages": messages}


async def test_what_is_refused_reaches_no_backend_and_names_the_field() -> None:
    async with backends({"vllm": says("x")}) as (router, ups):
        told = await router.chat(max_tokens=0)
        assert told.status_code == 400 and not ups["vllm"].received
        assert told.json()["error"] == {
            "message": "max_tokens must be at least 1; leave it out for no limit",
            "type": "invalid_request_error",
            "param": "max_tokens",
            "code": None,
        }


async def test_sampling_is_for_texts_only() -> None:
    vector = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}], "model": "theirs"}
    async with backends({"vllm": sends(answer(vector))}, SAMPLED) as (router, ups):
        await router.client.post("/v1/embeddings", json={"model": "jane", "input": "x"})
        await router.client.post("/v1/completions", json={"model": "jane", "prompt": "x", "max_tokens": 3})
        embedded, completed = (each.json for each in ups["vllm"].received[:2])
    assert embedded == {"model": "theirs", "input": "x"}
    assert completed == {"model": "theirs", "prompt": "x", "temperature": 0.5, "top_p": 0.9, "max_tokens": 3}


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
KNOWN = ["stream", "stream_options", "max_tokens", "max_completion_tokens", "repeat_penalty", "repetition_penalty", "tool_choice",
         "tools", "reasoning_effort", "response_format", "priority", "ttl", "stop", "temperature"]  # fmt: skip
GOOD = st.sampled_from([True, None, 5, -1, "low", "none", "auto", [], [TOOL], NAMED, {"type": "json_object"}, {}])
RULED = STEERING | {
    "model",
    "messages",
    "user",
    "top_p",
    "parallel_tool_calls",
    "continue_final_message",
    "add_generation_prompt",
    *KNOWN,
}
FOREIGN = TEXT.filter(lambda name: name not in RULED)
TURNS = st.lists(
    st.sampled_from(
        [USER, {"role": "developer", "content": "é"}, {"role": "assistant", "tool_calls": [TOOL], "content": "x"}]
    ),
    min_size=1,
    max_size=3,
)
LAYOUTS = st.sampled_from([{"separators": (",", ":")}, {}, {"indent": 1}])


@settings(max_examples=200, deadline=None)
@given(
    fields=st.dictionaries(st.sampled_from(KNOWN), GOOD) | st.dictionaries(st.sampled_from(KNOWN), JSON),
    foreign=st.dictionaries(FOREIGN, JSON, max_size=3),
    turns=TURNS,
    layout=LAYOUTS,
    kind=st.sampled_from(KINDS),
)
def test_whatever_a_client_sends_a_backend_gets_json_with_each_field_once_and_the_rest_untouched(
    fields: dict[str, Any], foreign: dict[str, Any], turns: list[Any], layout: dict[str, Any], kind: str
) -> None:
    body = json.dumps({**foreign, "messages": turns, **fields, "model": "jane"}, **layout).encode()
    try:
        call = read_body("chat", body)
    except BadCall:
        return
    sent = b"".join(call.write(b'"theirs"', translations(DIALECTS[kind].asks, PINNED)["chat"]))
    names = [name for name, _ in json.loads(sent, object_pairs_hook=list)]
    assert len(names) == len(set(names)), sent
    given_raw = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    got = msgspec.json.decode(sent, type=dict[str, msgspec.Raw])
    assert {name: bytes(got[name]) for name in foreign} == {name: bytes(given_raw[name]) for name in foreign}
    assert bytes(got["model"]) == b'"theirs"' and got.keys().isdisjoint(STEERING)
    assert ("stream_options" in got) is call.stream
    assert all(got.get(name) is not None for name in ("temperature", "top_p")), sent
