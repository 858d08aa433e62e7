"""Whether a second attempt is started beside a slow one."""

from __future__ import annotations

import pytest

from policies.budget import RetryBudget
from policies.hedge import HedgeDecision, HedgePlace, HedgeReason, hedge
from policies.retry import MIN_USEFUL_S

FIT = HedgePlace("fit", True)
BUSY = HedgePlace("busy", False)
TRIES = 30  # of a new budget at 3 a second


@pytest.mark.parametrize(
    ("places", "remaining_s", "expected"),
    [
        ([FIT], 60.0, HedgeDecision(0, HedgeReason.HEDGED)),
        ([BUSY, FIT], 60.0, HedgeDecision(1, HedgeReason.HEDGED)),
        ([BUSY], 60.0, HedgeDecision(None, HedgeReason.NO_ROOM)),
        ([], 60.0, HedgeDecision(None, HedgeReason.NO_ROOM)),
        ([FIT], MIN_USEFUL_S - 0.1, HedgeDecision(None, HedgeReason.NO_TIME)),
    ],
    ids=[
        "the next backend has room -> it",
        "the next is busy, the one after has room -> that one",
        "the only other one is busy -> none",
        "there is no other -> none",
        "too little time for anything -> none",
    ],
)
def test_a_hedge_goes_where_it_can_begin_at_once(
    places: list[HedgePlace], remaining_s: float, expected: HedgeDecision
) -> None:
    assert hedge(places, remaining_s, RetryBudget(0.0, 3.0, 0.0), 0.0) == expected


def test_every_hedge_is_paid_for_and_only_a_hedge_is() -> None:
    budget = RetryBudget(0.0, 3.0, 0.0)
    for _ in range(100):
        assert hedge([BUSY], 60.0, budget, 0.0).index is None
    assert sum(hedge([FIT], 60.0, budget, 0.0).index == 0 for _ in range(100)) == TRIES
    assert hedge([FIT], 60.0, budget, 0.0) == HedgeDecision(None, HedgeReason.BUDGET_EMPTY)
