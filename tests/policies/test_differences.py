"""What is said of a ramp: that it begins, stands still, goes on, is left; its single steps are told by the shares."""

from __future__ import annotations

import pytest

from policies.differences import differences, duration
from policies.revisions import ModelState, RoutingState
from policies.time_ramps import begun, paused, resumed, stepped

REST = RoutingState({"jane": ModelState({"a": 0.95, "b": 0.05})})
THERE = RoutingState({"jane": ModelState({"a": 0.0, "b": 1.0})})
MOVING = begun(REST, THERE, "jane", 2.0, 0.0)
STILL = paused(MOVING, "jane")
HALF = stepped(MOVING, "jane", 1.0)

BEGINS = "jane: moves in small steps over 2 s: a to 0 %, b to 100 %"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        pytest.param(REST, MOVING, [BEGINS], id="a ramp begins"),
        pytest.param(MOVING, STILL, ["jane: stands still on its way"], id="it is paused"),
        pytest.param(STILL, resumed(STILL, "jane", 9.0), ["jane: goes on"], id="it is resumed"),
        pytest.param(
            MOVING,
            HALF,
            ["jane: a 95 % -> 47.5 %, b 5 % -> 52.5 %; about 47.5 % of callers move, none back"],
            id="a step -> told by the shares alone",
        ),
        pytest.param(
            HALF,
            stepped(HALF, "jane", 2.0),
            ["jane: a 47.5 % -> 0 %, b 52.5 % -> 100 %; about 47.5 % of callers move, none back"],
            id="the last step -> told by the shares alone",
        ),
        pytest.param(MOVING, REST, ["jane: moves no further"], id="it is left before its end"),
        pytest.param(
            REST,
            RoutingState({"jane": ModelState({"a": 0.95, "b": 0.05, "c": 0.0})}),
            [],
            id="a share of 0 is no share -> nothing",
        ),
    ],
)
def test_what_became_of_the_way_is_said(before: RoutingState, after: RoutingState, said: list[str]) -> None:
    assert list(differences(before, after)) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.5, "0.5 s"), (90, "1 min 30 s"), (7200, "2 h"), (5400, "1 h 30 min"), (90061, "1 d 1 h 1 min 1 s")],
)
def test_durations_are_written_as_people_write_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said
