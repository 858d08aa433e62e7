"""Streams in the one form that clients get: captures of the engines, and every way in which an engine's events may differ from it."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.answers import ChunkShape, read_chunk
from backends.canonical import Naming
from backends.errors import BackendError
from backends.sse import SseDecoder
from tests.backends.captured import events_of
from tests.backends.told import begun, deltas, sent
from tests.dialects import lmstudio
from tests.dialects.shapes import FOREIGN, keys, shapes
from tests.upstream import chunked, event

GPT_OSS, LLAMA, SMOL = "vllm-0.33-gpt-oss", "llama-server-smollm2", "vllm-0.32-smollm2"


def of_lmstudio(**more: Any) -> list[bytes]:
    return [one.data for one in SseDecoder().feed(b"\n" + b"".join(lmstudio.streamed(**more)[1:-1]))]


# -- the same from each engine ---------------------------------------------------------------------------

IDENTITY = [("id", "str"), ("object", "str"), ("created", "int"), ("model", "str")]


def event_shape(delta: list[Any], finish: str = "NoneType") -> list[Any]:
    choice = [("index", "int"), ("delta", delta), ("finish_reason", finish)]
    return [*IDENTITY, ("choices", [choice])]


USAGE = [
    ("prompt_tokens", "int"),
    ("completion_tokens", "int"),
    ("total_tokens", "int"),
    ("prompt_tokens_details", [("cached_tokens", "int")]),
    ("completion_tokens_details", [("reasoning_tokens", "int")]),
]
ROLE_SHAPE = event_shape([("role", "str"), ("content", "str")])
TEXT_SHAPE, REASON_SHAPE = event_shape([("content", "str")]), event_shape([("reasoning", "str")])
END_SHAPES = [event_shape([], "str"), [*IDENTITY, ("choices", []), ("usage", USAGE)]]
SAME: dict[str, tuple[list[bytes], bool]] = {
    "vLLM": (events_of(f"{SMOL}/12_chat_stream_usage"), False),
    "llama-server": (events_of(f"{LLAMA}/12_chat_stream_usage"), False),
    "vLLM with gpt-oss": (events_of(f"{GPT_OSS}/chat_stream_usage"), True),
    "LM Studio": (of_lmstudio(usage=True), True),
    "vLLM that counts in each event": (events_of(f"{SMOL}/13_chat_stream_continuous_usage"), False),
}


@pytest.mark.parametrize("who", SAME)
def test_every_engines_stream_has_the_same_keys_in_the_same_order_of_the_same_types(who: str) -> None:
    events, reasons = SAME[who]
    told = sent(begun(), *events)
    assert shapes(told) == [ROLE_SHAPE, *([REASON_SHAPE] if reasons else []), TEXT_SHAPE, *END_SHAPES]
    assert not keys(told) & set(FOREIGN)
    assert [len({one[name] for one in told}) for name in ("id", "created", "model")] == [1, 1, 1]
    assert (told[0]["id"][:9], told[0]["model"]) == ("chatcmpl-", "jane")


@pytest.mark.parametrize("name", [f"{SMOL}/21_completions_stream_usage", f"{LLAMA}/21_completions_stream_usage"])
def test_a_stream_of_completions_has_one_form_too(name: str) -> None:
    told = sent(begun("completions"), *events_of(name))
    text = [("index", "int"), ("text", "str"), ("finish_reason", "NoneType")]
    end = [("index", "int"), ("text", "str"), ("finish_reason", "str")]
    assert shapes(told) == [[*IDENTITY, ("choices", [each])] for each in (text, end)] + [END_SHAPES[1]]
    assert {one["object"] for one in told} == {"text_completion"} and told[0]["id"].startswith("cmpl-")
    assert "".join(one["choices"][0]["text"] for one in told[:-1]) == " Paris.\n\n"


@pytest.mark.parametrize(
    "name", [f"{SMOL}/15_chat_n2_stream", f"{LLAMA}/15_chat_n2_stream", f"{GPT_OSS}/chat_n2_stream"]
)
def test_each_of_several_choices_has_its_role_and_its_end(name: str) -> None:
    told = [one["choices"][0] for one in sent(begun(), *events_of(name))]
    for index in (0, 1):
        own = [choice for choice in told if choice["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert [("role" in choice["delta"], bool(choice["finish_reason"])) for choice in own[1:-1]] == [
            (False, False)
        ] * (len(own) - 2)
        assert own[-1]["delta"] == {} and own[-1]["finish_reason"] in ("stop", "length")


LEARNABLE = {
    "vLLM": (events_of(f"{SMOL}/12_chat_stream_usage"), "content"),
    "llama-server": (events_of(f"{LLAMA}/12_chat_stream_usage"), "content"),
    "vLLM with gpt-oss": (events_of(f"{GPT_OSS}/chat_stream_usage"), "reasoning"),
    "LM Studio": (of_lmstudio(), "reasoning"),
    "reasoning by its other name": (of_lmstudio(name="reasoning_content"), "reasoning"),
    "a server that writes spaces": (
        [json.dumps(json.loads(data)).encode() for data in of_lmstudio()[:-1]] + [b"[DONE]"],
        "reasoning",
    ),
}


@pytest.mark.parametrize("who", LEARNABLE)
def test_text_goes_by_the_shape_of_the_first_and_in_the_same_bytes(who: str) -> None:
    events, name = LEARNABLE[who]
    canonical, shape = begun(), ChunkShape()
    by_shape = in_full = 0
    for data in events[:-1]:
        out: list[bytes] = []
        canonical.put(read_chunk(data), out)
        read = chunked(b"data: %b\n\n" % data)
        chunks, taken = shape.apply(read)
        if taken:
            by_shape += 1
            assert (chunks, taken) == (chunked(out[0]), len(read))
        elif out and shape.learn(b"data: %b\n\n" % data, out[-1]):
            in_full += 1
            assert in_full > 1 or shape.name == name
    assert in_full <= 2, "one lesson for the reasoning and one for the content"
    assert by_shape >= 3


# -- every difference ------------------------------------------------------------------------------------


BEGIN: dict[str, Any] = {"role": "assistant", "content": ""}
CHANGED: list[tuple[str, list[dict[str, Any]], list[dict[str, Any]]]] = [
    ("the role alone", [BEGIN], [BEGIN]),
    ("a null beside the role", [{"role": "assistant", "content": None}, {"content": "a"}], [BEGIN, {"content": "a"}]),
    ("no role at all", [{"content": "a"}], [BEGIN, {"content": "a"}]),
    (
        "the role in every delta",
        [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}],
        [BEGIN, {"content": "a"}, {"content": "b"}],
    ),
    ("an empty list of tools", [{"content": "a", "tool_calls": []}], [BEGIN, {"content": "a"}]),
    ("nothing", [{}, {"content": ""}, {"content": None}, {"reasoning": None}], [BEGIN]),
    ("reasoning by the other name", [{"reasoning_content": "a"}], [BEGIN, {"reasoning": "a"}]),
    ("reasoning by both names", [{"reasoning_content": "a", "reasoning": "a"}], [BEGIN, {"reasoning": "a"}]),
    ("reasoning and content", [{"content": "b", "reasoning": "a"}], [BEGIN, {"content": "b", "reasoning": "a"}]),
    ("fields of the engine's own", [{"content": "a", "token_ids": [1], "stats": {}}], [BEGIN, {"content": "a"}]),
    ("a refusal", [{"refusal": "no"}], [BEGIN, {"refusal": "no"}]),
    (
        "a call of a function, the form before tools",
        [{"function_call": {"name": "f", "arguments": "{"}}],
        [BEGIN, {"function_call": {"name": "f", "arguments": "{"}}],
    ),
    ("no annotations and no audio", [{"content": "a", "annotations": [], "audio": None}], [BEGIN, {"content": "a"}]),
    ("no call of a function", [{"content": "a", "function_call": None}], [BEGIN, {"content": "a"}]),
    ("content in parts", [{"content": [{"type": "text"}]}], [BEGIN, {"content": [{"type": "text"}]}]),
    (
        "letters beyond ASCII, quotes, control characters",
        [{"content": 'é🚀"\\\n\x01'}],
        [BEGIN, {"content": 'é🚀"\\\n\x01'}],
    ),
]


@pytest.mark.parametrize(("given", "expected"), [row[1:] for row in CHANGED], ids=[row[0] for row in CHANGED])
def test_deltas_have_one_form(given: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    told = sent(begun(), *deltas(*given))
    assert [one["choices"][0]["delta"] for one in told] == expected


def test_an_event_is_one_line_whatever_the_engine_wrote() -> None:
    """`sent` looks at that: what is kept as it came may have line breaks between its values."""
    told = sent(begun(), b'{"choices":[{"delta":{"annotations":[\n{"type":\n"x"}]}}]}')
    assert told[1]["choices"][0]["delta"] == {"annotations": [{"type": "x"}]}


def test_a_completions_text_that_is_empty_is_left_out() -> None:
    told = sent(begun("completions"), *(b'{"choices":[{"text":"%b"}]}' % text for text in (b"", b"a", b"")))
    assert [one["choices"][0]["text"] for one in told] == ["a"]


CALL = {"index": 0, "id": "814890118", "type": "function", "function": {"name": "f", "arguments": "{"}}
FINISHES: list[tuple[str, str, dict[str, Any], str]] = [
    ("stop", "stop", {"content": "a"}, "stop"),
    ("length", "length", {"content": "a"}, "length"),
    ("a filter", "content_filter", {}, "content_filter"),
    ("vLLM's word for repeating itself", "repetition", {"content": "a"}, "stop"),
    ("a word that nobody knows", "eos_token", {}, "stop"),
    ("stop, after a call that the client named", "stop", {"tool_calls": [CALL]}, "tool_calls"),
    ("calls of tools", "tool_calls", {"tool_calls": [CALL]}, "tool_calls"),
    ("cut off in a call", "length", {"tool_calls": [CALL]}, "length"),
    ("calls that were never sent", "tool_calls", {"content": "a"}, "stop"),
    ("a call of a function", "stop", {"function_call": {"name": "f", "arguments": ""}}, "function_call"),
]


@pytest.mark.parametrize(("said", "delta", "expected"), [row[1:] for row in FINISHES], ids=[row[0] for row in FINISHES])
def test_an_answer_ends_by_one_of_openais_words_in_an_event_of_its_own(
    said: str, delta: dict[str, Any], expected: str
) -> None:
    for events in ([*deltas(delta), event({}, said)[6:-2]], [event(delta, said)[6:-2]]):
        last = sent(begun(), *events)[-1]
        assert last["choices"] == [{"index": 0, "delta": {}, "finish_reason": expected}]


@pytest.mark.parametrize("kind", ["chat", "completions"])
def test_each_choice_ends_once_also_where_a_server_says_so_again(kind: str) -> None:
    ends = [b'{"choices":[{"index":%d,"delta":{},"text":"","finish_reason":"stop"}]}' % index for index in (0, 1, 0, 0)]
    told = [one["choices"][0] for one in sent(begun(kind), *ends)]
    assert [choice["index"] for choice in told if choice["finish_reason"]] == [0, 1]


def test_logprobs_are_told_where_there_are_some_in_one_order() -> None:
    place = {
        "id": 5,
        "token": "a",
        "bytes": [97],
        "logprob": -0.5,
        "top_logprobs": [{"id": 5, "token": "a", "logprob": -0.5}],
    }
    chunk = {"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [place]}}]}
    told = sent(begun(), json.dumps(chunk).encode(), *deltas({"content": "b"}))
    top = {"token": "a", "logprob": -0.5, "bytes": None}
    assert json.dumps(told[1]["choices"][0]["logprobs"]) == json.dumps(
        {"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [top]}]}
    )
    assert "logprobs" not in told[2]["choices"][0]


def test_logprobs_of_a_token_without_text_have_the_form_of_any_others() -> None:
    place = {"token": "<|im_end|>", "logprob": -0.5, "bytes": [60], "top_logprobs": []}
    events = [{"choices": [{"delta": {"content": text}, "logprobs": {"content": [place]}}]} for text in ("a", "")]
    told = sent(begun(), *(json.dumps(each).encode() for each in events))
    said, silent = (each["choices"][0] for each in told[1:])
    assert said["delta"] == {"content": "a"}
    assert [list(each) for each in (said, silent)] == [["index", "delta", "logprobs", "finish_reason"]] * 2
    assert silent["delta"] == {"content": ""}


@pytest.mark.parametrize("nothing", ["{}", '{"content":[]}', '{"content":null,"refusal":null}'])
def test_logprobs_of_no_token_are_none(nothing: str) -> None:
    chunk = b'{"choices":[{"delta":{},"logprobs":%b,"finish_reason":"stop"}]}' % nothing.encode()
    assert [one["choices"][0]["delta"] for one in sent(begun(), chunk)] == [BEGIN, {}]


def test_logprobs_of_a_completions_stream_have_one_form_with_text_and_without() -> None:
    place = {"id": 5, "token": "a", "bytes": [97], "logprob": -0.5, "top_logprobs": []}
    told = sent(
        begun("completions"),
        *(json.dumps({"choices": [{"text": text, "logprobs": {"content": [place]}}]}).encode() for text in ("a", "")),
    )
    form = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{}], "text_offset": [0]}
    assert [(one["choices"][0]["text"], one["choices"][0]["logprobs"]) for one in told] == [("a", form), ("", form)]


# -- usage -----------------------------------------------------------------------------------------------

COUNTED = b'{"choices":[],"usage":{"prompt_tokens":2,"completion_tokens":3}}'


def test_usage_is_told_once_and_last_to_whom_asked_and_known_either_way() -> None:
    for wants, events in ((True, 1), (False, 0)):
        canonical = begun(wants_usage=wants)
        told = sent(canonical, *deltas({"content": "a"}), COUNTED.replace(b"3", b"1"), event({}, "stop")[6:-2], COUNTED)
        assert [one for one in told if "usage" in one or not one["choices"]] == told[3:] and len(told) == 3 + events
        usage = canonical.answer.usage
        assert usage is not None and (usage.prompt, usage.answer, usage.total) == (2, 3, 5)


@pytest.mark.parametrize("usage", ["null", "{}", '"many"', '{"prompt_tokens":"2"}', '{"prompt_tokens":null}'])
def test_usage_that_says_nothing_is_none_and_loses_no_answer(usage: str) -> None:
    chunk = b'{"choices":[{"index":0,"delta":{"content":"a"}}],"usage":%b}' % usage.encode()
    canonical = begun()
    assert len(sent(canonical, chunk)) == 2 and canonical.answer.usage is None


def test_a_stream_that_is_carried_on_says_no_second_role_and_adds_up() -> None:
    canonical = begun()
    canonical.answer.head = canonical.head  # the client has heard it begin
    rest = Naming("other", "elsewhere").begin(canonical.answer)
    rest.carry_on("chat", lambda usage: usage.__class__(prompt=usage.prompt + 40))
    told = sent(rest, *deltas({"role": "assistant", "content": ""}, {"content": "a"}), COUNTED)
    assert [one["choices"] for one in told[:1]] == [[{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]]
    assert told[-1]["usage"]["prompt_tokens"] == 42 and {one["model"] for one in told} == {"jane"}


# -- names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("said", "strayed"), [("m", ""), ("jane", ""), (None, ""), ("loaded:2", "loaded:2")])
def test_a_model_that_is_neither_of_ours_is_noticed_and_never_told(said: str | None, strayed: str) -> None:
    canonical = begun()
    told = sent(canonical, json.dumps({"model": said, "choices": [{"delta": {"content": "a"}}]}).encode())
    assert canonical.strayed == strayed and {one["model"] for one in told} == {"jane"}


KNOWN = [
    "choices",
    "index",
    "delta",
    "content",
    "tool_calls",
    "function",
    "id",
    "finish_reason",
    "usage",
    "logprobs",
    "text",
]
ANY_JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KNOWN, *FOREIGN]), inner, max_size=5),
)


@given(
    events=st.lists(st.fixed_dictionaries({"choices": st.lists(ANY_JSON, max_size=2)}) | ANY_JSON, max_size=4),
    kind=st.sampled_from(["chat", "completions"]),
)
def test_whatever_an_engine_says_nothing_but_a_backends_error_is_raised_and_nothing_foreign_told(
    events: list[Any], kind: str
) -> None:
    canonical = begun(kind)
    for said in events:
        with contextlib.suppress(BackendError):
            told = sent(canonical, json.dumps(said).encode())
            assert all(set(one) <= {"id", "object", "created", "model", "choices", "usage"} for one in told)
            choices = [choice for one in told for choice in one["choices"]]
            assert all(set(one) <= {"index", "delta", "text", "logprobs", "finish_reason"} for one in choices)
