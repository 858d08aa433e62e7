"""Whole answers in the one form that clients get: captures of the engines, and every way in which they may differ from it."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.canonical import Canonical, Naming
from backends.canonical_forms import Answer
from backends.errors import BackendError, ProtocolBroken
from tests.backends.captured import captured
from tests.dialects import lmstudio
from tests.dialects.shapes import FOREIGN, keys, shape

GPT_OSS, LLAMA, SMOL = "vllm-0.33-gpt-oss", "llama-server-smollm2", "vllm-0.32-smollm2"


def begun(kind: str = "chat", *, one_tool_only: bool = False) -> Canonical:
    return Naming("m", "jane").begin(Answer(kind, wants_usage=False, one_tool_only=one_tool_only))


def told(body: bytes | dict[str, Any], kind: str = "chat", *, one_tool_only: bool = False) -> Any:
    """What a client gets of this body."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return json.loads(begun(kind, one_tool_only=one_tool_only).whole(kind, raw))


def body_of(name: str) -> bytes:
    return captured(name)[2]


def of_lmstudio(**more: Any) -> bytes:
    return lmstudio.whole(**more).partition(b"\r\n\r\n")[2]


# -- the same from each engine ---------------------------------------------------------------------------

IDENTITY = [("id", "str"), ("object", "str"), ("created", "int"), ("model", "str")]
USAGE = [
    ("prompt_tokens", "int"),
    ("completion_tokens", "int"),
    ("total_tokens", "int"),
    ("prompt_tokens_details", [("cached_tokens", "int")]),
    ("completion_tokens_details", [("reasoning_tokens", "int")]),
]
SAME: dict[str, tuple[bytes, list[Any]]] = {
    "vLLM": (body_of(f"{SMOL}/10_chat"), []),
    "llama-server": (body_of(f"{LLAMA}/10_chat"), []),
    "vLLM that shows no reasoning": (body_of(f"{GPT_OSS}/chat_no_reasoning"), []),
    "vLLM with gpt-oss": (body_of(f"{GPT_OSS}/chat_nonstream"), [("reasoning", "str")]),
    "LM Studio": (of_lmstudio(), [("reasoning", "str")]),
    "LM Studio with another model": (of_lmstudio(name="reasoning_content"), [("reasoning", "str")]),
}


@pytest.mark.parametrize("who", SAME)
def test_every_engines_answer_has_the_same_keys_in_the_same_order_of_the_same_types(who: str) -> None:
    body, reasoning = SAME[who]
    message = [("role", "str"), ("content", "str"), *reasoning]
    choice = [("index", "int"), ("message", message), ("logprobs", "NoneType"), ("finish_reason", "str")]
    answer = told(body)
    assert shape(answer) == [*IDENTITY, ("choices", [choice]), ("usage", USAGE)]
    assert not keys(answer) & set(FOREIGN)
    assert answer["model"] == "jane" and answer["choices"][0]["message"]["content"] in body.decode()


@pytest.mark.parametrize("name", [f"{SMOL}/20_completions", f"{LLAMA}/20_completions"])
def test_completions_have_one_form_too(name: str) -> None:
    answer = told(body_of(name), "completions")
    choice = [("index", "int"), ("text", "str"), ("logprobs", "NoneType"), ("finish_reason", "str")]
    assert shape(answer) == [*IDENTITY, ("choices", [choice]), ("usage", USAGE)]
    assert (answer["object"], answer["choices"][0]["finish_reason"]) == ("text_completion", "length")


@pytest.mark.parametrize("name", [f"{SMOL}/17_chat_logprobs", f"{LLAMA}/17_chat_logprobs"])
def test_logprobs_have_one_form_too(name: str) -> None:
    logprobs = told(body_of(name))["choices"][0]["logprobs"]
    token = [("token", "str"), ("logprob", "float"), ("bytes", ["int"])]
    assert shape(logprobs) == [("content", [[*token, ("top_logprobs", [token])]])]
    assert [len(place["top_logprobs"]) for place in logprobs["content"]] == [2, 2]


