"""The least busy replica, in every order; ties by chance."""

from __future__ import annotations

import random
from collections import Counter
from itertools import permutations

import pytest

from policies.balance import least_busy


class NoChance(random.Random):
    """Dice that must not be thrown."""

    def randrange(self, *_: object, **__: object) -> int:
        raise AssertionError("there was nothing to leave to chance")


@pytest.mark.parametrize(
    "loads",
    [(0,), (7,), (0, 3), (3, 0), *permutations((0, 2, 5)), *permutations((1, 4, 4)), *permutations((2, 3, 4, 900))],
    ids=lambda loads: f"in flight {loads} -> the one with {min(loads)}",
)
def test_the_least_busy_is_picked_without_chance(loads: tuple[int, ...]) -> None:
    assert loads[least_busy(loads, NoChance())] == min(loads)


@pytest.mark.parametrize(
    ("loads", "equals"),
    [
        ((0, 0), {0, 1}),
        ((0, 0, 9), {0, 1}),
        ((0, 9, 0), {0, 2}),
        ((9, 0, 0), {1, 2}),
        ((4, 4, 4), {0, 1, 2}),
    ],
    ids=lambda value: f"{value}",
)
def test_equals_share_evenly(loads: tuple[int, ...], equals: set[int]) -> None:
    rng = random.Random(1)
    picked = Counter(least_busy(loads, rng) for _ in range(900))
    assert set(picked) == equals
    assert min(picked.values()) > 0.8 * 900 / len(equals)


def test_no_replica_is_an_error() -> None:
    with pytest.raises(ValueError):
        least_busy([], random.Random(0))
