"""Rules: when one holds, and which of several wins."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest

from policies.facts import CallFacts
from policies.rules import Condition, Rule, first_match

Call = Callable[..., CallFacts]

CANARY = (("x-canary", "always"),)

CASES: list[tuple[str, Condition, dict[str, Any], bool]] = [
    ("nothing asked -> every call", Condition(), {}, True),
    ("the header has the value -> holds", Condition(header=CANARY), dict(headers={"x-canary": "always"}), True),
    ("the header has another value -> not", Condition(header=CANARY), dict(headers={"x-canary": "Always"}), False),
    ("the header is missing -> not", Condition(header=CANARY), {}, False),
    (
        "one of two headers -> not",
        Condition(header=(*CANARY, ("x-team", "a"))),
        dict(headers={"x-canary": "always"}),
        False,
    ),
    (
        "both of two headers -> holds",
        Condition(header=(*CANARY, ("x-team", "a"))),
        dict(headers={"x-team": "a", "x-canary": "always"}),
        True,
    ),
    ("the same model -> holds", Condition(model="jane"), {}, True),
    ("another model -> not", Condition(model="joan"), {}, False),
    ("tools asked, tools offered -> holds", Condition(tools=True), dict(tools=True), True),
    ("tools asked, none offered -> not", Condition(tools=True), {}, False),
    ("no tools asked, tools offered -> not", Condition(tools=False), dict(tools=True), False),
    ("no tools asked, none offered -> holds", Condition(tools=False), {}, True),
    ("a stream asked, a stream -> holds", Condition(stream=True), dict(stream=True), True),
    ("no stream asked, a stream -> not", Condition(stream=False), dict(stream=True), False),
    ("the same kind -> holds", Condition(kind="embeddings"), dict(kind="embeddings"), True),
    ("another kind -> not", Condition(kind="embeddings"), {}, False),
    ("larger than over -> holds", Condition(prompt_bytes_over=999), {}, True),
    ("exactly over -> not", Condition(prompt_bytes_over=1000), {}, False),
    ("smaller than under -> holds", Condition(prompt_bytes_under=1001), {}, True),
    ("exactly under -> not", Condition(prompt_bytes_under=1000), {}, False),
    ("over 0 bytes is a condition too -> holds", Condition(prompt_bytes_over=0), {}, True),
    (
        "between the two -> holds",
        Condition(prompt_bytes_over=500, prompt_bytes_under=2000),
        {},
        True,
    ),
    (
        "all but one condition -> not",
        Condition(header=CANARY, tools=True, stream=True, prompt_bytes_over=10),
        dict(headers={"x-canary": "always"}, tools=True, stream=False),
        False,
    ),
]


@pytest.mark.parametrize(
    ("condition", "differences", "holds"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_condition_holds_only_as_a_whole(
    condition: Condition, differences: dict[str, Any], holds: bool, call: Call
) -> None:
    assert condition.holds(call(**differences)) is holds


def test_the_first_rule_that_applies_wins_in_every_order(call: Call) -> None:
    rules = (
        Rule(Condition(tools=True), "a", "tools -> a"),
        Rule(Condition(stream=True), "b", "stream -> b"),
        Rule(Condition(kind="embeddings"), "c", "embeddings -> c"),
    )
    facts = call(tools=True, stream=True)
    for order in permutations(rules):
        expected = next(rule for rule in order if rule.use in "ab")
        assert first_match(order, facts) is expected


def test_no_rule_applies(call: Call) -> None:
    assert first_match((), call()) is None
    assert first_match((Rule(Condition(tools=True), "a", "tools -> a"),), call()) is None
