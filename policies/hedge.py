"""Whether a second attempt is started beside one that is slow, and where.

A streamed call that has no content after `after_s` may be asked of the next backend too; whichever has content first answers, and the
other is ended at once. Worked numbers: Bigtable's 99.9th percentile fell from 1,800 to 74 ms for 2 % more requests. What that costs
here is a prefill on a GPU, so:

* only where the better class waits (`interactive`), and only streams: of a whole answer nothing says whether it is slow or long;
* only on a further backend that has room and is in good order: a hedge that has to queue, or brings a slow backend more load, helps nobody;
* always from the model's retry budget, although a first attempt on a further backend is otherwise free: nothing has failed yet;
* once for each call.

Source: Dean and Barroso, "The Tail at Scale" (2013); Envoy's hedge_on_per_try_timeout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from policies.budget import RetryBudget
from policies.retry import MIN_USEFUL_S


class HedgeReason(StrEnum):
    """Why there is a hedge, or none; also the metric's label."""

    HEDGED = "hedged"
    NO_ROOM = "hedge_no_room"  # no further backend, or none that could begin at once
    NO_TIME = "hedge_no_time"
    BUDGET_EMPTY = "hedge_budget_empty"


@dataclass(frozen=True, slots=True)
class HedgePlace:
    """A candidate after the first, in their order. `is_fit`: in rotation, not a last resort, with room at this moment."""

    backend: str
    is_fit: bool


@dataclass(frozen=True, slots=True)
class HedgeDecision:
    """The index of the place that is asked as well, None for none."""

    index: int | None
    reason: HedgeReason


def hedge(places: Sequence[HedgePlace], remaining_s: float, budget: RetryBudget, now_s: float) -> HedgeDecision:
    """Decide for one call whose first attempt has had its `after_s`. Draws on `budget` only where the answer is HEDGED."""
    if remaining_s < MIN_USEFUL_S:
        return HedgeDecision(None, HedgeReason.NO_TIME)
    fit = next((index for index, place in enumerate(places) if place.is_fit), None)
    if fit is None:
        return HedgeDecision(None, HedgeReason.NO_ROOM)
    if not budget.withdraw(now_s):
        return HedgeDecision(None, HedgeReason.BUDGET_EMPTY)
    return HedgeDecision(fit, HedgeReason.HEDGED)
