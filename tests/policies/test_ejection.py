"""Ejection: the table of states, what takes a replica out, how long, and how it comes back."""

from __future__ import annotations

import random

import pytest

from policies.ejection import JITTER, NEXT, EjectionRules, Event, ReplicaHealth, State, may_eject
from tests.policies.replicas import RULES, ejected, healthy, probing, report, state_of


def test_every_state_can_be_reached_and_left() -> None:
    assert {state for state, _ in NEXT} == set(State)
    assert set(NEXT.values()) == set(State)
    assert {event for _, event in NEXT} == set(Event)


# calls in their order -> whether the replica is out after the last of them, and not before
TRIPS = [
    ("five in a row -> out", "xxxxx", "5 failures in a row"),
    ("four in a row -> stays", "xxxx", ""),
    ("a success between -> counts from the start", "xxxx.xxxx", ""),
    ("five in a row after successes -> out", "....xxxxx", "5 failures in a row"),
    ("half of ten -> out", "x.x.x.x..x", "5 of 10 calls within 30 s failed"),
    ("half of nine calls -> too few to say", "x.x.x..xx", ""),
    ("four of ten -> stays", "x.x.x..x..", ""),
    ("a share is judged at failures only", "xxx.xxx...", ""),
    ("two thirds of many -> out at the tenth", "xx.xx.xx.x", "7 of 10 calls within 30 s failed"),
]


@pytest.mark.parametrize(("history", "reason"), [case[1:] for case in TRIPS], ids=[case[0] for case in TRIPS])
def test_what_takes_a_replica_out(history: str, reason: str) -> None:
    health = healthy()
    report(health, history[:-1])
    assert state_of(health) is State.IN_ROTATION
    report(health, history[-1])
    assert health.reason == reason
    assert state_of(health) is (State.EJECTED if reason else State.IN_ROTATION)


def test_failures_older_than_the_window_are_forgotten() -> None:
    health = healthy()
    report(health, "x.x.x.x.", now_s=2.0)
    report(health, ".x", now_s=33.0)
    assert state_of(health) is State.IN_ROTATION


def test_successes_older_than_the_window_are_forgotten() -> None:
    health = healthy()
    report(health, "." * 100, now_s=2.0)
    report(health, ".x.x.x.x.x", now_s=33.0)
    assert state_of(health) is State.EJECTED


def test_failures_within_the_window_add_up_over_its_slices() -> None:
    health = healthy()
    for second in (2, 7, 12, 17, 22):
        report(health, ".x", now_s=float(second))
    assert state_of(health) is State.EJECTED


def test_the_minimum_of_calls_can_be_set() -> None:
    health = healthy(EjectionRules(5, 0.5, 30.0, (5.0, 300.0), min_calls=2))
    report(health, ".x")
    assert state_of(health) is State.EJECTED


def test_the_last_one_stays_but_is_ejected_as_soon_as_it_may_go() -> None:
    health = healthy()
    for _ in range(20):
        health.failed(1.0, may_eject=False)
    assert state_of(health) is State.IN_ROTATION
    health.failed(1.0)
    assert state_of(health) is State.EJECTED
    assert health.reason == "21 failures in a row"


def test_an_ejected_replica_takes_nothing_until_its_time_is_over_and_then_one_call() -> None:
    health = ejected(100.0)
    assert health.ejected_until_s == 105.0
    assert [health.is_due(now_s) for now_s in (100.0, 104.9, 105.0)] == [False, False, True]
    assert [health.may_take(now_s) for now_s in (100.0, 104.9, 105.0, 105.0, 400.0)] == [
        False,
        False,
        True,
        False,
        False,
    ]
    assert state_of(health) is State.PROBING


def test_a_success_brings_it_back() -> None:
    health = probing()
    health.succeeded(106.0)
    assert (health.state, health.reason) == (State.IN_ROTATION, "a probing call succeeded")
    assert health.may_take(106.0)
    assert health.may_take(106.0)


def test_a_failure_sends_it_out_for_twice_as_long() -> None:
    health = probing()
    health.failed(106.0, may_eject=False)  # it is out already: nobody is asked
    assert (health.state, health.reason) == (State.EJECTED, "the probing call failed")
    assert health.ejected_until_s == 116.0


def test_a_probing_call_without_a_verdict_gives_its_turn_back() -> None:
    health = probing()
    health.abandon(106.0)
    assert state_of(health) is State.PROBING
    assert [health.may_take(106.0), health.may_take(106.0)] == [True, False]


def test_each_further_time_is_twice_as_long_up_to_the_longest() -> None:
    health, now_s, lengths = ejected(0.0), 0.0, []
    for _ in range(9):
        lengths.append(health.ejected_until_s - now_s)
        now_s = health.ejected_until_s
        assert health.may_take(now_s)
        health.failed(now_s)
    assert lengths == [5, 10, 20, 40, 80, 160, 300, 300, 300]


@pytest.mark.parametrize(
    ("calm_s", "length_s"),
    [(0.0, 40.0), (29.0, 40.0), (30.0, 20.0), (60.0, 10.0), (90.0, 5.0), (100_000.0, 5.0)],
    ids=lambda value: f"{value:g} s",
)
def test_each_calm_window_takes_one_doubling_back(calm_s: float, length_s: float) -> None:
    health, now_s = ejected(0.0), 0.0
    for _ in range(2):  # 5, 10, 20 s: the next would be 40
        now_s = health.ejected_until_s
        assert health.may_take(now_s)
        health.failed(now_s)
    now_s = health.ejected_until_s
    assert health.may_take(now_s)
    health.succeeded(now_s)
    health.keep_out(now_s + calm_s, "again")
    assert health.ejected_until_s - now_s - calm_s == pytest.approx(length_s)