def test_llama_servers_logprobs_of_completions_are_told_as_openai_tells_them() -> None:
    top = [{"id": 1, "token": " b", "logprob": -0.5}, {"id": 2, "token": "c", "logprob": -1.5}]
    places = [
        {"id": 0, "token": "a", "bytes": [97], "logprob": -0.25, "top_logprobs": []},
        {"id": 1, "token": " b", "logprob": -0.5, "top_logprobs": top},
    ]
    choice = {"index": 0, "text": "a b", "logprobs": {"content": places}, "finish_reason": "stop"}
    assert told({"choices": [choice]}, "completions")["choices"][0]["logprobs"] == {
        "tokens": ["a", " b"],
        "token_logprobs": [-0.25, -0.5],
        "top_logprobs": [{}, {" b": -0.5, "c": -1.5}],
        "text_offset": [0, 1],
    }
    vllms = {"text_offset": [0], "token_logprobs": [-0.5], "tokens": ["a"], "top_logprobs": [{"a": -0.5}], "x": 1}
    kept = told({"choices": [{**choice, "logprobs": vllms}]}, "completions")["choices"][0]["logprobs"]
    assert list(kept.items()) == [
        (name, vllms[name]) for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    ]


# -- every difference ------------------------------------------------------------------------------------

CALL = {"id": "9", "type": "function", "function": {"name": "f", "arguments": "{}"}}
NULLS = dict.fromkeys(["refusal", "annotations", "audio", "function_call", "reasoning", "tool_calls"])
MESSAGES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("vLLM's nulls", {"content": "a", **NULLS}, {"content": "a"}),
    ("no content", {}, {"content": None}),
    ("null", {"content": None}, {"content": None}),
    ("an empty text", {"content": ""}, {"content": ""}),
    ("empty lists", {"content": "a", "tool_calls": [], "annotations": []}, {"content": "a"}),
    ("reasoning by its other name", {"content": "a", "reasoning_content": "b"}, {"content": "a", "reasoning": "b"}),
    (
        "empty reasoning",
        {"content": "a", "reasoning": "", "reasoning_content": "b"},
        {"content": "a", "reasoning": "b"},
    ),
    ("a refusal", {"content": None, "refusal": "no"}, {"content": None, "refusal": "no"}),
    ("a function", {"function_call": {"name": "f"}}, {"content": None, "function_call": {"name": "f"}}),
    ("content in parts", {"content": [{"type": "text"}]}, {"content": [{"type": "text"}]}),
    ("what is unknown", {"content": "a", "provider_specific_fields": {}}, {"content": "a"}),
]


@pytest.mark.parametrize(("given", "expected"), [row[1:] for row in MESSAGES], ids=[row[0] for row in MESSAGES])
def test_messages_have_one_form(given: dict[str, Any], expected: dict[str, Any]) -> None:
    choice = {"message": {"role": "assistant", **given}, "finish_reason": "stop"}
    message = told({"choices": [choice]})["choices"][0]["message"]
    assert list(message.items()) == [("role", "assistant"), *expected.items()]


@pytest.mark.parametrize("content", [None, "", "Let me see."])
@pytest.mark.parametrize("said", ["stop", "tool_calls"])
def test_beside_calls_of_tools_content_is_null_or_what_was_said(content: str | None, said: str) -> None:
    message = {"content": content, "tool_calls": [CALL, {**CALL, "index": 1, "id": "call_mine"}]}
    body = {"choices": [{"message": message, "finish_reason": said}]}
    (choice,) = told(body)["choices"]
    assert choice["message"]["content"] == (content or None) and choice["finish_reason"] == "tool_calls"
    first, second = choice["message"]["tool_calls"]
    assert first == {**CALL, "id": first["id"]} and first["id"].startswith("call_") and second["id"] == "call_mine"
    assert list(first) == list(second) == ["id", "type", "function"]
    (only,) = told(body, one_tool_only=True)["choices"][0]["message"]["tool_calls"]
    assert only["function"] == CALL["function"]


