"""Two streams become one: whatever was sent of the first, however the second is cut, the client's text is the whole text once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.answers import read_chunk
from backends.errors import Diverged
from backends.merging import Counted, Merging, Swallowing
from backends.transcript import Said, Transcript
from tests.upstream import event

TEXT = st.text(alphabet='ab🚀é\n"\\ ', max_size=12)


def said(*deltas: dict[str, Any]) -> Said:
    transcript = Transcript()
    for delta in deltas:
        data = event(delta)[6:-2]
        transcript.see(read_chunk(data), data)
    return transcript.said()


def cut(text: str, at: list[int]) -> list[str]:
    places = sorted({place % (len(text) + 1) for place in at})
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


def merged(merging: Merging, *deltas: dict[str, Any], finish: str = "stop") -> list[dict[str, Any]]:
    """The choices that a client gets of a second stream of these."""
    out = [merging.take(event(delta)[6:-2]) for delta in deltas]
    out.append(merging.take(event({}, finish)[6:-2]))
    return [choice for data in out if data is not None for choice in json.loads(data)["choices"]]


def text_of(choices: list[dict[str, Any]], name: str) -> str:
    return "".join(choice["delta"].get(name, "") for choice in choices)


@given(reasoning=TEXT, content=TEXT, sent=st.integers(0, 24), cuts=st.lists(st.integers(0, 24), max_size=8))
def test_aligned_the_whole_text_comes_once(reasoning: str, content: str, sent: int, cuts: list[int]) -> None:
    first = (reasoning + content)[:sent]
    before = [{"reasoning": first[: len(reasoning)]}, {"content": first[len(reasoning) :]}]
    merging = Merging(said({"role": "assistant"}, *before), Counted(), is_continued=False, is_chat=True)
    second = [
        *({"reasoning_content": part} for part in cut(reasoning, cuts)),
        *({"content": part} for part in cut(content, cuts)),
    ]
    choices = merged(merging, {"role": "assistant", "content": ""}, *second)
    assert before[0]["reasoning"] + text_of(choices, "reasoning") == reasoning
    assert before[1]["content"] + text_of(choices, "content") == content
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]
    assert not any("role" in choice["delta"] for choice in choices)


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
    merging = Merging(said({"content": "Once"}), Counted(), is_continued=True, is_chat=True)
    with pytest.raises(Diverged):
        merging.take(event(delta)[6:-2])


def test_one_name_for_the_reasoning_and_one_fingerprint_or_none() -> None:
    before = said({"reasoning_content": "I"})
    merging = Merging(before, Counted(), is_continued=False, is_chat=True)
    second = event({"reasoning": "I think"}).replace(b'"created"', b'"system_fingerprint":"two","created"')
    taken = merging.take(second[6:-2])
    assert taken is not None
    told = json.loads(taken)
    assert told["choices"][0]["delta"] == {"reasoning_content": " think"}
    assert "system_fingerprint" not in told


USAGES: list[tuple[str, Counted, dict[str, Any], dict[str, Any]]] = [
    ("align", Counted(), {"prompt_tokens": 9, "completion_tokens": 5}, {"prompt_tokens": 9, "completion_tokens": 5}),
    ("continue", Counted(4), {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 9}, {"prompt_tokens": 5, "completion_tokens": 9}),
    ("more pieces than tokens", Counted(40), {"prompt_tokens": 9, "completion_tokens": 5}, {"prompt_tokens": 1, "completion_tokens": 13}),
    ("the prompt is known", Counted(prompt=6), {"prompt_tokens": 9, "completion_tokens": 5}, {"prompt_tokens": 6, "completion_tokens": 8}),
]  # fmt: skip


@pytest.mark.parametrize(("counted", "usage", "expected"), [row[1:] for row in USAGES], ids=[row[0] for row in USAGES])
def test_usage_adds_up(counted: Counted, usage: dict[str, Any], expected: dict[str, Any]) -> None:
    assert counted.add_up(usage) == {**expected, "total_tokens": 14}


@pytest.mark.parametrize("usage", [{}, {"prompt_tokens": None}, {"prompt_tokens": "9", "completion_tokens": 1}])
def test_usage_that_is_none_is_left_as_it_is(usage: dict[str, Any]) -> None:
    assert Counted(4).add_up(usage) == usage
