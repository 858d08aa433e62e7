"""What follows a failed attempt: every row of the module's table, and what no history may do."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.budget import RetryBudget
from policies.outcome import OUTCOMES, Outcome, OutcomeKind
from policies.retry import (
    MIN_USEFUL_S,
    Action,
    Chance,
    NextStep,
    RetryReason,
    RetryRules,
    Standing,
    backoff_s,
    next_step,
)

RULES = RetryRules(attempts_per_backend=2, backoff_s=(0.1, 2.0), retry_after_wait_s=1.0)
K = OutcomeKind


def refused(retry_after_s: float | None) -> Outcome:
    """A refusal that asks for this wait."""
    return replace(OUTCOMES[K.REFUSED], retry_after_s=retry_after_s)


def full() -> RetryBudget:
    """A budget that has enough."""
    return RetryBudget(0.2, 3, 0.0)


def empty() -> RetryBudget:
    """A budget that has nothing."""
    return RetryBudget(0, 0, 0.0)


def decide(
    outcome: Outcome, standing: Standing, rules: RetryRules = RULES, budget: RetryBudget | None = None
) -> NextStep:
    """The next step, with a full budget unless another is given."""
    return next_step(outcome, standing, rules, budget or full(), Chance(0.0, random.Random(0)))


FIRST = Standing(attempts_here=1, has_next=True, remaining_s=60.0)
LAST = Standing(attempts_here=1, has_next=False, remaining_s=60.0)
TWICE = replace(FIRST, attempts_here=2)
LAST_TWICE = replace(LAST, attempts_here=2)

RETRY, MOVE, STOP = Action.RETRY, Action.MOVE, Action.STOP
R = RetryReason
AT_ONCE = (MOVE, R.NEXT_BACKEND)
NOBODY = (STOP, R.NO_BACKEND_LEFT)
AGAIN = (RETRY, R.SAME_BACKEND)
OVER = (STOP, R.NOT_RETRYABLE)

# For each kind: after the first attempt and after the second, with a next backend and without one.
TABLE: dict[OutcomeKind, tuple[tuple[Action, RetryReason], ...]] = {
    K.OK: (OVER, OVER, OVER, OVER),
    K.REJECTED: (OVER, OVER, OVER, OVER),
    K.STREAM_BROKEN: (OVER, OVER, OVER, OVER),
    K.OTHER_MODEL: (OVER, OVER, OVER, OVER),
    K.DIVERGED: (OVER, OVER, OVER, OVER),
    K.OUTRUN: (OVER, OVER, OVER, OVER),
    K.CLIENT_GONE: (OVER, OVER, OVER, OVER),
    K.DEADLINE: (OVER, OVER, OVER, OVER),
    K.FAILED: (AGAIN, AT_ONCE, AGAIN, NOBODY),
    K.CONNECT_FAILED: (AT_ONCE, AT_ONCE, NOBODY, NOBODY),
    K.PROTOCOL_BROKEN: (AT_ONCE, AT_ONCE, AGAIN, NOBODY),
    K.NOT_ACCEPTED: (AT_ONCE, AT_ONCE, AGAIN, NOBODY),
    K.REFUSED: (AT_ONCE, AT_ONCE, NOBODY, NOBODY),
    K.FIRST_TOKEN_TIMEOUT: (AT_ONCE, AT_ONCE, NOBODY, NOBODY),
    K.ANSWER_TIMEOUT: (AT_ONCE, AT_ONCE, NOBODY, NOBODY),
    K.NOT_SERVED: (AT_ONCE, AT_ONCE, NOBODY, NOBODY),
    K.ROUTE_MISSING: (AT_ONCE, AT_ONCE, NOBODY, NOBODY),
    K.NEED_MISSING: (AT_ONCE, AT_ONCE, NOBODY, NOBODY),
    K.KEY_REFUSED: (AT_ONCE, AT_ONCE, NOBODY, NOBODY),
    K.OVERFLOW: (AT_ONCE, AT_ONCE, NOBODY, NOBODY),
}


@pytest.mark.parametrize("kind", OutcomeKind)
def test_every_kind_of_outcome_has_its_next_steps(kind: OutcomeKind) -> None:
    steps = [decide(OUTCOMES[kind], standing) for standing in (FIRST, TWICE, LAST, LAST_TWICE)]
    assert tuple((step.action, step.reason) for step in steps) == TABLE[kind]
    assert all(step.wait_s == 0 for step in steps if step.action is not RETRY)


WAITED = replace(FIRST, waited_retry_after=True)
SHORT = replace(FIRST, remaining_s=1.5)
CASES: list[tuple[str, Outcome, Standing, NextStep]] = [
    ("a short retry-after -> waited out exactly", refused(0.7), FIRST, NextStep(RETRY, 0.7, R.RETRY_AFTER)),
    ("the longest that is obeyed -> waited out", refused(1.0), FIRST, NextStep(RETRY, 1.0, R.RETRY_AFTER)),
    ("come back at once -> at once", refused(0.0), FIRST, NextStep(RETRY, 0.0, R.RETRY_AFTER)),
    ("a time in the past -> at once", refused(-3.0), FIRST, NextStep(RETRY, 0.0, R.RETRY_AFTER)),
    ("a long retry-after -> on", refused(1.1), FIRST, NextStep(MOVE, 0.0, R.NEXT_BACKEND)),
    ("a short one for the last backend -> waited out", refused(0.7), LAST, NextStep(RETRY, 0.7, R.RETRY_AFTER)),
    ("a long one from the last backend -> no further", refused(1.1), LAST, NextStep(STOP, 0.0, R.NO_BACKEND_LEFT)),
    ("a second short one -> on", refused(0.7), WAITED, NextStep(MOVE, 0.0, R.NEXT_BACKEND)),
    ("a short one after the last attempt here -> on", refused(0.7), TWICE, NextStep(MOVE, 0.0, R.NEXT_BACKEND)),
    ("no time to wait it out -> on", refused(0.7), SHORT, NextStep(MOVE, 0.0, R.NEXT_BACKEND)),
    (
        "no time to wait it out and nobody left -> no further",
        refused(0.7),
        replace(SHORT, has_next=False),
        NextStep(STOP, 0.0, R.NO_TIME_LEFT),
    ),
    (
        "hardly any time, but a next backend -> no further",
        OUTCOMES[K.CONNECT_FAILED],
        replace(FIRST, remaining_s=0.99),
        NextStep(STOP, 0.0, R.NO_TIME_LEFT),
    ),
    (
        "just enough time for the next backend -> on",
        OUTCOMES[K.CONNECT_FAILED],
        replace(FIRST, remaining_s=MIN_USEFUL_S),
        NextStep(MOVE, 0.0, R.NEXT_BACKEND),
    ),
    (
        "the deadline has passed -> no further",
        OUTCOMES[K.FAILED],
        replace(FIRST, remaining_s=-1.0),
        NextStep(STOP, 0.0, R.NO_TIME_LEFT),
    ),
]


@pytest.mark.parametrize(("outcome", "standing", "step"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_step_and_its_wait(outcome: Outcome, standing: Standing, step: NextStep) -> None:
    assert decide(outcome, standing) == step


@pytest.mark.parametrize("kind", [K.FAILED, K.REFUSED], ids=str)
@pytest.mark.parametrize(
    ("standing", "action"), [(FIRST, MOVE), (LAST, STOP)], ids=["a next backend -> on", "nobody left -> stop"]
)
def test_an_empty_budget_never_tries_again_here(kind: OutcomeKind, standing: Standing, action: Action) -> None:
    outcome = replace(OUTCOMES[kind], retry_after_s=0.5 if kind is K.REFUSED else None)
    assert decide(outcome, standing, budget=empty()) == NextStep(action, 0.0, R.BUDGET_EMPTY)


@pytest.mark.parametrize("kind", [kind for kind in OutcomeKind if OUTCOMES[kind].retryable], ids=str)
def test_moving_on_is_free_and_trying_again_is_not(kind: OutcomeKind) -> None:
    budget = RetryBudget(1, 0, 0.0)
    budget.deposit(0.0)  # for one try
    step = decide(OUTCOMES[kind], FIRST, budget=budget)
    assert budget.withdraw(0.0) is (step.action is MOVE)


def test_one_attempt_on_each_backend_means_one() -> None:
    once = replace(RULES, attempts_per_backend=1)
    for outcome in (OUTCOMES[K.FAILED], OUTCOMES[K.CONNECT_FAILED], refused(0.5)):
        assert decide(outcome, FIRST, once).action is MOVE
        assert decide(outcome, LAST, once).action is STOP


def test_an_answer_that_is_not_accepted_is_asked_for_once_more_however_many_attempts_there_are() -> None:
    thrice = replace(RULES, attempts_per_backend=5)
    assert decide(OUTCOMES[K.NOT_ACCEPTED], LAST, thrice).action is RETRY
    assert decide(OUTCOMES[K.NOT_ACCEPTED], LAST_TWICE, thrice).action is STOP


def test_pauses_are_fully_jittered_and_double_up_to_the_cap() -> None:
    rng = random.Random(3)
    for retries, longest_s in enumerate((0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0)):
        pauses = [backoff_s(retries, RULES, rng) for _ in range(300)]
        assert 0 <= min(pauses) < 0.05 * longest_s
        assert 0.95 * longest_s < max(pauses) <= longest_s


def test_very_many_retries_do_not_overflow() -> None:
    assert backoff_s(100_000, RULES, random.Random(0)) <= 2.0


outcomes = st.builds(
    lambda kind, wait_s: replace(OUTCOMES[kind], retry_after_s=wait_s),
    st.sampled_from(OutcomeKind),
    st.none() | st.floats(0, 5),
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(outcomes, min_size=1, max_size=20), st.integers(1, 4), st.integers(1, 4), st.floats(0.5, 30), st.booleans()
)
def test_every_ladder_ends_within_its_bounds(
    history: list[Outcome], backends: int, attempts: int, total_s: float, is_poor: bool
) -> None:
    rules = replace(RULES, attempts_per_backend=attempts)
    budget = RetryBudget(0, 0.1 if is_poor else 3, 0.0)  # a tenth a second is one try a window
    rng = random.Random(1)
    at, here, made, retries, now_s, waited = 0, 1, 1, 0, 0.0, False
    for outcome in history:
        standing = Standing(here, at + 1 < backends, total_s - now_s, waited)
        step = next_step(outcome, standing, rules, budget, Chance(now_s, rng))
        if step.action is STOP:
            break
        now_s += step.wait_s
        assert total_s - now_s >= MIN_USEFUL_S
        made += 1
        if step.action is MOVE:
            assert step.wait_s == 0
            at, here, waited = at + 1, 1, False
        else:
            here, retries = here + 1, retries + 1
            waited = waited or step.reason is R.RETRY_AFTER
        assert at < backends
        assert here <= attempts
    assert made <= backends * attempts
    assert retries <= 0.1 * (now_s + 10) if is_poor else True
