"""Ejection under any history of calls, probes and pauses: a state machine compares it with a plain account of what happened."""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from policies.ejection import JITTER, NEXT, EjectionRules, ReplicaHealth, State

WINDOW_S = 30.0
SHORTEST_S, LONGEST_S = 5.0, 60.0
PAUSES_S = (0.01, 1.0, 4.4, 5.6, 12.0, 31.0, 70.0)


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
        self.ends: list[tuple[float, bool]] = []

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
    @rule(which=st.integers(0, 9), is_well=st.booleans(), may_eject=st.sampled_from((True, True, False)))
    def end_a_call(self, which: int, is_well: bool, may_eject: bool) -> None:
        began_s = self.in_flight.pop(which % len(self.in_flight))
        before = self.health.state
        if began_s >= self.ejected_at_s and before is State.IN_ROTATION:
            self.ends.append((self.now_s, is_well))
        if is_well:
            self.health.succeeded(self.now_s, began_s=began_s)
            assert self.health.state is before
        else:
            self.health.failed(self.now_s, may_eject=may_eject, began_s=began_s)
            self.judge(before, may_eject)

    @rule(count=st.integers(2, 12), is_well=st.booleans())
    def many_calls(self, count: int, is_well: bool) -> None:
        for _ in range(count):
            if self.health.state is State.IN_ROTATION:
                self.in_flight.append(self.now_s)
                self.end_a_call(len(self.in_flight) - 1, is_well, True)

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
            self.left()
        elif may_eject:
            assert not is_row
            # with nothing near the window's edge the slices are exact
            if all(self.now_s - at_s < WINDOW_S * 5 / 6 or self.now_s - at_s > WINDOW_S for at_s, _ in self.ends):
                assert not self.is_share_reached(WINDOW_S)

    def row(self) -> int:
        """Failures in a row up to now."""
        count = 0
        for _, is_well in reversed(self.ends):
            if is_well:
                break
            count += 1
        return count

    def is_share_reached(self, window_s: float) -> bool:
        """Whether the share of failures within the last `window_s` is one to leave for, some call at its edge counted or not."""
        recent = [is_well for at_s, is_well in self.ends if self.now_s - at_s <= window_s]
        edge = sum(WINDOW_S * 5 / 6 <= self.now_s - at_s <= WINDOW_S for at_s, _ in self.ends)
        failures = recent.count(False)
        return len(recent) + edge >= self.eject.min_calls and failures + edge >= self.eject.failure_share * len(recent)

    def left(self) -> None:
        """The replica has left the rotation, or must stay out."""
        self.ejected_at_s = self.now_s
        self.ends.clear()
        self.probing_since_s = None
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
        elif verdict == "failed":
            self.health.failed(self.now_s, began_s=began_s)
            assert self.health.state is State.EJECTED
            self.left()
        else:
            self.health.abandon(self.now_s, began_s=began_s)
            assert self.health.state is State.PROBING

    @rule()
    def probe_is_well(self) -> None:
        before = self.health.state
        self.health.probe_succeeded(self.now_s)
        assert self.health.state in ({before, State.PROBING} if before is State.EJECTED else {before})

    @rule()
    def probe_is_not(self) -> None:
        before = self.health.state
        self.health.probe_failed(self.now_s)
        assert self.health.state is before

    @rule()
    def keep_out(self) -> None:
        was_in = self.health.state is State.IN_ROTATION
        self.health.keep_out(self.now_s, "not there yet")
        if was_in:
            self.left()

    @invariant()
    def nobody_is_out_for_ever(self) -> None:
        latest_s = self.now_s + LONGEST_S * (1 + JITTER) + 1e-6
        assert (
            self.health.state is State.IN_ROTATION or self.probing_since_s is not None or self.health.is_due(latest_s)
        )

    @invariant()
    def asking_changes_nothing(self) -> None:
        before = (self.health.state, self.health.reason, self.health.ejected_until_s)
        self.health.is_due(self.now_s)
        assert (self.health.state, self.health.reason, self.health.ejected_until_s) == before
        assert any(self.health.state is state for state, _ in NEXT)


Replica.TestCase.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
TestReplica = Replica.TestCase
