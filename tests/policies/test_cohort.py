"""Callers: how they are recognised, and the backend that they belong to under a split."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.cohort import (
    MOST_DRAWN,
    MOST_KEY_CHARS,
    Splitter,
    StickKey,
    caller_key,
    conversation_fingerprint,
    parse_stick_by,
)
from policies.facts import CallFacts

Call = Callable[..., CallFacts]

RNG = random.Random(0)
KEYS = [f"caller-{i}" for i in range(2500)]
NAMES = ("a", "b", "c", "d", "e")


FEW = KEYS[:200]  # for properties: many splits, fewer callers


def placed(split: Mapping[str, float], model: str = "jane", keys: Sequence[str] = KEYS) -> list[str]:
    """The backend of every key."""
    splitter = Splitter(model, split)
    return [splitter.pick(key, RNG) for key in keys]


def moves(
    before: Mapping[str, float], after: Mapping[str, float], keys: Sequence[str] = FEW
) -> Counter[tuple[str, str]]:
    """How many callers a change takes from where to where."""
    pairs = zip(placed(before, keys=keys), placed(after, keys=keys), strict=True)
    return Counter(pair for pair in pairs if pair[0] != pair[1])


def test_the_configuration_words_become_keys() -> None:
    keys = parse_stick_by(["header:X-User-Id", "user", "conversation"])
    assert keys == (StickKey("header:x-user-id", "x-user-id"), StickKey("user"), StickKey("conversation"))


@pytest.mark.parametrize("entry", ["cookie", "header:", "header: ", "", "User", "header"])
def test_an_unknown_word_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="no way to recognise a caller"):
        parse_stick_by([entry])


HELLO = b'[{"role": "user", "content": "hello"}]'
ALL = ("header:x-user-id", "user", "conversation")
RECOGNISED: list[tuple[str, tuple[str, ...], dict[str, Any], str | None]] = [
    ("all three are there -> the first", ALL, dict(headers={"x-user-id": "7"}, user="u", messages=HELLO), "header"),
    ("the header is empty -> the next", ALL, dict(headers={"x-user-id": ""}, user="u", messages=HELLO), "user"),
    ("no header -> the next", ALL, dict(user="u", messages=HELLO), "user"),
    ("an empty user -> the conversation", ALL, dict(user="", messages=HELLO), "conversation"),
    ("only a conversation -> it", ALL, dict(messages=HELLO), "conversation"),
    ("nothing at all -> nobody", ALL, {}, None),
    ("the configured order decides", ("user", "header:x-user-id"), dict(headers={"x-user-id": "7"}, user="u"), "user"),
    ("a key that is not configured -> nobody", ("header:x-user-id",), dict(user="u", messages=HELLO), None),
    ("no keys configured -> nobody", (), dict(user="u", messages=HELLO), None),
]


@pytest.mark.parametrize(
    ("stick_by", "differences", "which"), [case[1:] for case in RECOGNISED], ids=[case[0] for case in RECOGNISED]
)
def test_the_first_key_that_a_call_has_tells_the_caller(
    stick_by: tuple[str, ...], differences: dict[str, Any], which: str | None, call: Call
) -> None:
    values = {"header": ("header:x-user-id", "7"), "user": ("user", "u")}
    expected = values.get(which or "")
    if which == "conversation":
        expected = ("conversation", conversation_fingerprint(HELLO) or "")
    assert caller_key(parse_stick_by(stick_by), call(**differences)) == expected


def said(*turns: tuple[str, Any]) -> bytes:
    """The messages of a conversation as JSON."""
    return json.dumps([{"role": role, "content": content} for role, content in turns]).encode()


OPENING = (("system", "be brief"), ("user", "hello"))
TEXT_PART = [{"type": "text", "text": "hello"}]
IMAGE_PART = [*TEXT_PART, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]

SAME = [
    ("later turns do not matter", said(*OPENING), said(*OPENING, ("assistant", "hi"), ("user", "and now?"))),
    ("one text part is its text", said(("user", "hello")), said(("user", TEXT_PART))),
    ("spaces and escapes do not matter", b'[{"role":"user","content":"h\\u0069"}]', b' [ {"content": "hi", "role": "user"} ] '),
    ("an assistant's greeting before it does not matter", said(*OPENING), said(OPENING[0], ("assistant", "yes?"), OPENING[1])),
    ("system and developer are one", said(*OPENING), said(("developer", "be brief"), ("user", "hello"))),
    ("unknown fields do not matter", said(*OPENING), said(*OPENING).replace(b'"role"', b'"name": 1, "role"')),
]  # fmt: skip
DIFFERENT = [
    ("another first question", said(*OPENING), said(OPENING[0], ("user", "hullo"))),
    ("another system prompt", said(*OPENING), said(("system", "be long"), OPENING[1])),
    ("no system prompt", said(*OPENING), said(OPENING[1])),
    ("words that pass from one field to the next", said(("system", "ab"), ("user", "c")), said(("system", "a"), ("user", "bc"))),
    ("an image beside the text", said(("user", TEXT_PART)), said(("user", IMAGE_PART))),
    ("a second system prompt", said(*OPENING), said(("system", "be"), ("system", " brief"), OPENING[1])),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), [case[1:] for case in SAME], ids=[case[0] for case in SAME])
def test_it_is_the_same_conversation(one: bytes, other: bytes) -> None:
    assert conversation_fingerprint(one) is not None
    assert conversation_fingerprint(one) == conversation_fingerprint(other)


@pytest.mark.parametrize(("one", "other"), [case[1:] for case in DIFFERENT], ids=[case[0] for case in DIFFERENT])
def test_it_is_another_conversation(one: bytes, other: bytes) -> None:
    assert conversation_fingerprint(one) is not None
    assert conversation_fingerprint(one) != conversation_fingerprint(other)


NOBODY = {
    "no messages": b"",
    "an empty list": b"[]",
    "only a system prompt": said(("system", "be brief")),
    "an empty question": said(("system", "be brief"), ("user", "")),
    "a question that is null": said(("user", None)),
    "a question with no parts": said(("user", [])),
    "a question that is a number": said(("user", 7)),
    "no content at all": b'[{"role": "user"}]',
    "an object": b'{"role": "user"}',
    "a list of strings": b'["hello"]',
    "a role that is a number": b'[{"role": 1, "content": "hello"}]',
    "half a list": b'[{"role": "user", "content": "hel',
    "no JSON": b"\xff\xfe",
    "a string that is not UTF-8": b'[{"role": "user", "content": "\xff"}]',
}


@pytest.mark.parametrize("messages", list(NOBODY.values()), ids=list(NOBODY))
def test_no_conversation_can_be_told(messages: bytes) -> None:
    assert conversation_fingerprint(messages) is None


@settings(max_examples=40)
@given(
    st.binary(max_size=40)
    | st.lists(st.sampled_from([{"role": "user"}, {"content": 1}, 7, None, []])).map(json.dumps).map(str.encode)
)
def test_junk_is_nobody_or_somebody_but_never_an_error(messages: bytes) -> None:  # fmt: skip
    fingerprint = conversation_fingerprint(messages)
    assert fingerprint is None or len(fingerprint) == 32


# An upgrade must never move a caller: these were placed by the first release and stay where they are.
GOLDEN = {
    "user-1": ("lmstudio", "lmstudio"),
    "user-2": ("lmstudio", "vllm"),
    "user-12": ("lmstudio", "cloud"),
    "user-16": ("vllm", "vllm"),
    "user-25": ("lmstudio", "cloud"),
    "user-30": ("lmstudio", "lmstudio"),
    "Jürgen": ("lmstudio", "lmstudio"),
    "": ("lmstudio", "vllm"),
    "\udc80": ("lmstudio", "vllm"),
    "用户" * 200: ("lmstudio", "vllm"),
}


@pytest.mark.parametrize(("key", "backends"), list(GOLDEN.items()), ids=[ascii(key)[:20] for key in GOLDEN])
def test_an_upgrade_moves_nobody(key: str, backends: tuple[str, str]) -> None:
    two = Splitter("jane", {"lmstudio": 0.95, "vllm": 0.05})
    three = Splitter("jane", {"lmstudio": 0.6, "vllm": 0.3, "cloud": 0.1})
    assert (two.pick(key, RNG), three.pick(key, RNG)) == backends


def test_the_golden_fingerprint_stays() -> None:
    assert conversation_fingerprint(said(*OPENING)) == "6d2e7efd09ee2048bc1eba8d5e173d63"


@pytest.mark.parametrize(
    "split",
    [{"a": 0.95, "b": 0.05}, {"a": 0.5, "b": 0.5}, {"a": 0.6, "b": 0.3, "c": 0.1}, dict.fromkeys(NAMES, 0.2), {"a": 0.99, "b": 0.01}],
    ids=str,
)  # fmt: skip
def test_the_shares_hold(split: Mapping[str, float]) -> None:
    counts = Counter(placed(split))
    chi_square = sum((counts[name] - share * len(KEYS)) ** 2 / (share * len(KEYS)) for name, share in split.items())
    assert chi_square < 18.5  # 0.1 % point of 4 degrees of freedom; the keys are fixed, so this never flickers


def test_the_order_in_which_a_split_is_written_does_not_matter() -> None:
    assert placed({"a": 0.7, "b": 0.2, "c": 0.1}) == placed({"c": 0.1, "a": 0.7, "b": 0.2})


def test_nor_does_it_for_chance() -> None:
    one, other = Splitter("jane", {"a": 0.5, "b": 0.5}), Splitter("jane", {"b": 0.5, "a": 0.5})
    assert all(one.pick(None, random.Random(i)) == other.pick(None, random.Random(i)) for i in range(20))


def test_only_ratios_matter() -> None:
    assert placed({"a": 0.75, "b": 0.25}) == placed({"a": 3, "b": 1})


def test_one_models_canary_is_not_anothers() -> None:
    split = {"a": 0.5, "b": 0.5}
    both = sum(one == other == "b" for one, other in zip(placed(split, "jane"), placed(split, "joan"), strict=True))
    assert 0.22 < both / len(KEYS) < 0.28


@st.composite
def raised(draw: st.DrawFn) -> tuple[dict[str, float], dict[str, float], str]:
    """A split, the same with one share raised and the others shrunk in proportion, and the raised backend."""
    weights = draw(st.lists(st.integers(0, 100), min_size=2, max_size=5).filter(lambda w: sum(w) > 0))
    before = {name: weight / sum(weights) for name, weight in zip(NAMES, weights, strict=False)}
    name = draw(st.sampled_from([name for name, share in before.items() if share < 1]))
    share = draw(st.floats(before[name], 1.0))
    left = (1 - share) / (1 - before[name])
    return before, {other: share if other == name else before[other] * left for other in before}, name


@settings(max_examples=20, deadline=None)
@given(raised())
def test_raising_a_share_only_ever_moves_callers_to_it(change: tuple[dict[str, float], dict[str, float], str]) -> None:
    before, after, name = change
    assert {to for _, to in moves(before, after)} <= {name}


@settings(max_examples=20, deadline=None)
@given(raised())
def test_taking_it_back_returns_everybody(change: tuple[dict[str, float], dict[str, float], str]) -> None:
    before, after, name = change
    assert {origin for origin, _ in moves(after, before)} <= {name}


shares = st.lists(st.integers(0, 20), min_size=3, max_size=3).filter(any)


@settings(max_examples=20, deadline=None)
@given(shares, shares)
def test_whatever_changes_a_caller_only_moves_to_a_share_that_grew_by_a_larger_factor(
    before: list[int], after: list[int]
) -> None:
    old, new = dict(zip(NAMES, before, strict=False)), dict(zip(NAMES, after, strict=False))
    for origin, to in moves(old, new):
        # factor of `to` > factor of `origin`, written without division: a share may come from 0 or go to 0
        assert new[to] * old[origin] > new[origin] * old[to]


WORKED = [
    ({"a": 0.95, "b": 0.05}, {"a": 0.75, "b": 0.25}, {("a", "b"): 0.20}),
    ({"a": 0.6, "b": 0.3, "c": 0.1}, {"a": 0.4, "b": 0.2, "c": 0.4}, {("a", "c"): 0.20, ("b", "c"): 0.10}),
    ({"a": 0.5, "b": 0.5}, {"a": 0.5, "c": 0.5}, {("b", "c"): 1 / 3, ("b", "a"): 1 / 6, ("a", "c"): 1 / 6}),
]


@pytest.mark.parametrize(("before", "after", "expected"), WORKED, ids=["two", "three", "a swap"])
def test_the_worked_numbers_of_the_module_are_right(
    before: dict[str, float], after: dict[str, float], expected: dict[tuple[str, str], float]
) -> None:
    moved = moves(before, after, KEYS)
    assert set(moved) == set(expected)
    for pair, share in expected.items():
        assert moved[pair] / len(KEYS) == pytest.approx(share, abs=0.02)


class NoChance(random.Random):
    """Dice that must not be thrown."""

    def random(self) -> float:
        raise AssertionError("there was nothing to leave to chance")


def test_a_caller_with_a_key_leaves_nothing_to_chance() -> None:
    assert Splitter("jane", {"a": 0.5, "b": 0.5}).pick("caller-1", NoChance()) in "ab"


@pytest.mark.parametrize("key", [None, "caller-1"])
def test_one_backend_with_the_whole_share_takes_everybody(key: str | None) -> None:
    splitter = Splitter("jane", {"a": 0.0, "b": 1.0})
    assert not splitter.is_divided
    assert splitter.pick(key, NoChance()) == "b"


def test_without_a_key_chance_keeps_the_shares() -> None:
    splitter = Splitter("jane", {"a": 0.9, "b": 0.1, "c": 0.0})
    rng = random.Random(5)
    counts = Counter(splitter.pick(None, rng) for _ in range(4000))
    assert set(counts) == {"a", "b"}
    assert 0.085 < counts["b"] / 4000 < 0.115


@pytest.mark.parametrize(
    "split", [{}, {"a": 0.0}, {"a": 1.1, "b": -0.1}, {"a": float("nan")}, {"a": float("inf"), "b": 1.0}], ids=str
)
def test_a_split_that_places_nobody_is_refused(split: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="split of jane"):
        Splitter("jane", split)


def test_a_caller_is_drawn_alike_however_many_others_came_in_between() -> None:
    split, rng = {"a": 0.5, "b": 0.3, "c": 0.2}, random.Random(1)
    splitter = Splitter("jane", split)
    for number in range(MOST_DRAWN + 100):
        key = f"user-{number}"
        assert splitter.pick(key, rng) == Splitter("jane", split).pick(key, rng) == splitter.pick(key, rng)
    assert splitter.pick("user-0", rng) == Splitter("jane", split).pick("user-0", rng)
    long = "x" * (MOST_KEY_CHARS + 1)
    assert splitter.pick(long, rng) == Splitter("jane", split).pick(long, rng)
