"""Classes and the prediction of a wait: who may ask for what, and how sure a call must be of its place."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.admission import MEMORY, Pace, Priority, kept_free, lowered

I, B, S = Priority  # noqa: E741

ASKED: list[tuple[str, Priority, str, Priority | None]] = [
    ("its own class -> that", B, "batch", B),
    ("a worse class -> that", I, "shadow", S),
    ("a better class -> its own", B, "interactive", B),
    ("the best, of the worst -> its own", S, "interactive", S),
    ("an unknown class -> none", I, "urgent", None),
    ("another spelling -> none", I, "Batch", None),
    ("nothing -> none", I, "", None),
]


@pytest.mark.parametrize(("own", "asked", "got"), [row[1:] for row in ASKED], ids=[row[0] for row in ASKED])
def test_a_call_may_lower_its_class_and_never_raise_it(own: Priority, asked: str, got: Priority | None) -> None:
    assert lowered(own, asked) is got


@pytest.mark.parametrize(("limit", "kept"), [(1, 0), (2, 1), (4, 1), (10, 1), (20, 2), (512, 51)], ids=str)
def test_a_tenth_of_the_slots_is_kept_free_and_one_is_always_left_to_all(limit: int, kept: int) -> None:
    assert kept_free(limit) == kept < limit


def paced(gaps: list[float]) -> tuple[Pace, float]:
    """A pace after these gaps in a queue that never emptied, and the time now."""
    pace, now_s = Pace(), 100.0
    pace.stands(now_s)
    for gap_s in gaps:
        now_s += gap_s
        pace.moved(now_s, 1)
    return pace, now_s


def test_the_wait_is_the_places_times_the_gap() -> None:
    pace, now_s = paced([0.5] * 100)
    assert pace.expected_s(8, now_s) == pytest.approx(4.0)
    assert pace.at_worst_s(8, now_s) == pytest.approx(4.0, rel=0.1), "a steady queue leaves little doubt"


def test_the_worst_case_of_a_fickle_queue_is_far_from_what_is_expected() -> None:
    rng = random.Random(3)
    pace, now_s = paced([rng.expovariate(2.0) for _ in range(1000)])
    assert pace.expected_s(8, now_s) == pytest.approx(4.0, rel=0.5)
    assert pace.at_worst_s(8, now_s) > 1.8 * pace.expected_s(8, now_s)


def test_nothing_is_known_at_first_and_doubt_grows_while_nobody_is_let_in() -> None:
    pace = Pace()
    assert pace.at_worst_s(1, 5.0) == 0
    pace.stands(5.0)
    assert pace.at_worst_s(1, 5.0) == 0
    waits = [pace.at_worst_s(1, 5.0 + passed_s) for passed_s in (0.1, 1.0, 4.0)]
    assert waits == sorted(waits) and waits[-1] > 4.0


def test_a_queue_that_has_stopped_is_seen_before_it_moves_again() -> None:
    pace, now_s = paced([0.1] * 50)
    assert pace.at_worst_s(1, now_s + 60) > pace.at_worst_s(1, now_s) + 1


def test_a_queue_that_has_become_slower_is_known_after_some_gaps() -> None:
    pace, now_s = paced([0.1] * 200 + [0.4] * (3 * MEMORY))
    assert pace.expected_s(1, now_s) == pytest.approx(0.4, rel=0.1)


def test_time_in_which_nobody_waits_is_not_measured() -> None:
    pace, now_s = paced([0.1] * 50)
    pace.moved(now_s + 0.1, 0)
    pace.stands(now_s + 3600)
    pace.moved(now_s + 3600.1, 0)
    assert pace.expected_s(1, now_s + 3600.1) == pytest.approx(0.1)


@given(gaps=st.lists(st.floats(0, 1e4), max_size=60), places=st.integers(1, 1000), open_s=st.floats(0, 1e5))
def test_a_prediction_is_a_time_and_grows_with_the_place(gaps: list[float], places: int, open_s: float) -> None:
    pace, now_s = paced(gaps)
    now_s += open_s
    assert 0 <= pace.expected_s(places, now_s) <= pace.at_worst_s(places, now_s) * (1 + 1e-9) < float("inf")
    assert pace.expected_s(places, now_s) <= pace.expected_s(places + 1, now_s) * (1 + 1e-9) + 1e-9
