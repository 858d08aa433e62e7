"""Choosing while a backend comes back from ejection: a share of its calls that grows, and no call that has nowhere to go."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import pytest

from policies.choose import BackendView, ModelRoute, PassedOver, PassedOverReason, Snapshot, choose, describe
from policies.cohort import Splitter
from policies.facts import CallFacts
from policies.rules import Condition, Rule

Call = Callable[..., CallFacts]

ROUTE = ModelRoute(
    name="jane",
    backends=("a", "b", "c"),
    splitter=Splitter("jane", {"a": 1.0}),
    rules=(Rule(Condition(tools=True), "c", "tools: true -> c"),),
    fallback=("a", "b", "c"),
    stick_by=(),
)


class Draws(random.Random):
    """Dice that show the same number each time."""

    def __init__(self, drawn: float):
        super().__init__()
        self.drawn = drawn

    def random(self) -> float:
        return self.drawn


def snapshot(weights: Mapping[str, float]) -> Snapshot:
    """Backends at these weights, the others well; a weight of 0 is one that is ejected."""
    views = {
        name: BackendView(name, in_rotation=weights.get(name, 1) > 0, weight=weights.get(name, 1.0) or 1.0)
        for name in "abc"
    }
    return Snapshot.of(1, views)


# weights, the draw -> who is tried in which order
ORDERS: list[tuple[str, dict[str, float], float, str]] = [
    ("the draw is of its share -> as always", {"a": 0.2}, 0.19, "a:split b:fallback c:fallback"),
    ("it is not -> the next, and it itself last", {"a": 0.2}, 0.2, "b:fallback c:fallback a:last_resort"),
    ("one further down -> goes behind the steady ones", {"b": 0.2}, 0.9, "a:split c:fallback b:last_resort"),
    ("all others are ejected -> it takes all", {"a": 0.2, "b": 0, "c": 0}, 0.9, "a:split"),
    ("two ramp, none by the draw -> the steady one first", {"a": 0.2, "b": 0.3}, 0.9,
     "c:fallback a:last_resort b:last_resort"),
    ("all ramp, none by the draw -> as always", {"a": 0.2, "b": 0.3, "c": 0.4}, 0.9, "a:split b:fallback c:fallback"),
    ("all ramp, one by the draw -> this one first", {"a": 0.2, "b": 0.3, "c": 0.4}, 0.35,
     "c:fallback a:last_resort b:last_resort"),
]  # fmt: skip


@pytest.mark.parametrize(("weights", "drawn", "expected"), [row[1:] for row in ORDERS], ids=[row[0] for row in ORDERS])
def test_the_order_while_somebody_comes_back(
    weights: dict[str, float], drawn: float, expected: str, call: Call
) -> None:
    choice = choose(call(), ROUTE, snapshot(weights), Draws(drawn))
    assert " ".join(f"{c.backend}:{c.reason.value}" for c in choice.candidates) == expected


def test_the_share_of_its_own_calls_is_its_weight(call: Call) -> None:
    rng, ramping = random.Random(1), snapshot({"a": 0.3})
    firsts = [choose(call(), ROUTE, ramping, rng).candidates[0].backend for _ in range(4000)]
    assert firsts.count("a") / 4000 == pytest.approx(0.3, abs=0.03)
    assert set(firsts) == {"a", "b"}


def test_a_rule_is_ramped_too_and_a_pin_is_not(call: Call) -> None:
    ramping = snapshot({"c": 0.1})
    assert choose(call(tools=True), ROUTE, ramping, Draws(0.5)).candidates[0].backend == "a"
    assert [c.backend for c in choose(call(pin="c"), ROUTE, ramping, Draws(0.5)).candidates] == ["c"]


def test_why_is_said(call: Call) -> None:
    choice = choose(call(), ROUTE, snapshot({"a": 0.1}), Draws(0.5))
    assert choice.passed_over == (PassedOver("a", PassedOverReason.RAMPING),)
    assert choice.first_reason == "fallback (a ramping)"
    assert describe(choice) == [
        "1. b: next in the fallback order",
        "2. c: next in the fallback order",
        "3. a: nobody better is left (although it is ramping up after an ejection)",
        "-  a was passed over: it is ramping up after an ejection",
    ]


def test_the_reason_of_the_first_names_whoever_was_passed_over(call: Call) -> None:
    assert choose(call(), ROUTE, snapshot({}), Draws(0.5)).first_reason == "split"
    assert (
        choose(call(), ROUTE, snapshot({"a": 0, "c": 0}), Draws(0.5)).first_reason == "fallback (a ejected, c ejected)"
    )


def test_who_ramps_up_has_to_be_looked_at() -> None:
    assert snapshot({}).all_in_rotation and not snapshot({"b": 0.99}).all_in_rotation
