"""The least busy replica, in every order; ties by chance; and who only looks idle."""

from __future__ import annotations

import random
from collections import Counter
from itertools import permutations

import pytest

from policies.balance import FAILED_S, LONGEST_S, Bias, Load, fairest, least_busy


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
    with pytest.raises(ValueError):
        fairest([], random.Random(0))


# -- failing fast ----------------------------------------------------------------------------------


def test_a_failure_counts_as_a_call_in_flight_for_a_while() -> None:
    bias = Bias()
    assert bias.calls(0.0) == 0
    for now_s in (100.0, 101.0, 102.0):
        bias.failed(now_s)
    assert [bias.calls(now_s) for now_s in (102.0, 106.9, 102.0 + FAILED_S, 1e6)] == [3, 3, 0, 0]
    bias.failed(200.0)
    assert bias.calls(200.0) == 1, "what is over is forgotten"


@pytest.mark.parametrize(
    ("retry_after_s", "alone_s"),
    [(None, 0.0), (0.0, 0.0), (2.0, 2.0), (60.0, 60.0), (1e9, LONGEST_S)],
    ids=["it did not say", "at once", "shorter than the books", "a minute", "for ever: up to a limit"],
)
def test_a_retry_after_is_obeyed_up_to_a_limit(retry_after_s: float | None, alone_s: float) -> None:
    bias = Bias()
    bias.failed(100.0, retry_after_s)
    assert bias.is_left_alone(100.0 + 0.99 * alone_s) is (alone_s > 0)
    assert not bias.is_left_alone(100.0 + alone_s)
    assert bias.until_s == 100.0 + max(FAILED_S, alone_s)


def test_a_shorter_retry_after_does_not_take_a_longer_one_back() -> None:
    bias = Bias()
    bias.failed(100.0, 60.0)
    bias.failed(101.0, 1.0)
    bias.failed(102.0)
    assert bias.is_left_alone(159.0) and bias.until_s == 160.0


def test_who_refuses_at_once_does_not_attract_the_calls_of_who_works() -> None:
    """Forty calls run on the one; the other refuses each in no time. By load alone it would get all of a thousand."""
    rng, bias, refused = random.Random(1), Bias(), 0
    for number in range(1000):
        now_s = number / 100
        if fairest([Load(40), Load(0 + bias.calls(now_s))], rng) == 1:
            bias.failed(now_s)
            refused += 1
    assert 40 < refused < 130


# (calls, weight, left alone) of each -> who may be picked
FAIR = [
    ("one alone", [(9, 1.0, False)], {0}),
    ("one alone, left alone or not", [(9, 1.0, True)], {0}),
    ("the idle one asked to be left alone", [(0, 1.0, True), (5, 1.0, False)], {1}),
    ("all of them did -> the least busy", [(3, 1.0, True), (5, 1.0, True)], {0}),
    ("the idle one left alone, the others equal", [(0, 1.0, True), (5, 1.0, False), (5, 1.0, False)], {1, 2}),
    ("on a ramp and as busy", [(5, 0.5, False), (5, 1.0, False)], {0, 1}),
    ("on a ramp and busier -> never", [(6, 0.9, False), (5, 1.0, False)], {1}),
    ("all on a ramp -> the least busy for its weight", [(1, 0.1, False), (5, 1 / 2, False)], {1}),
    ("all on a ramp alike", [(1, 0.5, False), (1, 0.5, False)], {0, 1}),
    ("the steady one left alone", [(9, 0.1, False), (0, 1.0, True)], {0}),
]


@pytest.mark.parametrize(("rows", "picked"), [row[1:] for row in FAIR], ids=[row[0] for row in FAIR])
def test_who_gets_the_next_call(rows: list[tuple[int, float, bool]], picked: set[int]) -> None:
    rng = random.Random(1)
    for order in permutations(range(len(rows))):
        loads = [Load(*rows[index]) for index in order]
        assert {order[fairest(loads, rng)] for _ in range(200)} == picked


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("others", [1, 3])
def test_a_ramp_gives_its_part_of_an_equal_share(weight: float, others: int) -> None:
    rng = random.Random(1)
    loads = [Load(0, weight), *[Load(0)] * others]
    share = sum(fairest(loads, rng) == 0 for _ in range(4000)) / 4000
    assert share == pytest.approx(weight / (weight + others), abs=0.03)
