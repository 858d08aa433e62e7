"""The form of whole answers: what is known again means what it meant when it was read in full, and nothing else is known."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.answers import read_whole
from backends.canonical import Naming
from backends.canonical_forms import Answer
from backends.whole_shape import MOST_BYTES, MOST_SHAPES, WholeShape
from tests.backends.captured import captured

ENGINES = {
    "vLLM": "vllm-0.32-smollm2/10_chat",
    "gpt-oss on vLLM": "vllm-0.33-gpt-oss/chat_nonstream",
    "llama-server": "llama-server-smollm2/10_chat",
}


def written(answer: Any) -> bytes:
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()


def answer_of(naming: Naming, body: bytes) -> dict[str, Any]:
    """What the client gets, without what differs from call to call."""
    canonical = naming.begin(Answer("chat", wants_usage=True, one_tool_only=False))
    got: dict[str, Any] = json.loads(canonical.whole("chat", body))
    return got | {"id": "", "created": 0}


def known(naming: Naming, body: bytes) -> bool:
    canonical = naming.begin(Answer("chat", wants_usage=True, one_tool_only=False))
    canonical.whole("chat", body)
    return bool(canonical.text)


@pytest.mark.parametrize("capture", ENGINES.values(), ids=ENGINES)
def test_an_answer_that_is_known_by_its_form_reaches_the_client_as_if_it_were_read_in_full(capture: str) -> None:
    _, _, body = captured(capture)
    naming = Naming(str(read_whole("chat", body).model), "jane")
    in_full = answer_of(naming, body)
    assert known(naming, body), "the second of a kind goes by its form"
    assert answer_of(naming, body) == in_full
    other = json.loads(body)
    other["id"], other["created"] = "another", 1
    other["choices"][0]["message"]["content"] = 'Grüß "Gott" \\ \n …'
    other["choices"][0]["finish_reason"] = "length"
    other["usage"] |= {"prompt_tokens": 7, "completion_tokens": 8, "total_tokens": 15}
    changed = written(other)
    assert known(naming, changed)
    assert answer_of(naming, changed) == answer_of(Naming(naming.backends, "jane"), changed)


TEXT = st.text(min_size=1, max_size=60)
PLAIN = json.loads(
    '{"id":"1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"a",'
    '"refusal":null,"reasoning":"b","tool_calls":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":1,'
    '"completion_tokens":2,"total_tokens":3}}'
)


def changed(path: str, value: Any) -> bytes:
    """The plain answer with another value at the place that these names lead to; `-` takes it away."""
    answer = json.loads(json.dumps(PLAIN))
    *names, last = path.split("/")
    place = answer
    for name in names:
        place = place[int(name) if name.isdigit() else name]
    if value == "-":
        place.pop(last)
    else:
        place[last] = value
    return written(answer)


@given(text=TEXT, thought=TEXT, tokens=st.integers(0, 10**9), is_ascii=st.booleans())
def test_whatever_the_text_and_the_counts_are_the_client_gets_them(
    text: str, thought: str, tokens: int, is_ascii: bool
) -> None:
    naming = Naming("m", "jane")
    answer_of(naming, written(PLAIN))
    answer = json.loads(json.dumps(PLAIN))
    answer["choices"][0]["message"] |= {"content": text, "reasoning": thought}
    answer["usage"]["prompt_tokens"] = tokens
    body = json.dumps(answer, ensure_ascii=is_ascii, separators=(",", ":")).encode("utf-8", "surrogatepass")
    assert answer_of(naming, body) == answer_of(Naming("m", "jane"), body)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model", "another"),
        ("choices/0/index", 1),
        ("choices/0/message/content", ""),
        ("choices/0/message/content", None),
        ("choices/0/message/content", [{"type": "text", "text": "a"}]),
        ("choices/0/message/refusal", "no"),
        ("choices/0/message/tool_calls", [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]),
        ("choices/0/message/role", "tool"),
        ("choices/0/logprobs", {"content": []}),
        ("choices/0/finish_reason", "abort"),
        ("choices/0/finish_reason", "tool_calls"),
        ("choices/0/finish_reason", None),
        ("choices/1", None),
        ("usage", None),
        ("usage/prompt_tokens", -1),
        ("error", {"message": "dead"}),
    ],
)
def test_what_means_something_else_is_not_known_and_its_own_form_is_not_learned_as_plain(path: str, value: Any) -> None:
    shape = WholeShape()
    shape.learn(written(PLAIN))
    if path == "choices/1":
        answer = json.loads(json.dumps(PLAIN))
        answer["choices"].append(answer["choices"][0])
        body = written(answer)
    else:
        body = changed(path, value)
    assert shape.read(written(PLAIN)) is not None and shape.read(body) is None
    if path not in ("model", "choices/0/index", "choices/0/message/role"):  # those differ, and are plain for all that
        shape.learn(body)
        assert shape.read(body) is None


@pytest.mark.parametrize("inside", [b'a"b', b"a\\", b"a\nb", b"\\u12", b"\\x", b"\xff"], ids=repr)
def test_a_text_that_is_no_string_of_json_is_not_known(inside: bytes) -> None:
    shape = WholeShape()
    shape.learn(written(PLAIN))
    assert shape.read(written(PLAIN).replace(b'"content":"a"', b'"content":"%b"' % inside)) is None


def test_an_answer_that_is_long_and_one_after_many_forms_are_read_in_full() -> None:
    shape = WholeShape()
    shape.learn(written(PLAIN))
    assert shape.read(changed("choices/0/message/content", "x" * MOST_BYTES)) is None
    for number in range(MOST_SHAPES):
        shape.learn(changed("model", f"m{number}"))
    assert shape.read(changed("model", f"m{MOST_SHAPES - 1}")) is None
