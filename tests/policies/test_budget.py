"""The retry budget: what it allows, and that it never allows more."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from policies.budget import WINDOW_S, RetryBudget


def spend(budget: RetryBudget, now_s: float) -> int:
    """Withdraw until nothing is left; how often that went."""
    taken = 0
    while budget.withdraw(now_s):
        taken += 1
    return taken


# ratio, min_per_s, [(calls, at second)], then all is spent at a second -> tries
HISTORIES: list[tuple[str, float, float, list[tuple[int, float]], float, int]] = [
    ("nothing has happened -> the floor of one window", 0.2, 3, [], 0.0, 30),
    ("no floor, no calls -> nothing", 0.2, 0, [], 0.0, 0),
    ("no floor, five calls at a fifth -> exactly one", 0.2, 0, [(5, 1.0)], 1.0, 1),
    ("no floor, four calls at a fifth -> none", 0.2, 0, [(4, 1.0)], 1.0, 0),
    ("ten calls at a tenth -> exactly one", 0.1, 0, [(10, 1.0)], 1.0, 1),
    ("ten calls at three tenths -> exactly three", 0.3, 0, [(10, 1.0)], 1.0, 3),
    ("a thousand calls at seven thousandths -> exactly seven", 0.007, 0, [(1000, 1.0)], 1.0, 7),
    ("a ratio above one -> more tries than calls", 1.5, 0, [(10, 1.0)], 1.0, 15),
    ("a ratio of nothing -> the floor alone", 0, 2, [(1000, 1.0)], 1.0, 20),
    ("calls within the window -> all of their tries", 0.2, 0, [(5, 1.5), (5, 5.5), (5, 10.5)], 10.5, 3),
    ("calls before the window -> lost", 0.2, 0, [(500, 1.5), (5, 11.5)], 11.5, 1),
    ("an hour of calm -> no more than a window of it", 0.2, 3, [(1, 0.0)], 3600.0, 30),
    ("an hour of calls -> no more than a window of them", 0.1, 0, [(10, float(s)) for s in range(3600)], 3599.0, 10),
    ("time runs backwards -> nothing is lost, nothing is gained", 0.2, 0, [(5, 9.0), (5, 3.0)], 3.0, 2),
    ("halves add up over slices", 0.5, 0, [(1, 1.0), (1, 2.0), (1, 3.0)], 3.0, 1),
    ("a clock that starts late", 0.2, 1, [(5, 1e9)], 1e9, 11),
]


@pytest.mark.parametrize(
    ("ratio", "min_per_s", "calls", "now_s", "tries"), [case[1:] for case in HISTORIES], ids=[h[0] for h in HISTORIES]
)
def test_what_a_history_leaves(
    ratio: float, min_per_s: float, calls: list[tuple[int, float]], now_s: float, tries: int
) -> None:
    budget = RetryBudget(ratio, min_per_s)
    for count, at_s in calls:
        for _ in range(count):
            budget.deposit(at_s)
    assert spend(budget, now_s) == tries


def test_a_spent_floor_fills_up_again_with_time() -> None:
    budget = RetryBudget(0.2, 3, 100.0)
    assert spend(budget, 100.0) == 30
    assert [spend(budget, 100.0 + s) for s in (0.3, 0.4, 1.1, 4.1, 100.0)] == [0, 1, 2, 9, 30]


def test_the_worked_numbers_of_the_module_are_right() -> None:
    budget = RetryBudget(0.2, 3, 0.0)
    spend(budget, 0.0)
    tries = 0
    for i in range(100 * 60):
        now_s = i / 100
        budget.deposit(now_s)
        tries += budget.withdraw(now_s)  # every call fails and asks for one more try
    assert 23 * 60 - 3 <= tries <= 23 * 60


def test_what_expires_first_is_spent_first() -> None:
    budget = RetryBudget(1, 0, 0.0)
    budget.deposit(0.5)
    budget.deposit(9.5)
    assert budget.withdraw(9.5)
    assert budget.withdraw(10.5)  # the newer one is still there when the older one would have been lost


@pytest.mark.parametrize(
    ("ratio", "min_per_s"), [(-0.1, 3), (0.2, -3), (float("nan"), 1), (0.2, float("inf"))], ids=str
)
def test_an_impossible_budget_is_refused(ratio: float, min_per_s: float) -> None:
    with pytest.raises(ValueError):
        RetryBudget(ratio, min_per_s)


@settings(max_examples=40)
@given(st.integers(0, 300), st.integers(1, 400))
def test_no_try_that_is_due_is_withheld(thousandths: int, calls: int) -> None:
    budget = RetryBudget(thousandths / 1000, 0)
    for _ in range(calls):
        budget.deposit(1.0)
    assert spend(budget, 1.0) == thousandths * calls // 1000


class Budgets(RuleBasedStateMachine):
    """Any history of calls, tries and pauses. Counted in integers: thousandths of a try, milliseconds."""

    @initialize(ratio=st.integers(0, 1500), min_per_s=st.integers(0, 5000), start_ms=st.integers(0, 10**9))
    def begin(self, ratio: int, min_per_s: int, start_ms: int) -> None:
        self.ratio, self.min_per_s = ratio, min_per_s
        self.start_ms = self.now_ms = start_ms
        self.budget = RetryBudget(ratio / 1000, min_per_s / 1000)
        self.calls: list[int] = []
        self.tries: list[int] = []

    @rule(count=st.integers(1, 30))
    def call(self, count: int) -> None:
        for _ in range(count):
            self.budget.deposit(self.now_ms / 1000)
            self.calls.append(self.now_ms)

    @rule(count=st.integers(1, 30))
    def ask(self, count: int) -> None:
        for _ in range(count):
            if self.budget.withdraw(self.now_ms / 1000):
                self.tries.append(self.now_ms)

    @rule(ms=st.sampled_from((1, 40, 999, 1000, 3000, 9999, 10_000, 60_000, 3_600_000)))
    def wait(self, ms: int) -> None:
        self.now_ms += ms

    @invariant()
    def never_more_than_the_bound(self) -> None:
        allowed = self.ratio * len(self.calls) * 1000 + self.min_per_s * (self.now_ms - self.start_ms + WINDOW_S * 1000)
        assert len(self.tries) * 1000 * 1000 <= allowed

    @invariant()
    def calm_saves_nothing_up(self) -> None:
        second_ms = 1000
        recent = sum(self.now_ms - at < second_ms for at in self.tries)
        calls = sum(self.now_ms - at < (WINDOW_S + 1) * second_ms for at in self.calls)
        assert recent * 1000 * 1000 <= self.ratio * calls * 1000 + self.min_per_s * (WINDOW_S + 1) * second_ms


Budgets.TestCase.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
TestBudgets = Budgets.TestCase
