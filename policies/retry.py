"""After an attempt that failed: again here, on to the next backend, or no further; with the wait and the reason.

| what happened                            | what follows, in this order                                             |
| ---------------------------------------- | ----------------------------------------------------------------------- |
| failed: a 5xx before any content         | again here after a jittered pause, up to `attempts_per_backend`; on     |
| refused, with a short `retry-after`      | waited out once, exactly, here; on                                      |
| refused, without or with a longer one    | on; with nobody left, no further: the client gets the wait to obey      |
| no connection                            | on at once; with nobody left, no further: the client hears it at once   |
| a broken protocol                        | on at once; with nobody left, again here after a jittered pause         |
| an answer that is not accepted           | on at once; with nobody left, once more here after a jittered pause     |
| a timeout, a wrong key, a missing model  | on at once; never again here: it was expensive, or it will not change   |
| a prompt that is too long                | on at once: the next backend may take more                              |
| the call's own fault, the client is gone | no further                                                              |

Who pays: an attempt on a further backend is free, because each backend gets at most one from it; every repeated attempt on the same
backend draws on the model's budget, and where that is empty the call moves on or ends. Nothing starts with less than MIN_USEFUL_S to
the deadline after its pause.

Worked numbers, two backends, two attempts on each, backoff (0.1, 2.0): a call that meets a 500 everywhere makes four attempts, two of
them paid for, with pauses of at most 0.1 s each; one that meets closed ports makes two, and its client knows within milliseconds.

Dangers: after a timeout the backend may still be working on the first try, so trying it again would double its load when it is slowest;
and a refused call that comes back early makes the queue longer that refused it.

Source: gRPC A6 (pushback is obeyed, or ends the retries), AWS Builders' Library (full jitter, one layer that retries), Finagle (budget).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

from policies.budget import RetryBudget
from policies.outcome import Outcome, OutcomeKind

# With less left, an attempt would hardly bring a first token, only load. Source: Google SRE, deadline propagation; 1 s is above the
# time to first token of a short prompt on an idle engine and far below any deadline in use.
MIN_USEFUL_S = 1.0
_MOST_DOUBLINGS = 30  # keeps 2^n a small float; any cap is reached long before


@dataclass(frozen=True, slots=True)
class RetryRules:
    """`attempts_per_backend` >= 1 counts the first; `backoff_s` is (base, cap); `retry_after_wait_s` is the longest wait obeyed."""

    attempts_per_backend: int
    backoff_s: tuple[float, float]
    retry_after_wait_s: float


class Action(StrEnum):
    """What to do next."""

    RETRY = "retry"
    MOVE = "move"
    STOP = "stop"


class RetryReason(StrEnum):
    """Why; also the metric's label."""

    SAME_BACKEND = "same_backend"
    RETRY_AFTER = "retry_after"
    NEXT_BACKEND = "next_backend"
    BUDGET_EMPTY = "budget_empty"  # moves on where there is a next backend, else stops
    NOT_RETRYABLE = "not_retryable"
    NO_BACKEND_LEFT = "no_backend_left"
    NO_TIME_LEFT = "no_time_left"


@dataclass(frozen=True, slots=True)
class NextStep:
    """`wait_s` >= 0 is the pause before the next attempt; 0 for MOVE and STOP."""

    action: Action
    wait_s: float
    reason: RetryReason


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a call stands: attempts made on this backend (>= 1), whether there is a next one, seconds to its deadline.

    `waited_retry_after`: whether this backend's `retry-after` has been waited out once.
    """

    attempts_here: int
    has_next: bool
    remaining_s: float
    waited_retry_after: bool = False


@dataclass(frozen=True, slots=True)
class Chance:
    """The time and the dice of one decision."""

    now_s: float
    rng: random.Random


# Kinds that are worth another attempt on the same backend, after a pause.
_AGAIN_HERE = frozenset({OutcomeKind.FAILED})
_AGAIN_HERE_IF_LAST = frozenset({OutcomeKind.FAILED, OutcomeKind.PROTOCOL_BROKEN, OutcomeKind.NOT_ACCEPTED})


def next_step(outcome: Outcome, standing: Standing, rules: RetryRules, budget: RetryBudget, chance: Chance) -> NextStep:
    """What follows an attempt that ended in `outcome` before the commit. Draws on `budget` only where the answer is RETRY."""
    if not outcome.retryable:
        return _stop(RetryReason.NOT_RETRYABLE)
    again = _again_here(outcome, standing, rules, chance.rng)
    if again is None:
        return _move_on(standing, RetryReason.NEXT_BACKEND, RetryReason.NO_BACKEND_LEFT)
    if standing.remaining_s - again.wait_s < MIN_USEFUL_S:
        return _move_on(standing, RetryReason.NEXT_BACKEND, RetryReason.NO_TIME_LEFT)
    if not budget.withdraw(chance.now_s):
        return _move_on(standing, RetryReason.BUDGET_EMPTY, RetryReason.BUDGET_EMPTY)
    return again


def _stop(reason: RetryReason) -> NextStep:
    return NextStep(Action.STOP, 0.0, reason)


def _move_on(standing: Standing, reason: RetryReason, reason_if_last: RetryReason) -> NextStep:
    """To the next backend if there is one and time for it."""
    if not standing.has_next:
        return _stop(reason_if_last)
    if standing.remaining_s < MIN_USEFUL_S:
        return _stop(RetryReason.NO_TIME_LEFT)
    return NextStep(Action.MOVE, 0.0, reason)


def _again_here(outcome: Outcome, standing: Standing, rules: RetryRules, rng: random.Random) -> NextStep | None:
    """Another attempt on the same backend with its pause, or None where there should be none."""
    if standing.attempts_here >= rules.attempts_per_backend:
        return None
    if outcome.kind is OutcomeKind.NOT_ACCEPTED and standing.attempts_here > 1:
        return None  # each was a whole answer, paid for; what a model says twice it will say again
    if outcome.kind is OutcomeKind.REFUSED:
        if outcome.retry_after_s is not None:
            return _waited_out(outcome.retry_after_s, standing, rules)
        return None
    if outcome.kind not in (_AGAIN_HERE if standing.has_next else _AGAIN_HERE_IF_LAST):
        return None
    return NextStep(Action.RETRY, backoff_s(standing.attempts_here - 1, rules, rng), RetryReason.SAME_BACKEND)


def _waited_out(wait_s: float, standing: Standing, rules: RetryRules) -> NextStep | None:
    if standing.waited_retry_after or wait_s > rules.retry_after_wait_s:
        return None
    return NextStep(Action.RETRY, max(0.0, wait_s), RetryReason.RETRY_AFTER)


def backoff_s(retries_here: int, rules: RetryRules, rng: random.Random) -> float:
    """Seconds before the next attempt after `retries_here` earlier ones: full jitter, uniform in [0, min(cap, base x 2^n)].

    Full, because half-random pauses keep calls that failed together together. Source: AWS, "Exponential backoff and jitter".
    """
    base_s, cap_s = rules.backoff_s
    return rng.uniform(0.0, min(cap_s, base_s * 2.0 ** min(retries_here, _MOST_DOUBLINGS)))