def test_the_time_out_is_spread_so_that_replicas_do_not_come_back_in_step() -> None:
    rng = random.Random(2)
    lengths = []
    for _ in range(300):
        health = ReplicaHealth(RULES, rng)
        health.keep_out(0.0, "a test")
        lengths.append(health.ejected_until_s)
    assert 5 * (1 - JITTER) <= min(lengths) < 4.6
    assert 5.4 < max(lengths) <= 5 * (1 + JITTER)


def test_a_replica_that_comes_back_starts_with_a_clean_window() -> None:
    health = healthy()
    report(health, ".........xxxxx", now_s=1.0)
    assert health.may_take(6.0)
    health.succeeded(6.0)
    report(health, "xxxx", now_s=6.0)
    assert state_of(health) is State.IN_ROTATION


def test_a_health_probe_brings_the_probing_call_forward() -> None:
    health = ejected(100.0)
    health.probe_succeeded(101.0)
    assert (health.state, health.reason) == (State.PROBING, "its health probe is well")
    assert health.is_due(101.0)
    assert [health.may_take(101.0), health.may_take(101.0)] == [True, False]


def test_a_health_probe_that_misled_is_not_believed_until_it_sees_a_failure() -> None:
    health = ejected(100.0)
    health.probe_succeeded(101.0)
    assert health.may_take(101.0)
    health.failed(102.0)
    health.probe_succeeded(103.0)
    assert state_of(health) is State.EJECTED
    health.probe_failed(104.0)
    health.probe_succeeded(105.0)
    assert state_of(health) is State.PROBING


def test_a_health_probe_that_misled_is_believed_again_after_a_recovery() -> None:
    health = ejected(100.0)
    health.probe_succeeded(101.0)
    assert health.may_take(101.0)
    health.failed(102.0)
    assert health.may_take(112.0)
    health.succeeded(113.0)
    health.keep_out(114.0, "again")
    health.probe_succeeded(115.0)
    assert state_of(health) is State.PROBING


def test_a_failure_after_time_alone_does_not_discredit_the_health_probe() -> None:
    health = probing()
    health.failed(106.0)
    health.probe_succeeded(107.0)
    assert state_of(health) is State.PROBING


@pytest.mark.parametrize("state", State)
def test_a_health_probe_alone_puts_nothing_into_rotation(state: State) -> None:
    health = {State.IN_ROTATION: healthy(), State.EJECTED: ejected(), State.PROBING: probing()}[state]
    health.probe_succeeded(105.0)
    assert state_of(health) is (State.IN_ROTATION if state is State.IN_ROTATION else State.PROBING)
    health.probe_failed(105.0)
    assert state_of(health) is (State.IN_ROTATION if state is State.IN_ROTATION else State.PROBING)


@pytest.mark.parametrize("state", [State.EJECTED, State.PROBING])
def test_who_is_out_is_not_kept_out_twice(state: State) -> None:
    health = ejected() if state is State.EJECTED else probing()
    until_s, reason = health.ejected_until_s, health.reason
    health.keep_out(106.0, "again")
    assert (health.state, health.ejected_until_s, health.reason) == (state, until_s, reason)


def test_calls_that_end_while_it_is_ejected_change_nothing() -> None:
    health = ejected(100.0)
    for end in (health.succeeded, health.failed, health.abandon):
        end(101.0)
    assert (health.state, health.ejected_until_s) == (State.EJECTED, 105.0)


def test_news_of_calls_from_before_the_ejection_is_too_old() -> None:
    health = probing()  # ejected at 100
    health.succeeded(106.0, began_s=99.0)
    assert state_of(health) is State.PROBING
    health.failed(106.0, began_s=99.0)
    assert state_of(health) is State.PROBING
    health.abandon(106.0, began_s=99.0)
    assert not health.may_take(106.0)
    health.succeeded(106.0, began_s=105.0)
    assert state_of(health) is State.IN_ROTATION
    for _ in range(20):
        health.failed(107.0, began_s=99.0)
    assert state_of(health) is State.IN_ROTATION


def test_a_failure_that_is_not_the_probing_calls_is_no_verdict() -> None:
    health = ejected(100.0)
    health.probe_succeeded(101.0)
    health.failed(102.0)
    assert state_of(health) is State.PROBING


MAY_EJECT = [
    ("a single replica -> never", 1, 1, 0.5, False),
    ("one of two -> yes", 2, 2, 0.5, True),
    ("the other of two -> never", 1, 2, 0.5, False),
    ("the other of two, all may go -> never the last", 1, 2, 1.0, False),
    ("one of three -> yes", 3, 3, 0.5, True),
    ("a second of three -> no", 2, 3, 0.5, False),
    ("a second of four -> yes", 3, 4, 0.5, True),
    ("a third of four -> no", 2, 4, 0.5, False),
    ("a third of four, all may go -> yes", 2, 4, 1.0, True),
    ("a tenth of four -> one all the same", 4, 4, 0.1, True),
    ("a tenth of four, one is out -> no", 3, 4, 0.1, False),
    ("a share of nothing -> never", 4, 4, 0.0, False),
    ("29 of a hundred are 29", 72, 100, 0.29, True),
    ("29 of a hundred are no more", 71, 100, 0.29, False),
    ("nobody is left -> never", 0, 3, 1.0, False),
]


@pytest.mark.parametrize(
    ("in_rotation", "total", "share", "expected"), [case[1:] for case in MAY_EJECT], ids=[case[0] for case in MAY_EJECT]
)
def test_how_many_may_leave(in_rotation: int, total: int, share: float, expected: bool) -> None:
    assert may_eject(in_rotation, total, share) is expected