def test_what_vllm_calls_a_stop_after_a_named_tool_is_a_call_of_it() -> None:
    (choice,) = told(body_of(f"{GPT_OSS}/tool_named"))["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)


@pytest.mark.parametrize(
    ("said", "expected"), [(None, "stop"), ("repetition", "stop"), ("length", "length"), ("content_filter",) * 2]
)
def test_an_answer_ends_by_one_of_openais_words(said: str | None, expected: str) -> None:
    body = {"choices": [{"message": {"content": "a"}, "finish_reason": said}]}
    assert told(body)["choices"][0]["finish_reason"] == expected


def test_usage_without_details_has_zeros_and_no_usage_is_none() -> None:
    body: dict[str, Any] = {"choices": [{"message": {"content": "a"}}]}
    assert "usage" not in told(body)
    for usage in (
        {"prompt_tokens": 2, "completion_tokens": 1},
        {
            "prompt_tokens": 2,
            "completion_tokens": 1,
            "total_tokens": 3,
            "prompt_tokens_details": None,
            "completion_tokens_details": {"reasoning_tokens": None},
        },
    ):
        assert list(told({**body, "usage": usage})["usage"].values()) == [
            2,
            1,
            3,
            {"cached_tokens": 0},
            {"reasoning_tokens": 0},
        ]


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices":[{"message":{"content":5}}]}',
        b'{"choices":[{"message":{"content":{}}}]}',
        b'{"choices":[{"finish_reason":"stop"}]}',
        b'{"choices":[{"message":{"content":"\xff"}}]}',
        b'{"choices":[{"message":{"content":"a"},"logprobs":[1]}]}',
    ],
    ids=["a number", "an object", "no message", "no UTF-8", "logprobs of another form"],
)
def test_what_is_no_message_is_no_answer(body: bytes) -> None:
    with pytest.raises(ProtocolBroken):
        begun().whole("chat", body)


def test_a_long_text_is_passed_on_byte_by_byte() -> None:
    text = json.dumps('long \u00e9\U0001f680 "quoted" \\ \n' * 3000).encode()
    raw = b'{"choices":[{"message":{"content": %b}}]}' % text
    assert text in begun().whole("chat", raw)


# -- embeddings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", ["[0.1, -2e-7,3]", '"zczMPQ=="'], ids=["numbers", "base64"])
def test_embeddings_have_one_form_and_their_vectors_are_untouched(vector: str) -> None:
    usage = '{"prompt_tokens":4,"completion_tokens":0,"total_tokens":4,"prompt_tokens_details":null}'
    first, second = f'{{"embedding":{vector},"index":0,"object":"embedding"}}', f'{{"embedding":{vector},"x":1}}'
    raw = f'{{"model":"m","id":"embd-1","created":5,"data":[{first},{second}],"usage":{usage}}}'
    out = begun("embeddings").whole("embeddings", raw.encode()).decode()
    vectors = ",".join(f'{{"object":"embedding","index":{place},"embedding":{vector}}}' for place in (0, 1))
    assert (
        out == f'{{"object":"list","data":[{vectors}],"model":"jane","usage":{{"prompt_tokens":4,"total_tokens":4}}}}'
    )


# -- answers of other kinds: the name alone --------------------------------------------------------------

RENAMED: list[tuple[str, bytes, bytes]] = [
    ("the rest untouched", b'{"id":"1","model":"m","x":[1,  2]}', b'{"id":"1","model":"jane","x":[1,  2]}'),
    ("with an escape", b'{"model":"\\u006d"}', b'{"model":"jane"}'),
    (
        "inside a string",
        b'{"text":"\\"model\\":\\"m\\"","model":"m"}',
        b'{"text":"\\"model\\":\\"m\\"","model":"jane"}',
    ),
    ("nested as well", b'{"x":{"model":"m"},"model":"m"}', b'{"x":{"model":"m"},"model":"jane"}'),
    ("another one than was asked", b'{"model":"loaded:2"}', b'{"model":"jane"}'),
    ("the client's own already", b'{"model": "jane"}', b'{"model": "jane"}'),
    ("nowhere", b'{"id": "1"}', b'{"id": "1"}'),
    ("null", b'{"model": null}', b'{"model": null}'),
]


@pytest.mark.parametrize(("body", "expected"), [row[1:] for row in RENAMED], ids=[row[0] for row in RENAMED])
def test_in_answers_of_other_kinds_the_model_is_renamed_and_nothing_else(body: bytes, expected: bytes) -> None:
    assert begun("pass").renamed(body, json.loads(body).get("model")) == expected


KNOWN = [
    "choices",
    "index",
    "message",
    "content",
    "tool_calls",
    "function",
    "id",
    "usage",
    "logprobs",
    "text",
    "data",
    "embedding",
]
ANY_JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KNOWN, *FOREIGN]), inner, max_size=5),
)


@given(
    body=st.fixed_dictionaries({"choices": st.lists(ANY_JSON, max_size=2), "data": st.none() | st.lists(ANY_JSON)}),
    kind=st.sampled_from(["chat", "completions", "embeddings"]),
)
def test_whatever_an_engine_says_nothing_but_a_backends_error_is_raised_and_nothing_foreign_told(
    body: Any, kind: str
) -> None:
    with contextlib.suppress(BackendError):
        answer = told(body, kind)
        assert set(answer) <= {"id", "object", "created", "model", "choices", "data", "usage"}
