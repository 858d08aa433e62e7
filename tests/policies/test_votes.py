"""Votes: one caller or one prompt alone never takes a replica out, two do, and nobody is known for ever."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.cohort import parse_stick_by
from policies.ejection import EjectionRules, ReplicaHealth, State
from policies.facts import CallFacts
from policies.outcome import OutcomeKind
from policies.votes import MAX_VOTERS, NOBODY, Tally, have_room, most_votes, voters_of

STICK_BY = parse_stick_by(["header:x-user-id", "user", "conversation"])
ANN, BOB, POISON, OTHER = b"ann", b"bob", b"poison", b"other"

rules = st.builds(
    EjectionRules,
    consecutive_failures=st.integers(2, 9),
    failure_share=st.floats(0.01, 1.0),
    window_s=st.just(30.0),
    for_s=st.just((5.0, 300.0)),
)
pauses = st.sampled_from((0.0, 0.1, 1.0, 5.0, 29.0, 31.0, 100.0))


def health_of(eject: EjectionRules) -> ReplicaHealth:
    return ReplicaHealth(eject, random.Random(0))


def is_out(health: ReplicaHealth) -> bool:
    """Asked anew each time: a type checker takes a state that it has seen for unchanged."""
    return health.state is State.EJECTED


# consecutive_failures -> votes of one voter, for ever below it and half of it at least
@pytest.mark.parametrize(("in_a_row", "votes"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (10, 5)])
def test_how_many_failures_of_one_voter_count(in_a_row: int, votes: int) -> None:
    assert most_votes(in_a_row) == votes


@given(rules, st.lists(st.tuples(pauses, st.booleans()), max_size=60), st.booleans())
def test_one_voter_alone_never_ejects(eject: EjectionRules, calls: list[tuple[float, bool]], is_prompt: bool) -> None:
    """Whatever else goes well meanwhile, and whether it is known by its name or, under ever new names, by its prompt."""
    health, now_s = health_of(eject), 1000.0
    for number, (pause_s, is_well) in enumerate(calls):
        now_s += pause_s
        if is_well:
            health.succeeded(now_s)
        else:
            health.failed(now_s, voters=(b"%d" % number, POISON) if is_prompt else (ANN, b"%d" % number))
        assert not is_out(health)


@given(rules, pauses)
def test_two_voters_who_fail_in_a_row_eject(eject: EjectionRules, pause_s: float) -> None:
    health, now_s = health_of(eject), 1000.0
    for _ in range(eject.consecutive_failures):
        for voter in (ANN, BOB):
            now_s += pause_s
            health.failed(now_s, voters=(voter,))
    assert is_out(health)


@given(rules)
def test_one_voter_ejects_while_the_health_probe_is_unwell(eject: EjectionRules) -> None:
    health = health_of(eject)
    health.probe_failed(1.0)
    for _ in range(eject.consecutive_failures):
        health.failed(1.0, voters=(ANN, POISON))
    assert is_out(health)


def test_what_no_call_can_cause_is_not_capped() -> None:
    health = health_of(EjectionRules(5, 0.5, 30.0, (5.0, 300.0)))
    for _ in range(5):
        health.failed(1.0, voters=NOBODY)
    assert is_out(health)


# ".": a success, "a": Ann fails, "b": Bob fails, all with prompts of their own; "p": somebody new fails with the poisonous prompt
HISTORIES = [
    ("three of Ann, two of Bob -> out", "aaabb", True),
    ("a failure that does not count leaves the row as it is", "aaaaaabb", True),
    ("three of Ann, one of Bob -> stays", "aaaaaab", False),
    ("a success ends the row, and gives the votes in a row back", "aab.aab", False),
    ("and then they count anew", "aaa.aaabb", True),
    ("ever new callers with one prompt -> stay", "pppppppp", False),
    ("they are one voter among others", "ppppab", True),
    ("Ann fails half of all calls -> stays", "a.a.a.a.a.a.a.a.a.a.", False),
    ("Ann and Bob fail half of all calls -> out", "a.b.a.b.a..b", True),
]


@pytest.mark.parametrize(("history", "leaves"), [row[1:] for row in HISTORIES], ids=[row[0] for row in HISTORIES])
def test_who_fails_decides_what_counts(history: str, leaves: bool) -> None:
    health = health_of(EjectionRules(5, 0.5, 30.0, (5.0, 300.0)))
    for number, sign in enumerate(history):
        prompt = b"prompt %d" % number
        voters = {"a": (ANN, prompt), "b": (BOB, prompt), "p": (b"caller %d" % number, POISON)}.get(sign)
        if voters is None:
            health.succeeded(1.0)
        else:
            health.failed(1.0, voters=voters)
    assert is_out(health) is leaves


def test_votes_in_the_window_are_given_back_as_it_moves_on() -> None:
    health = health_of(EjectionRules(100, 0.5, 30.0, (5.0, 300.0)))  # 50 votes each: only the share can eject
    for now_s in (1.0, 40.0):
        for _ in range(60):
            health.failed(now_s, voters=(ANN,), may_eject=False)
    health.failed(40.0, voters=(BOB,))
    assert health.reason == "51 of 51 calls within 30 s failed"


def test_where_few_failures_are_enough_they_must_be_of_more_than_one() -> None:
    """A share of 0.1 asks for one failure in ten calls; a caller who fails always must not be that one."""
    health = health_of(EjectionRules(5, 0.1, 30.0, (5.0, 300.0)))
    for sign in ".........aaaa":
        health.succeeded(1.0) if sign == "." else health.failed(1.0, voters=(ANN,))
    assert not is_out(health)
    health.failed(1.0, voters=(BOB,))
    assert is_out(health)


def test_a_return_gives_all_votes_back() -> None:
    health = health_of(EjectionRules(5, 0.5, 30.0, (5.0, 5.0)))
    for voter in (ANN, ANN, ANN, BOB, BOB):
        health.failed(1.0, voters=(voter,))
    assert health.may_take(10.0)
    health.succeeded(10.0)
    for voter in (ANN, ANN, ANN, BOB):
        health.failed(11.0, voters=(voter,))
    assert not is_out(health)
    health.failed(11.0, voters=(BOB,))
    assert is_out(health)


def test_a_tally_knows_a_bounded_number_of_voters() -> None:
    tally = Tally()
    for number in range(10 * MAX_VOTERS):
        tally.add((b"%d" % number, b"prompt"))
    assert len(tally) == MAX_VOTERS
    assert tally.votes_of(b"prompt") == 10 * MAX_VOTERS and tally.votes_of(b"639") == 0
    assert have_room((b"639",), (tally,), 1) and not have_room((b"639", b"prompt"), (tally,), 1)


# -- who they are ----------------------------------------------------------------------------------


HI = b'[{"role":"user","content":"hi"}]'


def marks(call: Callable[..., CallFacts], prompt: bytes = HI, **differences: Any) -> tuple[bytes, ...]:
    """The voters of a call that got a 500."""
    return voters_of(OutcomeKind.FAILED, call(**differences), STICK_BY, prompt)


def test_a_caller_and_a_prompt_are_voters_each(call: Callable[..., CallFacts]) -> None:
    ann, again = marks(call, user="ann"), marks(call, b"other", user="ann")
    assert len(ann) == len(again) == 2
    assert ann[0] == again[0] and ann[1] != again[1]
    assert marks(call, user="bob") != ann and marks(call, user="bob")[1] == ann[1]


def test_a_caller_is_who_the_split_takes_him_for(call: Callable[..., CallFacts]) -> None:
    by_header = marks(call, headers={"x-user-id": "7"}, user="ann", messages=HI)
    assert by_header == marks(call, headers={"x-user-id": "7"}, user="bob")
    assert by_header[0] != marks(call, user="7")[0]
    assert marks(call, messages=HI)[0] == marks(call, b"longer", messages=HI)[0], "a conversation is one caller"


def test_a_caller_without_a_name_is_his_key_and_without_a_key_his_prompt(call: Callable[..., CallFacts]) -> None:
    keyed = marks(call, headers={"authorization": "Bearer k-secret"})
    assert len(keyed) == 2 and keyed[0] == marks(call, b"x", headers={"authorization": "Bearer k-secret"})[0]
    assert keyed[0] != marks(call, headers={"authorization": "Bearer other"})[0]
    assert b"secret" not in b"".join(keyed)
    assert marks(call) == keyed[1:]


@pytest.mark.parametrize("kind", OutcomeKind)
def test_what_no_call_can_cause_has_no_voters(kind: OutcomeKind, call: Callable[..., CallFacts]) -> None:
    is_nobodys = kind in (OutcomeKind.CONNECT_FAILED, OutcomeKind.KEY_REFUSED, OutcomeKind.OTHER_MODEL)
    assert (voters_of(kind, call(user="ann"), STICK_BY, HI) == NOBODY) is is_nobodys


def test_long_prompts_that_differ_at_an_end_or_in_length_are_different_ones(call: Callable[..., CallFacts]) -> None:
    long = b"x" * 200_000
    same, *others = (marks(call, prompt) for prompt in (long, b"y" + long[1:], long[:-1] + b"y", long + b"x"))
    assert same == marks(call, long[:]) and len({same, *others}) == 4
