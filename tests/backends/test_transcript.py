"""What is kept of a stream is what its client has seen, whichever way its chunks went."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.answers import ChunkShape, read_chunk
from backends.transcript import MAX_KEPT_BYTES, Transcript
from tests.upstream import chunked, event

TEXTS = st.lists(st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=12), max_size=12)


def literal(delta: dict[str, str]) -> bytes:
    """A text chunk as engines write it: no letter is escaped that need not be."""
    return event({"@": "@"}).replace(
        b'{"@":"@"}', json.dumps(delta, ensure_ascii=False, separators=(",", ":")).encode()
    )


def kept(deltas: list[dict[str, str]]) -> Transcript:
    """The transcript of a stream whose chunks go by shape wherever they can."""
    transcript, shape = Transcript(), ChunkShape(MAX_KEPT_BYTES)
    for delta in deltas:
        chunk = chunked(literal(delta))
        if shape.apply(chunk) == (chunk, len(chunk)):
            continue
        transcript.see(read_chunk(literal(delta)[6:-2]))
        if shape.learn(literal(delta), literal(delta)):
            shape.kept = transcript.keep(shape.name)
    return transcript


@given(reasoning=TEXTS, content=TEXTS)
def test_everything_sent_is_kept_and_counted_whichever_way_it_went(reasoning: list[str], content: list[str]) -> None:
    said = kept([*({"reasoning": text} for text in reasoning), *({"content": text} for text in content)]).said()
    assert (said.reasoning, said.content) == ("".join(reasoning), "".join(content))
    assert (said.reasoning_deltas, said.content_deltas) == (len(reasoning), len(content))
    assert said.deltas == len(reasoning) + len(content)
    assert said.is_plain and not said.is_finished and not said.is_over_bound


@pytest.mark.parametrize("names", [("content", "content"), ("reasoning_content", "content")])
def test_too_much_is_not_kept_and_says_so(names: tuple[str, str]) -> None:
    deltas = [{names[number % 2]: "x" * 1000} for number in range(900)]
    transcript = kept(deltas)
    said = transcript.said()
    assert said.is_over_bound
    assert MAX_KEPT_BYTES < len(said.content) + said.content_deltas < MAX_KEPT_BYTES + 2000


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices":[{"index":1,"delta":{"content":"a"}}]}',
        b'{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}',
        b'{"choices":[{"delta":{"function_call":{"name":"f"}}}]}',
        b'{"choices":[{"delta":{"refusal":"no"}}]}',
        b'{"choices":[{"delta":{"content":[{"type":"thinking"}]}}]}',
    ],
    ids=["a second choice", "a tool call", "a function call", "a refusal", "content in parts"],
)
def test_what_text_cannot_carry_on_is_not_plain(data: bytes) -> None:
    transcript = Transcript()
    transcript.see(read_chunk(data))
    assert not transcript.said().is_plain


def test_reasoning_under_both_names_is_kept_once() -> None:
    transcript = Transcript()
    data = b'{"choices":[{"delta":{"reasoning":"why","reasoning_content":"why"}}]}'
    transcript.see(read_chunk(data))
    assert transcript.said().reasoning == "why"


def test_an_end_is_seen() -> None:
    transcript = Transcript()
    data = event({}, "stop")[6:-2]
    transcript.see(read_chunk(data))
    assert transcript.said().is_finished
