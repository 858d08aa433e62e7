"""What a client's key allows: its class, and how much it may have running and begin.

The numbers live in one `Quota` for each group of keys: whoever shares them between processes replaces that object alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from policies.admission import Priority
from policies.quota import CallRate
from router.faults import CallFailed, Fault

RUNNING_RETRY_AFTER_S = 1.0  # when the next of a client's own calls ends is its own affair; Retry-After's smallest step


class Quota:
    """The limits of one group of clients, None for no limit, and what it has used of them."""

    __slots__ = ("_max_in_flight", "_rate", "running")

    def __init__(self, max_in_flight: int | None, calls_per_min: int | None, now_s: float):
        self.running = 0
        self._max_in_flight = max_in_flight
        self._rate = CallRate(calls_per_min, now_s) if calls_per_min is not None else None

    def begin(self, now_s: float) -> None:
        """A call begins; `end` must follow. Raises CallFailed (429) where one limit is reached, and then nothing was taken."""
        if self._max_in_flight is not None and self.running >= self._max_in_flight:
            raise running_too_many()
        if self._rate is not None and (wait_s := self._rate.take(now_s)):
            raise begun_too_many(wait_s)
        self.running += 1

    def end(self) -> None:
        """A call that began has ended."""
        self.running -= 1


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a call comes from: the best class that it may have, and its group's quota, None where nothing is limited."""

    priority: Priority = Priority.INTERACTIVE
    quota: Quota | None = None


ANYONE = Caller()


def running_too_many() -> CallFailed:
    """For a client at its limit of calls at once."""
    return CallFailed(_limited("This key has as many calls running as it may.", RUNNING_RETRY_AFTER_S))


def begun_too_many(wait_s: float) -> CallFailed:
    """For a client at its limit of calls a minute; the next may begin in `wait_s`."""
    return CallFailed(_limited("This key has begun as many calls as it may in a minute.", wait_s))


def _limited(message: str, wait_s: float) -> Fault:
    """429 as OpenAI words it: every SDK waits out the time and comes back."""
    return Fault(429, message, "rate_limit_error", "rate_limit_exceeded", None, ceil(wait_s))
