"""What a backend lacks: who is asked instead, what is said about it, and when nobody is left."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest

from policies.choose import (
    MOST_BYTES_PER_TOKEN,
    BackendView,
    ModelRoute,
    PassedOver,
    PassedOverReason,
    Snapshot,
    choose,
    describe,
    is_offered_by_none,
)
from policies.cohort import Splitter
from policies.facts import CallFacts, Need
from policies.rules import Condition, Rule

Call = Callable[..., CallFacts]

RNG = random.Random(0)
NAMES = ("a", "b", "c")
TO_B = Rule(Condition(tools=True), "b", "tools: true -> b")
ROUTE = ModelRoute("jane", NAMES, Splitter("jane", {"a": 1.0}), (TO_B,), NAMES, ())
CHOICES = {"needs": frozenset({Need.MANY_CHOICES})}
BOTH = {"needs": frozenset({Need.MANY_CHOICES, Need.LOGPROBS})}
TOOLS = {"needs": frozenset({Need.TOOLS})}
IMAGE = {"needs": frozenset({Need.IMAGES})}
EMBEDDINGS = {"kind": "embeddings"}
RERANK = {"kind": "pass", "path": "/v1/rerank"}
DOWN = {"in_rotation": False}


def lacks(*what: str, **differences: Any) -> dict[str, Any]:
    return {"lacks": frozenset(what), **differences}


def misses(*what: str, **differences: Any) -> dict[str, Any]:
    return {"missing": frozenset(what), **differences}


def snapshot(**differences: dict[str, Any]) -> Snapshot:
    well: dict[str, Any] = {"in_rotation": True}
    views = {name: BackendView(name, **(well | differences.get(name, {}))) for name in NAMES}
    return Snapshot.of(1, views)


ORDERS: list[tuple[str, dict[str, Any], dict[str, dict[str, Any]], str]] = [
    ("a plain call goes where it always goes", {}, {"a": lacks("n", "logprobs", "images")}, "a:split b:fallback c:fallback"),
    ("a need that the first lacks -> the next", CHOICES, {"a": lacks("n")}, "b:fallback c:fallback"),
    ("another need is none of its business", IMAGE, {"a": lacks("n")}, "a:split b:fallback c:fallback"),
    ("one of two needs is lacking -> the next", BOTH, {"a": lacks("logprobs")}, "b:fallback c:fallback"),
    ("one in the middle lacks it -> it is left out", CHOICES, {"b": lacks("n")}, "a:split c:fallback"),
    ("a kind that the first lacks -> the next", EMBEDDINGS, {"a": lacks("embeddings")}, "b:fallback c:fallback"),
    ("a path that is sent on as it is", RERANK, {"a": lacks("/v1/rerank")}, "b:fallback c:fallback"),
    ("another such path", RERANK, {"a": lacks("/v1/score")}, "a:split b:fallback c:fallback"),
    ("the rule's backend lacks it -> the fallback order", {"tools": True} | CHOICES, {"b": lacks("n")}, "a:fallback c:fallback"),
    ("all lack it -> nobody", CHOICES, dict.fromkeys(NAMES, lacks("n")), ""),
    ("who lacks it is no last resort", CHOICES, {"a": lacks("n"), "b": DOWN, "c": DOWN}, "b:last_resort c:last_resort"),
    ("who can is down, and draining counts as well", CHOICES,
     {"a": lacks("n"), "b": lacks("n"), "c": {"in_rotation": True, "is_draining": True}}, "c:last_resort"),
    ("pinned to who lacks it -> nobody", {"pin": "a"} | CHOICES, {"a": lacks("n")}, ""),
    ("pinned to who does not -> only this", {"pin": "b"} | CHOICES, {"a": lacks("n")}, "b:pinned"),
    ("no route a moment ago -> the next", EMBEDDINGS, {"a": misses("embeddings")}, "b:fallback c:fallback"),
    ("no route of another kind -> as always", {}, {"a": misses("embeddings")}, "a:split b:fallback c:fallback"),
    ("no route anywhere -> asked again, it may be mended", EMBEDDINGS,
     {"a": misses("embeddings"), "b": misses("embeddings"), "c": lacks("embeddings")}, "a:last_resort b:last_resort"),
    ("who is down before who has no route", EMBEDDINGS, {"a": misses("embeddings", **DOWN), "b": DOWN, "c": DOWN},
     "b:last_resort c:last_resort a:last_resort"),
    ("pinned to who had no route -> asked again", {"pin": "a"} | EMBEDDINGS, {"a": misses("embeddings")}, "a:pinned"),
    ("tools were refused a moment ago -> the next", TOOLS, {"a": misses("tools")}, "b:fallback c:fallback"),
    ("tools that are not needed -> as always", {}, {"a": misses("tools")}, "a:split b:fallback c:fallback"),
    ("tools are refused everywhere -> asked again, it may be mended", TOOLS,
     {"a": misses("tools"), "b": misses("tools"), "c": lacks("tools")}, "a:last_resort b:last_resort"),
    ("who is down before who refuses tools", TOOLS, {"a": misses("tools"), "b": DOWN, "c": misses("tools")},
     "b:last_resort a:last_resort c:last_resort"),
    ("of a kind that cannot be called -> never", {}, {"a": {"is_callable": False}, "b": DOWN, "c": DOWN},
     "b:last_resort c:last_resort"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("differences", "views", "expected"), [case[1:] for case in ORDERS], ids=[case[0] for case in ORDERS]
)
def test_the_order_of_the_candidates(
    differences: dict[str, Any], views: dict[str, dict[str, Any]], expected: str, call: Call
) -> None:
    choice = choose(call(**differences), ROUTE, snapshot(**views), RNG)
    assert " ".join(f"{c.backend}:{c.reason.value}" for c in choice.candidates) == expected


@pytest.mark.parametrize("states", list(permutations(("lacks", "down", "well"))), ids=" ".join)
def test_a_poorer_answer_is_never_given_and_who_is_well_is_always_found(states: tuple[str, ...], call: Call) -> None:
    given = dict(zip(NAMES, states, strict=True))
    views = {name: {"lacks": lacks("n"), "down": DOWN, "well": {}}[state] for name, state in given.items()}
    choice = choose(call(**CHOICES), ROUTE, snapshot(**views), RNG)
    assert [given[candidate.backend] for candidate in choice.candidates] == ["well"]
    del views[next(name for name, state in given.items() if state == "well")]
    left = {name for name, state in given.items() if state != "lacks"}
    views |= {name: DOWN for name in left}
    choice = choose(call(**CHOICES), ROUTE, snapshot(**views), RNG)
    assert {candidate.backend for candidate in choice.candidates} == left
    assert not is_offered_by_none(choice), "who can is down: that is no reason to say that nobody can"


def test_passed_over_says_what_was_lacking(call: Call) -> None:
    views = {"a": lacks("n", "logprobs"), "b": lacks("embeddings", "n"), "c": misses("chat")}
    choice = choose(call(**BOTH), ROUTE, snapshot(**views), RNG)
    assert choice.passed_over == (
        PassedOver("a", PassedOverReason.INCAPABLE, ("logprobs", "n")),
        PassedOver("b", PassedOverReason.INCAPABLE, ("n",)),
        PassedOver("c", PassedOverReason.ROUTE_MISSING, ("chat",)),
    )
    assert choice.first_reason == "last_resort (a incapable: logprobs, n, b incapable: n, c route_missing: chat)"
    assert describe(choice) == [
        "1. c: nobody better is left (although it answered a moment ago that it has no such API)",
        "-  a was passed over: it lacks what the call needs: logprobs, n",
        "-  b was passed over: it lacks what the call needs: n",
        "-  c was passed over: it answered a moment ago that it has no such API",
    ]


def test_a_need_that_was_missing_a_moment_ago_is_said(call: Call) -> None:
    choice = choose(call(**TOOLS), ROUTE, snapshot(a=misses("tools")), RNG)
    assert choice.passed_over == (PassedOver("a", PassedOverReason.NEED_MISSING, ("tools",)),)
    assert choice.first_reason == "fallback (a need_missing: tools)"
    said = "-  a was passed over: it answered a moment ago that it was started without what the call needs"
    assert describe(choice)[-1] == said


def test_a_whole_api_that_is_missing_is_said_before_a_need(call: Call) -> None:
    choice = choose(call(**TOOLS), ROUTE, snapshot(a=misses("chat", "tools")), RNG)
    assert choice.passed_over == (PassedOver("a", PassedOverReason.ROUTE_MISSING, ("chat",)),)


def test_a_whole_api_that_is_lacking_is_said_before_what_is_asked_of_it(call: Call) -> None:
    views = dict.fromkeys(NAMES, lacks("chat", "n"))
    choice = choose(call(**CHOICES), ROUTE, snapshot(**views), RNG)
    assert {passed.lacking for passed in choice.passed_over} == {("chat",)}
    assert choice.first_reason.startswith("nobody (a incapable: chat, ")


OFFERED: list[tuple[str, dict[str, Any], dict[str, dict[str, Any]], bool]] = [
    ("all lack it", CHOICES, dict.fromkeys(NAMES, lacks("n")), True),
    ("no route anywhere", EMBEDDINGS, dict.fromkeys(NAMES, misses("embeddings")), True),
    ("some lack it, the others have no route", EMBEDDINGS,
     {"a": lacks("embeddings"), "b": misses("embeddings"), "c": misses("embeddings")}, True),
    ("tools are refused everywhere", TOOLS, dict.fromkeys(NAMES, misses("tools")), True),
    ("one is down that may take tools", TOOLS, {"a": misses("tools"), "b": lacks("tools"), "c": DOWN}, False),
    ("one is down that may have it", EMBEDDINGS, {"a": misses("embeddings"), "b": misses("embeddings"), "c": DOWN}, False),
    ("one is well that may have it", EMBEDDINGS, {"a": misses("embeddings"), "b": misses("embeddings")}, False),
    ("one is down that has none", EMBEDDINGS, dict.fromkeys(NAMES, misses("embeddings", **DOWN)), True),
    ("all are down", {}, dict.fromkeys(NAMES, DOWN), False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("differences", "views", "expected"), [case[1:] for case in OFFERED], ids=[case[0] for case in OFFERED]
)
def test_whether_coming_back_may_help(
    differences: dict[str, Any], views: dict[str, dict[str, Any]], expected: bool, call: Call
) -> None:
    assert is_offered_by_none(choose(call(**differences), ROUTE, snapshot(**views), RNG)) is expected


TOKENS = 100
LONG = TOKENS * MOST_BYTES_PER_TOKEN + 1
LENGTHS: list[tuple[str, dict[str, Any], bool]] = [
    ("a conversation", {}, True),
    ("one that may just fit", {"prompt_bytes": LONG - 1}, False),
    ("a response", {"kind": "responses"}, True),
    ("a message", {"kind": "messages"}, True),
    ("an image is large and costs few tokens", {"needs": frozenset({Need.IMAGES})}, False),
    ("embeddings of many texts", {"kind": "embeddings"}, False),
    ("completions of many prompts", {"kind": "completions"}, False),
    ("what is passed on", RERANK, False),
    ("escapes take six bytes for a character", {"messages": rb'["\u0437"]'}, False),
    ("escapes that are not enough", {"messages": rb'["\u0437"]', "prompt_bytes": LONG + 5}, True),
]


@pytest.mark.parametrize(("differences", "is_too_long"), [row[1:] for row in LENGTHS], ids=[row[0] for row in LENGTHS])
def test_a_context_that_is_surely_too_small_is_passed_over(
    differences: dict[str, Any], is_too_long: bool, call: Call
) -> None:
    facts = call(**({"prompt_bytes": LONG} | differences))
    choice = choose(facts, ROUTE, snapshot(a={"context_tokens": TOKENS}), RNG)
    expected = [PassedOverReason.CONTEXT_TOO_SMALL] if is_too_long else []
    assert [passed.reason for passed in choice.passed_over] == expected


PLAIN: list[tuple[str, dict[str, Any], dict[str, dict[str, Any]], bool]] = [
    ("nobody lacks anything", CHOICES, {}, True),
    ("a call that needs nothing", {}, {"a": lacks("n", "embeddings"), "b": misses("completions")}, True),
    ("another need", CHOICES, {"a": lacks("logprobs")}, True),
    ("a need that one lacks", CHOICES, {"a": lacks("n")}, False),
    ("a kind that one lacks", EMBEDDINGS, {"b": lacks("embeddings")}, False),
    ("a kind that one had no route for", EMBEDDINGS, {"b": misses("embeddings")}, False),
    ("a path that one lacks", RERANK, {"b": lacks("/v1/rerank")}, False),
    ("a prompt that fits everywhere", {"prompt_bytes": LONG - 1}, {"a": {"context_tokens": TOKENS}, "b": {"context_tokens": 900}}, True),
    ("a prompt that may not fit somewhere", {"prompt_bytes": LONG}, {"a": {"context_tokens": TOKENS}, "b": {"context_tokens": 900}}, False),
    ("one that cannot be called", {}, {"a": {"is_callable": False}}, False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("differences", "views", "expected"), [case[1:] for case in PLAIN], ids=[case[0] for case in PLAIN]
)
def test_who_is_looked_at_only_where_somebody_may_lack_something(
    differences: dict[str, Any], views: dict[str, dict[str, Any]], expected: bool, call: Call
) -> None:
    assert snapshot(**views).passes_none_over(call(**differences)) is expected
