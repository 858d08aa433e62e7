"""Choosing: who is a candidate, in which order, and what is said about it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from itertools import permutations, product
from typing import Any

import pytest

from policies.choose import (
    MOST_BYTES_PER_TOKEN,
    BackendView,
    ModelRoute,
    PassedOver,
    PassedOverReason,
    Reason,
    Snapshot,
    choose,
    describe,
)
from policies.cohort import Splitter, parse_stick_by
from policies.facts import CallFacts
from policies.rules import Condition, Rule

Call = Callable[..., CallFacts]

RNG = random.Random(0)
TO_CLOUD = Rule(Condition(tools=True), "cloud", "tools: true -> cloud")


def route(**differences: Any) -> ModelRoute:
    """A model on three backends whose calls all belong to lmstudio."""
    parts: dict[str, Any] = {
        "split": {"lmstudio": 1.0, "vllm": 0.0},
        "rules": (TO_CLOUD,),
        "fallback": ("vllm", "lmstudio", "cloud"),
        "stick_by": ("header:x-user-id", "user"),
        **differences,
    }
    return ModelRoute(
        name="jane",
        backends=("lmstudio", "vllm", "cloud"),
        splitter=Splitter("jane", parts["split"]),
        rules=parts["rules"],
        fallback=parts["fallback"],
        stick_by=parse_stick_by(parts["stick_by"]),
    )


STATES: dict[str, dict[str, Any]] = {
    "well": {"in_rotation": True},
    "ejected": {"in_rotation": False},
    "draining": {"in_rotation": True, "is_draining": True},
    "small": {"in_rotation": True, "context_tokens": 100},
    "embeddings only": {"in_rotation": True, "lacks": frozenset({"chat"})},
}


def snapshot(**states: str) -> Snapshot:
    """All backends well, except for those that are named."""
    views = {name: BackendView(name, **STATES[states.get(name, "well")]) for name in ("lmstudio", "vllm", "cloud")}
    return Snapshot.of(1, views)


WELL = snapshot()

ORDERS: list[tuple[str, dict[str, Any], dict[str, str], str]] = [
    ("all is well -> the split, then the fallback order without it", {}, {}, "lmstudio:split vllm:fallback cloud:fallback"),
    ("a rule applies -> its backend first", {"tools": True}, {}, "cloud:rule vllm:fallback lmstudio:fallback"),
    ("pinned -> this backend and no other", {"pin": "vllm"}, {}, "vllm:pinned"),
    ("pinned beats a rule", {"pin": "vllm", "tools": True}, {}, "vllm:pinned"),
    ("pinned to an ejected one -> still only this", {"pin": "vllm"}, {"vllm": "ejected"}, "vllm:pinned"),
    ("pinned to a draining one -> still only this", {"pin": "vllm"}, {"vllm": "draining"}, "vllm:pinned"),
    ("pinned to one that cannot answer -> nobody", {"pin": "vllm"}, {"vllm": "embeddings only"}, ""),
    ("pinned to an unknown one -> nobody", {"pin": "nowhere"}, {"cloud": "ejected"}, ""),
    ("the first is ejected -> the fallback order", {}, {"lmstudio": "ejected"}, "vllm:fallback cloud:fallback"),
    ("the first is draining -> the fallback order", {}, {"lmstudio": "draining"}, "vllm:fallback cloud:fallback"),
    ("the first cannot answer -> the fallback order", {}, {"lmstudio": "embeddings only"}, "vllm:fallback cloud:fallback"),
    ("the rule's backend is ejected -> the fallback order", {"tools": True}, {"cloud": "ejected"}, "vllm:fallback lmstudio:fallback"),
    ("one in the middle is ejected -> it is left out", {}, {"vllm": "ejected"}, "lmstudio:split cloud:fallback"),
    ("the prompt is surely too long -> the next", {"prompt_bytes": 100 * MOST_BYTES_PER_TOKEN + 1}, {"lmstudio": "small"},
     "vllm:fallback cloud:fallback"),
    ("the prompt may just fit -> stays", {"prompt_bytes": 100 * MOST_BYTES_PER_TOKEN}, {"lmstudio": "small"},
     "lmstudio:split vllm:fallback cloud:fallback"),
    ("the kind that it answers -> stays", {"kind": "embeddings"}, {"lmstudio": "embeddings only"},
     "lmstudio:split vllm:fallback cloud:fallback"),
    ("one is well -> nobody else, not even as a last resort", {}, {"lmstudio": "ejected", "vllm": "ejected"}, "cloud:fallback"),
    ("all are ejected -> all as a last resort, in order", {}, {"lmstudio": "ejected", "vllm": "ejected", "cloud": "ejected"},
     "lmstudio:last_resort vllm:last_resort cloud:last_resort"),
    ("ejected before draining before too small", {}, {"lmstudio": "small", "vllm": "draining", "cloud": "ejected"},
     "cloud:last_resort vllm:last_resort lmstudio:last_resort"),
    ("all draining -> all the same", {}, {"lmstudio": "draining", "vllm": "draining", "cloud": "draining"},
     "lmstudio:last_resort vllm:last_resort cloud:last_resort"),
    ("who cannot answer is no last resort", {}, {"lmstudio": "embeddings only", "vllm": "ejected", "cloud": "embeddings only"},
     "vllm:last_resort"),
    ("nobody can answer -> nobody", {}, dict.fromkeys(("lmstudio", "vllm", "cloud"), "embeddings only"), ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("differences", "states", "expected"), [case[1:] for case in ORDERS], ids=[case[0] for case in ORDERS]
)
def test_the_order_of_the_candidates(
    differences: dict[str, Any], states: dict[str, str], expected: str, call: Call
) -> None:
    facts = call(**({"prompt_bytes": 5000} | differences))
    choice = choose(facts, route(), snapshot(**states), RNG)
    assert " ".join(f"{c.backend}:{c.reason.value}" for c in choice.candidates) == expected


@pytest.mark.parametrize("order", list(permutations(("lmstudio", "vllm", "cloud"))), ids=" ".join)
def test_every_fallback_order_is_kept(order: tuple[str, ...], call: Call) -> None:
    choice = choose(call(), route(fallback=order), WELL, RNG)
    assert [c.backend for c in choice.candidates] == ["lmstudio", *(name for name in order if name != "lmstudio")]


def test_whoever_can_answer_is_tried_or_there_was_somebody_better(call: Call) -> None:
    for states in product(STATES, repeat=3):
        given = dict(zip(("lmstudio", "vllm", "cloud"), states, strict=True))
        choice = choose(call(prompt_bytes=5000), route(), snapshot(**given), RNG)
        tried = {c.backend for c in choice.candidates}
        well = {name for name, state in given.items() if state == "well"}
        able = {name for name, state in given.items() if state != "embeddings only"}
        assert tried == (well or able), given
        assert {passed.backend for passed in choice.passed_over} == set(given) - well, given
        assert len(tried) == len(choice.candidates), given


def test_passed_over_says_why(call: Call) -> None:
    states = {"lmstudio": "ejected", "vllm": "draining", "cloud": "small"}
    choice = choose(call(prompt_bytes=5000), route(), snapshot(**states), RNG)
    assert choice.passed_over == (
        PassedOver("lmstudio", PassedOverReason.EJECTED),
        PassedOver("vllm", PassedOverReason.DRAINING),
        PassedOver("cloud", PassedOverReason.CONTEXT_TOO_SMALL),
    )


EVEN = {"lmstudio": 0.5, "vllm": 0.5}
COHORTS: list[tuple[str, dict[str, float], dict[str, Any], tuple[str, str] | None]] = [
    ("a divided split -> the caller's key", EVEN, {"user": "ann"}, ("user", "ann")),
    ("nobody recognised -> none", EVEN, {}, None),
    ("a rule decided -> none", EVEN, {"user": "ann", "tools": True}, None),
    ("a pin decided -> none", EVEN, {"user": "ann", "pin": "vllm"}, None),
    ("the whole share is one's -> none", {"lmstudio": 1.0}, {"user": "ann"}, None),
]


@pytest.mark.parametrize(
    ("split", "differences", "cohort"), [case[1:] for case in COHORTS], ids=[case[0] for case in COHORTS]
)
def test_the_cohort_is_named_where_it_decided(
    split: Mapping[str, float], differences: dict[str, Any], cohort: tuple[str, str] | None, call: Call
) -> None:
    assert choose(call(**differences), route(split=split), WELL, RNG).cohort == cohort


def test_a_caller_stays_and_callers_differ(call: Call) -> None:
    even = route(split=EVEN)
    firsts = {
        user: {choose(call(user=user), even, WELL, RNG).candidates[0].backend for _ in range(5)}
        for user in map(str, range(20))
    }
    assert all(len(backends) == 1 for backends in firsts.values())
    assert set.union(*firsts.values()) == {"lmstudio", "vllm"}


def test_without_a_key_chance_decides_and_is_named(call: Call) -> None:
    choices = [choose(call(), route(split=EVEN), WELL, random.Random(seed)) for seed in range(20)]
    assert {choice.candidates[0].backend for choice in choices} == {"lmstudio", "vllm"}
    assert {choice.candidates[0].detail for choice in choices} == {"by chance"}


def test_a_backend_without_a_share_is_never_first_but_still_a_fallback(call: Call) -> None:
    choices = [choose(call(user=str(i)), route(split={"lmstudio": 1.0, "vllm": 0.0}), WELL, RNG) for i in range(50)]
    assert {choice.candidates[0].backend for choice in choices} == {"lmstudio"}
    assert all("vllm" in [c.backend for c in choice.candidates[1:]] for choice in choices)


def test_no_fallback_is_no_fallback(call: Call) -> None:
    choice = choose(call(), route(fallback=()), snapshot(lmstudio="ejected"), RNG)
    assert [(c.backend, c.reason) for c in choice.candidates] == [("lmstudio", Reason.LAST_RESORT)]


@pytest.mark.parametrize(("state", "expected"), [(state, state == "well") for state in STATES])
def test_only_when_all_is_well_nobody_has_to_be_looked_at(state: str, expected: bool, call: Call) -> None:
    assert snapshot(vllm=state).passes_none_over(call()) is expected


def test_the_short_way_and_the_long_way_agree(call: Call) -> None:
    looked_at = Snapshot(1, WELL.views, all_in_rotation=False)
    for facts in (call(), call(user="ann"), call(tools=True), call(pin="vllm")):
        assert choose(facts, route(split=EVEN), WELL, random.Random(1)) == choose(
            facts, route(split=EVEN), looked_at, random.Random(1)
        )


DESCRIBED: list[tuple[str, dict[str, Any], dict[str, str], list[str]]] = [
    (
        "a rule, one ejected",
        {"tools": True},
        {"vllm": "ejected"},
        [
            "1. cloud: a rule applies (tools: true -> cloud)",
            "2. lmstudio: next in the fallback order",
            "-  vllm was passed over: it is ejected",
        ],
    ),
    (
        "a recognised caller",
        {"user": "ann"},
        {"cloud": "draining"},
        [
            "1. lmstudio: by the split (user)",
            "2. vllm: next in the fallback order",
            "-  cloud was passed over: it is draining",
            "The caller is recognised by user = ann and stays where it is while the split stays.",
        ],
    ),
    (
        "a pin on an ejected backend",
        {"pin": "vllm"},
        {"vllm": "ejected"},
        ["1. vllm: the caller asked for it by name (although it is ejected)"],
    ),
    (
        "nobody",
        {"pin": "vllm"},
        {"vllm": "embeddings only"},
        [
            "No backend can answer this call.",
            "-  vllm was passed over: it lacks what the call needs: chat",
        ],
    ),
]


@pytest.mark.parametrize(
    ("differences", "states", "lines"), [case[1:] for case in DESCRIBED], ids=[case[0] for case in DESCRIBED]
)
def test_a_choice_reads_as_sentences(
    differences: dict[str, Any], states: dict[str, str], lines: list[str], call: Call
) -> None:
    divided = route(split={"lmstudio": 0.9999, "vllm": 0.0001})
    assert describe(choose(call(**differences), divided, snapshot(**states), RNG)) == lines
