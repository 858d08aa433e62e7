"""Replicas under ejection in every state, as the tests of policies need them."""

from __future__ import annotations

import random

from policies.ejection import EjectionRules, ReplicaHealth, State

RULES = EjectionRules(consecutive_failures=5, failure_share=0.5, window_s=30.0, for_s=(5.0, 300.0))


class Middle(random.Random):
    """Dice without jitter."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def healthy(rules: EjectionRules = RULES) -> ReplicaHealth:
    """A replica in rotation."""
    return ReplicaHealth(rules, Middle())


def ejected(now_s: float = 100.0) -> ReplicaHealth:
    """A replica that was ejected just now."""
    health = healthy()
    health.keep_out(now_s, "a test")
    return health


def probing(now_s: float = 105.0) -> ReplicaHealth:
    """A replica whose probing call is on its way, due at 105."""
    health = ejected()
    assert health.may_take(now_s)
    return health


def state_of(health: ReplicaHealth) -> State:
    """The state, read anew: a type checker takes an attribute for unchanged until it is assigned."""
    return health.state


def report(health: ReplicaHealth, history: str, now_s: float = 1.0) -> None:
    """Calls that all end now: `.` went well, `x` failed."""
    for sign in history:
        if sign == ".":
            health.succeeded(now_s)
        else:
            health.failed(now_s)


def tripped(now_s: float = 100.0) -> ReplicaHealth:
    """A replica that failed five times in a row just now."""
    health = healthy()
    report(health, "xxxxx", now_s)
    return health


def back(health: ReplicaHealth, now_s: float) -> ReplicaHealth:
    """The same, after its probing call succeeded."""
    assert health.may_take(now_s)
    health.succeeded(now_s)
    return health
