"""How a replica comes back from ejection: when a health probe is believed, who is held out, and how slowly it starts."""

from __future__ import annotations

import pytest

from policies.ejection import State
from tests.policies.replicas import back, ejected, healthy, probing, report, state_of, tripped


def test_a_health_probe_that_was_well_while_calls_failed_brings_nothing_forward() -> None:
    health = healthy()
    health.probe_succeeded(99.0)
    report(health, "xxxxx", 100.0)
    health.probe_succeeded(101.0)
    assert state_of(health) is State.EJECTED
    assert health.may_take(105.0), "its time is over"


def test_a_health_probe_that_was_well_is_believed_as_soon_as_it_sees_the_failure_too() -> None:
    health = healthy()
    health.probe_succeeded(99.0)
    report(health, "xxxxx", 100.0)
    health.probe_failed(101.0)
    health.probe_succeeded(102.0)
    assert state_of(health) is State.PROBING


def test_what_flaps_under_a_probe_that_is_always_well_stays_out_longer_each_time() -> None:
    """A 503 for every other call: the row never gets long, the share does. Without the rule above it is back with every probe."""
    health, now_s, lengths = healthy(), 100.0, []
    for _ in range(4):
        health.probe_succeeded(now_s)
        report(health, "x.x.x.x.xx", now_s)
        health.probe_succeeded(now_s + 1)
        lengths.append(health.ejected_until_s - now_s)
        now_s = health.ejected_until_s
        assert health.may_take(now_s)
        health.succeeded(now_s)
    assert lengths == [5, 10, 20, 40]


# -- held out --------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", State)
def test_who_is_held_out_comes_back_by_no_time_and_no_probe(state: State) -> None:
    health = {State.IN_ROTATION: healthy(), State.EJECTED: ejected(), State.PROBING: probing()}[state]
    health.hold_out(106.0, "it has no such model")
    assert (health.is_held_out, health.reason) == (True, "it has no such model")
    health.probe_failed(107.0)
    health.probe_succeeded(108.0)
    assert state_of(health) is State.EJECTED and not health.may_take(1e9)
    health.let_go(110.0, "it has the model again")
    assert not health.is_held_out and health.reason == "it has the model again"
    assert [health.may_take(110.0), health.may_take(110.0)] == [True, False]


def test_who_is_held_out_again_and_again_is_held_out_once() -> None:
    health = ejected(100.0)
    for now_s in (101.0, 102.0, 103.0):
        health.hold_out(now_s, "it has no such model")
    health.let_go(110.0, "it has the model again")
    assert health.may_take(110.0)
    health.failed(111.0)
    assert health.ejected_until_s == 131.0, "the third time out"


def test_the_call_that_probed_as_it_was_held_out_is_old_news() -> None:
    health = probing()
    health.hold_out(106.0, "it has no such model")
    for end in (health.succeeded, health.failed, health.abandon):
        end(107.0, began_s=105.0)
    assert health.is_held_out


def test_nobody_is_let_go_who_is_not_held_out() -> None:
    health = ejected(100.0)
    health.let_go(101.0, "a test")
    assert (health.ejected_until_s, health.is_held_out) == (105.0, False)


# -- slow start ------------------------------------------------------------------------------------


def test_a_replica_that_comes_back_is_ramped_up_for_as_long_as_it_was_out() -> None:
    health = back(tripped(100.0), 110.0)
    assert health.ramps_until_s == 120.0
    weights = [health.weight(now_s) for now_s in (110.0, 111.0, 112.0, 115.0, 119.0, 120.0, 1e6)]
    assert weights == pytest.approx([0.1, 0.1, 0.2, 0.5, 0.9, 1.0, 1.0])


def test_the_ramp_counts_all_the_time_out_however_often_a_probing_call_failed() -> None:
    health = tripped(100.0)
    assert health.may_take(105.0)
    health.failed(106.0)
    assert back(health, 125.0).ramps_until_s == 150.0
    assert back(tripped(100.0), 9_000.0).ramps_until_s == 9_030.0, "and has a longest"


def test_what_starts_or_was_only_kept_out_is_not_ramped() -> None:
    assert healthy().weight(0.0) == 1.0
    assert back(ejected(100.0), 300.0).weight(300.0) == 1.0
    held = healthy()
    held.hold_out(100.0, "a test")
    held.let_go(200.0, "a test")
    assert back(held, 200.0).weight(200.0) == 1.0


def test_a_ramp_ends_with_the_next_ejection_and_the_next_return_has_its_own() -> None:
    health = back(tripped(100.0), 130.0)
    report(health, "xxxxx", 131.0)
    assert health.ramps_until_s < 131.0
    assert back(health, 141.0).ramps_until_s == 151.0


def test_an_ejection_by_failures_is_forgotten_with_the_return_from_it() -> None:
    health = back(tripped(100.0), 110.0)
    health.keep_out(200.0, "a test")
    assert back(health, 260.0).weight(260.0) == 1.0
