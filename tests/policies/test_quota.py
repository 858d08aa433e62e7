"""The calls that a client may begin per minute: exactly so many, however they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.quota import CallRate


def test_three_a_minute_are_three_at_once_and_then_one_every_twenty_seconds() -> None:
    rate = CallRate(3, 100.0)
    assert [rate.take(100.0) for _ in range(4)] == [0, 0, 0, 20.0]
    assert rate.take(119.9) == pytest.approx(0.1)
    assert rate.take(120.0) == 0
    assert rate.take(120.0) == 20.0


def test_a_quiet_hour_saves_up_no_more_than_a_minute() -> None:
    rate = CallRate(2, 0.0)
    assert [rate.take(3600.0) for _ in range(3)] == [0, 0, 30.0]


def test_time_that_runs_backwards_brings_and_takes_nothing() -> None:
    rate = CallRate(1, 1000.0)
    assert rate.take(1000.0) == 0
    assert rate.take(10.0) == 60.0
    assert rate.take(1030.0) == 30.0


@given(per_min=st.integers(1, 10_000), gaps=st.lists(st.floats(0, 120), max_size=80))
def test_calls_that_begin_never_exceed_the_rate_and_a_refused_one_may_come_back_when_told(
    per_min: int, gaps: list[float]
) -> None:
    rate, now_s = CallRate(per_min, 0.0), 0.0
    for begun, gap_s in enumerate(gaps, 1):
        now_s += gap_s
        wait_s = rate.take(now_s)
        assert 0 <= wait_s <= 60
        if wait_s:
            now_s += wait_s + 2e-6  # a microsecond each for rounding the two instants
            assert rate.take(now_s) == 0
        assert begun <= per_min * (1 + now_s / 60) + 1e-6
