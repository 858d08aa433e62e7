"""The ramp of a replica that comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.ramp import LEAST_WEIGHT, RAMP_S, ramp_s, weight

# seconds since the return, length of the ramp -> weight
WEIGHTS = [
    ("as it returns -> the least", 0.0, 30.0, 0.1),
    ("a tenth of the way -> the least", 3.0, 30.0, 0.1),
    ("a fifth of the way", 6.0, 30.0, 0.2),
    ("half of the way", 15.0, 30.0, 0.5),
    ("just before its end", 29.7, 30.0, 0.99),
    ("at its end -> all", 30.0, 30.0, 1.0),
    ("long after -> all", 4000.0, 30.0, 1.0),
    ("no ramp -> all", 0.0, 0.0, 1.0),
    ("a clock that went back -> the least", -5.0, 30.0, 0.1),
]


@pytest.mark.parametrize(("since_s", "length_s", "expected"), [r[1:] for r in WEIGHTS], ids=[r[0] for r in WEIGHTS])
def test_the_weight_grows_with_time(since_s: float, length_s: float, expected: float) -> None:
    assert weight(since_s, length_s) == pytest.approx(expected)


@pytest.mark.parametrize(("out_s", "length_s"), [(-1.0, 0.0), (0.0, 0.0), (2.0, 2.0), (30.0, 30.0), (86_400.0, 30.0)])
def test_the_ramp_is_as_long_as_the_outage_up_to_a_limit(out_s: float, length_s: float) -> None:
    assert ramp_s(out_s) == length_s


@given(st.floats(-10, 100), st.floats(0, 10), st.floats(0, RAMP_S))
def test_it_never_shrinks_and_stays_between_the_least_and_one(since_s: float, later_s: float, length_s: float) -> None:
    assert LEAST_WEIGHT <= weight(since_s, length_s) <= weight(since_s + later_s, length_s) <= 1.0
