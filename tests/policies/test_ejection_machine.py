"""Ejection under any history of calls, probes and pauses: a state machine compares it with a plain account of what happened."""

from __future__ import annotations

import random
from collections import Counter
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from policies.ejection import JITTER, NEXT, EjectionRules, ReplicaHealth, State
from policies.ramp import LEAST_WEIGHT, RAMP_S
from policies.votes import most_votes

WINDOW_S = 30.0
SHORTEST_S, LONGEST_S = 5.0, 60.0
PAUSES_S = (0.01, 1.0, 4.4, 5.6, 12.0, 31.0, 70.0)
VOTERS = (b"", b"", b"ann", b"ann", b"bob", b"eve")  # "": a failure that no call can cause


class End(NamedTuple):
    """A call's end as it was reported; a failure's voter is who may have caused it, "" where nobody could."""

    at_s: float
    is_well: bool
    voter: bytes


class Replica(RuleBasedStateMachine):
    """One replica, its calls in flight, and a log of every end that was reported to it while in rotation."""

    @initialize(in_a_row=st.integers(1, 6), share=st.sampled_from((0.1, 0.5, 1.0)), seed=st.integers(0, 99))
    def begin(self, in_a_row: int, share: float, seed: int) -> None:
        self.eject = EjectionRules(in_a_row, share, WINDOW_S, (SHORTEST_S, LONGEST_S))
        self.health = ReplicaHealth(self.eject, random.Random(seed))
        self.now_s = 1000.0
        self.ejected_at_s = -1.0
        self.in_flight: list[float] = []
        self.probing_since_s: float | None = None
        self.ends: list[End] = []
        self.is_probe_unwell = False
        self.tripped_at_s: float | None = None
        self.ramp = (0.0, 0.0)  # from, until

    @rule(seconds=st.sampled_from(PAUSES_S))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def send(self) -> None:
        before, was_due = self.health.state, self.health.is_due(self.now_s)
        taken = self.health.may_take(self.now_s)
        assert taken == (before is State.IN_ROTATION or was_due)
        if not taken:
            return
        if before is State.IN_ROTATION:
            self.in_flight.append(self.now_s)
            self.now_s += (
                0.001  # what begins in the instant of an ejection counts as later: better old news than a lost probe
            )
        else:
            assert self.probing_since_s is None, "two probing calls at once"
            assert self.health.state is State.PROBING
            self.probing_since_s = self.now_s

    @precondition(lambda self: self.in_flight)
    @rule(
        which=st.integers(0, 9),
        is_well=st.booleans(),
        may_eject=st.sampled_from((True, True, False)),
        voter=st.sampled_from(VOTERS),
    )
    def end_a_call(self, which: int, is_well: bool, may_eject: bool, voter: bytes) -> None:
        began_s = self.in_flight.pop(which % len(self.in_flight))
        before = self.health.state
        if began_s >= self.ejected_at_s and before is State.IN_ROTATION:
            self.ends.append(End(self.now_s, is_well, b"" if self.is_probe_unwell else voter))
        if is_well:
            self.health.succeeded(self.now_s, began_s=began_s)
            assert self.health.state is before
        else:
            self.health.failed(self.now_s, may_eject=may_eject, began_s=began_s, voters=(voter,) if voter else ())
            self.judge(before, may_eject)

    @rule(count=st.integers(2, 12), is_well=st.booleans(), voter=st.sampled_from(VOTERS))
    def many_calls(self, count: int, is_well: bool, voter: bytes) -> None:
        for _ in range(count):
            if self.health.state is State.IN_ROTATION:
                self.in_flight.append(self.now_s)
                self.end_a_call(len(self.in_flight) - 1, is_well, True, voter)

    def judge(self, before: State, may_eject: bool) -> None:
        """After a failure: out exactly if the account says so; the share only as exactly as its slices are."""
        is_out = before is State.IN_ROTATION and self.health.state is State.EJECTED
        if not is_out:
            assert self.health.state is before
        if before is not State.IN_ROTATION:
            return
        is_row = self.row() >= self.eject.consecutive_failures
        if is_out:
            assert may_eject
            assert is_row or self.is_share_reached(WINDOW_S) or self.is_share_reached(WINDOW_S * 5 / 6)
            voters = {end.voter for end in self.ends if not end.is_well}
            assert len(voters) > 1 or voters == {b""} or self.eject.consecutive_failures == 1, "one voter alone"
            self.tripped_at_s = self.now_s
            self.left()
        elif may_eject:
            assert not is_row
            # with nothing near the window's edge the slices are exact
            ages_s = [self.now_s - end.at_s for end in self.ends]
            is_exact = all(age_s < WINDOW_S * 5 / 6 or age_s > WINDOW_S for age_s in ages_s)
            if is_exact and not any(end.voter for end in self.ends if not end.is_well):
                assert not self.is_share_reached(WINDOW_S)

    def row(self) -> int:
        """Failures in a row up to now, of each voter no more than he has votes."""
        votes: Counter[bytes] = Counter()
        for end in reversed(self.ends):
            if end.is_well:
                break
            votes[end.voter] += 1
        most = most_votes(self.eject.consecutive_failures)
        return sum(min(count, most) if voter else count for voter, count in votes.items())

    def is_share_reached(self, window_s: float) -> bool:
        """Whether the share of failures within the last `window_s` is one to leave for, some call at its edge counted or not.

        All failures, although of one voter not all count: those that do are a smaller share of fewer calls.
        """
        recent = [end.is_well for end in self.ends if self.now_s - end.at_s <= window_s]
        edge = sum(WINDOW_S * 5 / 6 <= self.now_s - end.at_s <= WINDOW_S for end in self.ends)
        failures = recent.count(False)
        return len(recent) + edge >= self.eject.min_calls and failures + edge >= self.eject.failure_share * len(recent)

    def left(self) -> None:
        """The replica has left the rotation, or must stay out."""
        self.ejected_at_s = self.now_s
        self.ends.clear()
        self.probing_since_s = None
        self.ramp = (0.0, 0.0)
        if self.health.is_held_out:
            return
        out_s = self.health.ejected_until_s - self.now_s
        assert SHORTEST_S * (1 - JITTER) - 1e-6 <= out_s <= LONGEST_S * (1 + JITTER) + 1e-6
        assert self.health.reason

    @precondition(lambda self: self.probing_since_s is not None)
    @rule(verdict=st.sampled_from(("well", "failed", "gone")))
    def end_the_probing_call(self, verdict: str) -> None:
        began_s = self.probing_since_s
        self.probing_since_s = None
        if verdict == "well":
            self.health.succeeded(self.now_s, began_s=began_s)
            assert self.health.state is State.IN_ROTATION
            if self.tripped_at_s is not None:
                self.ramp = (self.now_s, self.now_s + min(RAMP_S, self.now_s - self.tripped_at_s))
            self.tripped_at_s = None
        elif verdict == "failed":
            self.health.failed(self.now_s, began_s=began_s)
            assert self.health.state is State.EJECTED
            self.left()
        else:
            self.health.abandon(self.now_s, began_s=began_s)
            assert self.health.state is State.PROBING

    @rule()
    def probe_is_well(self) -> None:
        before, was_held = self.health.state, self.health.is_held_out
        self.is_probe_unwell = False
        self.health.probe_succeeded(self.now_s)
        assert self.health.is_held_out is was_held
        assert self.health.state in ({before, State.PROBING} if before is State.EJECTED else {before})

    @rule()
    def probe_is_not(self) -> None:
        before = self.health.state
        self.is_probe_unwell = True
        self.health.probe_failed(self.now_s)
        assert self.health.state is before

    @rule()
    def keep_out(self) -> None:
        was_in = self.health.state is State.IN_ROTATION
        self.health.keep_out(self.now_s, "not there yet")
        if was_in:
            self.left()

    @rule()
    def hold_out(self) -> None:
        self.health.hold_out(self.now_s, "it does not have the model")
        assert self.health.is_held_out
        self.left()

    @rule()
    def let_go(self) -> None:
        was_held, before = self.health.is_held_out, self.health.state
        self.health.let_go(self.now_s, "it has the model again")
        assert self.health.state is before
        assert not was_held or self.health.is_due(self.now_s)

    @invariant()
    def the_ramp_goes_up_after_an_ejection_by_failures_and_only_then(self) -> None:
        began_s, ends_s = self.ramp
        expected = 1.0 if self.now_s >= ends_s else max(LEAST_WEIGHT, (self.now_s - began_s) / (ends_s - began_s))
        assert abs(self.health.weight(self.now_s) - expected) < 1e-9
        if self.health.state is State.IN_ROTATION:
            assert self.health.ramps_until_s <= max(ends_s, self.now_s)

    @invariant()
    def nobody_is_out_for_ever(self) -> None:
        latest_s = self.now_s + LONGEST_S * (1 + JITTER) + 1e-6
        assert (
            self.health.state is State.IN_ROTATION
            or self.probing_since_s is not None
            or self.health.is_held_out
            or self.health.is_due(latest_s)
        )

    @invariant()
    def asking_changes_nothing(self) -> None:
        before = (self.health.state, self.health.reason, self.health.ejected_until_s)
        self.health.is_due(self.now_s)
        assert (self.health.state, self.health.reason, self.health.ejected_until_s) == before
        assert any(self.health.state is state for state, _ in NEXT)


Replica.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestReplica = Replica.TestCase
