"""Two streams become one: whatever was sent of the first, however the second is cut, the client's text is the whole text once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.answers import Choice, Chunk, Delta, read_chunk
from backends.errors import Diverged
from backends.merging import Counted, Merging, Swallowing
from backends.transcript import Said, Transcript
from backends.usage import Usage
from tests.upstream import event

TEXT = st.text(alphabet='ab🚀é\n"\\ ', max_size=12)


def said(*deltas: dict[str, Any]) -> Said:
    transcript = Transcript()
    for delta in deltas:
        transcript.see(chunk_of(delta))
    return transcript.said()


def chunk_of(delta: dict[str, Any], finish: str | None = None) -> Chunk:
    return read_chunk(event(delta, finish)[6:-2])


def cut(text: str, at: list[int]) -> list[str]:
    places = sorted({place % (len(text) + 1) for place in at})
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


def merged(merging: Merging, *deltas: dict[str, Any], finish: str = "stop") -> list[Choice]:
    """The choices that a client gets of a second stream of these."""
    out = [merging.take(chunk_of(delta)) for delta in deltas]
    out.append(merging.take(chunk_of({}, finish)))
    return [choice for chunk in out for choice in chunk.choices or ()]


def text_of(choices: list[Choice], name: str) -> str:
    return "".join(getattr(choice.delta or Delta(), name) or "" for choice in choices)


@given(reasoning=TEXT, content=TEXT, sent=st.integers(0, 24), cuts=st.lists(st.integers(0, 24), max_size=8))
def test_aligned_the_whole_text_comes_once(reasoning: str, content: str, sent: int, cuts: list[int]) -> None:
    first = (reasoning + content)[:sent]
    before = [{"reasoning": first[: len(reasoning)]}, {"content": first[len(reasoning) :]}]
    merging = Merging(said({"role": "assistant"}, *before), is_continued=False, is_chat=True)
    second = [
        *({"reasoning_content": part} for part in cut(reasoning, cuts)),
        *({"content": part} for part in cut(content, cuts)),
    ]
    choices = merged(merging, {"role": "assistant", "content": ""}, *second)
    assert before[0]["reasoning"] + text_of(choices, "reasoning") == reasoning
    assert before[1]["content"] + text_of(choices, "content") == content
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]


@given(sent=TEXT, again=TEXT, cuts=st.lists(st.integers(0, 24), max_size=8))
def test_what_is_not_what_was_sent_never_comes(sent: str, again: str, cuts: list[int]) -> None:
    swallowing, new = Swallowing(sent, ""), ""
    try:
        for part in cut(again, cuts):
            new += swallowing.new_in("content", part)
        swallowing.must_be_over()
    except Diverged:
        assert not new and not again.startswith(sent)
    else:
        assert sent + new == again


@pytest.mark.parametrize(
    "delta", [{"reasoning": "hm"}, {"reasoning_content": "hm"}, {"content": [{"type": "thinking"}]}]
)
def test_a_continuation_that_begins_anew_is_none(delta: dict[str, Any]) -> None:
    merging = Merging(said({"content": "Once"}), is_continued=True, is_chat=True)
    with pytest.raises(Diverged):
        merging.take(chunk_of(delta))


def test_a_completion_carries_a_chat_on_as_its_text() -> None:
    merging = Merging(said({"content": "Once"}), is_continued=True, is_chat=True)
    (choice,) = merging.take(Chunk(choices=[Choice(text=" upon")])).choices or [Choice()]
    assert choice.delta is not None and (choice.delta.content, choice.text) == (" upon", None)


USAGES: list[tuple[str, Counted, Usage, Usage]] = [
    ("align", Counted(), Usage(9, 5, total=14), Usage(9, 5, total=14)),
    ("continue", Counted(4), Usage(9, 5, total=14), Usage(5, 9, total=14)),
    ("more pieces than tokens", Counted(40), Usage(9, 5, total=14), Usage(1, 13, total=14)),
    ("the prompt is known", Counted(prompt=6), Usage(9, 5, total=14), Usage(6, 8, total=14)),
    ("what was cached is of the prompt", Counted(4, 3), Usage(9, 5, 8, 1, 14), Usage(5, 9, 5, 4, 14)),
]


@pytest.mark.parametrize(("counted", "usage", "expected"), [row[1:] for row in USAGES], ids=[row[0] for row in USAGES])
def test_usage_adds_up(counted: Counted, usage: Usage, expected: Usage) -> None:
    assert counted.add_up(usage) == expected
