"""Who waits for whom where there is not room for all, and for how long waiting makes sense.

Classes. `interactive` goes before `batch`, `batch` before `shadow`, at every place that becomes free. An engine's slots cannot be
exceeded and a running call is not ended for another, so what a better class is guaranteed is: every slot that becomes free until none
of it waits; and where the next one takes long to become free, a tenth of the slots (at least one of two) that worse classes leave free
for KEPT_FREE_FOR_S after a better call lacked room. So a person's call finds room at once beside a flood of batch calls that run for
minutes each, while fast slots are all used, and a batch alone has every slot. Source: Netflix's concurrency-limits, partitions of 90 %
live and 10 % batch, which may go beyond the limit where ours may not.

Waiting. A call is let wait only where it is all but sure to be let in in time: in a standing queue everybody who is let wait stands where
the prediction just fits, so a prediction of the mean would let half of them expire. From the pace at which the queue has moved (mean m
and deviation s of the time between two that were let in) n places take

    expected   n m
    at worst   n m + Z s sqrt(n + k n^2) + (Z^2 - 1)/3 s^2/m

The root holds the chance of n gaps and, with k, that of the pace itself, which is known from so many gaps only; the last term is the skew
of a sum of few gaps (Cornish-Fisher). The pace weighs about the last MEMORY gaps, or as many as the prediction reaches ahead. Z is 3
where 2.33 would do for one look: a queue is looked at by every call that comes, and the most hopeful look is the one that lets wait.

A queue is for bursts. One that still stands after `queue_wait_s` is no burst, and a long one helps nobody then: as much is served with a
short one, sooner, and when the load is over all is normal sooner. So whoever comes to a queue that stands may wait for what is left of
`queue_wait_s` since it began to, and STANDING_SHARE of it at least. Source: CoDel, a queue that does not empty is a bad queue.

Worked numbers. Four slots of 50 ms, Poisson departures, m = s = 12.5 ms: of a queue of 10 s 700 places are used, and the last of them
expects 8.8 s. Four slots of 20 s, m = s = 5 s: the next place is sure in 34 s only, so nobody waits where 10 s are allowed.

Cold start: before anybody was let in, the time since somebody first found no room counts as the gap, and half of it as the deviation. The
first calls are let wait, and the longer nobody is let in, the fewer. A queue that has stopped is seen in the same way.

Source: Little's law; Jacobson's mean and deviation for timeouts; Google SRE, "Handling Overload" (refuse early what cannot be served).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from math import sqrt

MEMORY = 32  # gaps; in simulations 16 let 3 % of a tenfold overload expire, and more than 32 let fewer wait where there are few slots
Z = 3.0  # in simulations (fixed, uniform, exponential times of service) 2.33 lets up to 2 % expire, 3 less than 1 %
KEPT_FREE_SHARE = 0.1  # Netflix's guarantee of 90 % for live traffic, seen from the other side
KEPT_FREE_FROM_S = 0.5  # a person hardly notices less before a first token; then a slot kept free only costs
KEPT_FREE_FOR_S = 300.0  # a person at a chat comes back within minutes; after that a batch may have the last slot too
STANDING_SHARE = 0.2  # of 10 s: the 2 s that may be queued are worked off within 4 s at half the load
_SKEW = (Z * Z - 1) / 3


class Priority(IntEnum):
    """The class of a call; smaller is better. The best is 0, so that the usual call is told by one test for truth."""

    INTERACTIVE = 0
    BATCH = 1
    SHADOW = 2

    @property
    def label(self) -> str:
        """The name in headers and metrics."""
        return self.name.lower()


BY_LABEL = {priority.label: priority for priority in Priority}


class RefusalReason(StrEnum):
    """Why a call was not let in; also the metric's label."""

    QUEUE_FULL = "queue_full"
    WAIT_TOO_LONG = "wait_too_long"  # predicted, on arrival
    DISPLACED = "displaced"  # by a better class, out of a full queue
    EXPIRED = "expired"  # in the queue, against the prediction


@dataclass(frozen=True, slots=True)
class Refusal:
    """`wait_s` >= 0: after how long a call of this class may expect room."""

    reason: RefusalReason
    wait_s: float


def lowered(own: Priority, asked: str) -> Priority | None:
    """The class of a call whose caller has `own` and asks for `asked`: never a better one. None where there is no such class."""
    wanted = BY_LABEL.get(asked)
    return None if wanted is None else max(own, wanted)


def kept_free(limit: int) -> int:
    """How many of `limit` slots worse classes leave to a better one that needs them: 1 -> 0, 2 -> 1, 4 -> 1, 512 -> 51."""
    return max(1, int(limit * KEPT_FREE_SHARE)) if limit > 1 else 0


def patience_s(queue_wait_s: float, stands_s: float) -> float:
    """How long one may wait that comes to a queue which has stood for `stands_s` seconds."""
    return max(queue_wait_s * STANDING_SHARE, queue_wait_s - stands_s)


class Pace:
    """How fast one class of a queue moves. Holds state, but no clock: every method is told the time, an instant in seconds."""

    __slots__ = ("_count", "_mean_s", "_since_s", "_variance")

    def __init__(self) -> None:
        self._count = 0
        self._mean_s = 0.0
        self._variance = 0.0
        self._since_s: float | None = None

    def stands(self, now_s: float) -> None:
        """Somebody waits: from now on it is measured, if it is not already."""
        if self._since_s is None:
            self._since_s = now_s

    def moved(self, now_s: float, still_waiting: int) -> None:
        """One was let in, or could have been; `still_waiting` of the class wait on."""
        if self._since_s is not None:
            self._mean_s, self._variance = self._with(now_s - self._since_s, still_waiting)
            self._count += 1
        self._since_s = now_s if still_waiting else None

    def expected_s(self, places: int, now_s: float) -> float:
        """Seconds until the one on place `places` (1: the next) is let in."""
        return places * self._now(places, now_s)[0]

    def at_worst_s(self, places: int, now_s: float) -> float:
        """Seconds within which it is all but surely let in."""
        mean_s, variance = self._now(places, now_s)
        if not self._count or not mean_s:
            return places * mean_s + Z * sqrt(variance * places)
        doubt = max(1 / self._count, 1 / (2 * max(MEMORY, places) - 1))
        return places * mean_s + Z * sqrt(variance * places * (1 + doubt * places)) + _SKEW * variance / mean_s

    def _now(self, places: int, now_s: float) -> tuple[float, float]:
        """Mean and variance, the gap that is still open counted as though it ended now where it is already longer than usual."""
        open_s = now_s - self._since_s if self._since_s is not None else 0.0
        return self._with(open_s, places) if open_s > self._mean_s else (self._mean_s, self._variance)

    def _with(self, gap_s: float, places: int) -> tuple[float, float]:
        if not self._count:
            return gap_s, gap_s * gap_s / 4  # as TCP begins: the deviation is half of the first measurement
        weight = 1 / min(self._count + 1, max(MEMORY, places))
        off_s = gap_s - self._mean_s
        return self._mean_s + weight * off_s, (1 - weight) * (self._variance + weight * off_s * off_s)
