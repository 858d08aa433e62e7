"""How many further tries a model's calls may cost its backends: a share of the calls, and a floor for quiet times.

Theory
------
Each call deposits `ratio` of a try, each second `min_per_s` tries, and a try takes one out. Nothing is kept for longer than WINDOW_S:
an hour of calm does not save up an hour of retries for the moment in which a backend can bear them least. A new budget starts as
though the window before it had been calm, with `min_per_s x WINDOW_S` tries: the first call after a start may be retried as any other.

What holds for every history, exactly, `calls` and `seconds` counted from the first use:

    tries <= ratio x calls + min_per_s x (seconds + WINDOW_S)

Worked numbers, ratio 0.2 and min_per_s 3. A hundred calls a second leave 20 + 3 tries a second whatever the backend does: when it
fails every call it sees 1.23 times its load, not twice. One call a minute may always be retried, and never more than 30 times in a row.

Amounts and times are integers (millionths of a millionth of a try, microseconds), so no number of deposits and no order of operations
drifts: five calls at a ratio of 0.2 are one try, not 0.9999999999999999 of one. Time that runs backwards is no time.

Source: Finagle's RetryBudget (ttl 10 s, percentCanRetry 0.2, minRetriesPerSec); ours keeps exact amounts, and spends what expires first.
"""

from __future__ import annotations

from fractions import Fraction
from math import floor

WINDOW_S = 10  # Finagle's default ttl; also the number of one-second slices
_US_PER_S = 1_000_000
_TRY = 1_000_000_000_000


class RetryBudget:
    """A leaky bucket. `ratio` >= 0 is in tries for each call, `min_per_s` >= 0 in tries for each second.

    Raises ValueError where one of them is negative or no number.
    """

    __slots__ = ("_floor", "_floor_max", "_from_calls", "_last_us", "_per_call", "_per_us", "_second", "_slices")

    def __init__(self, ratio: float, min_per_s: float, now_s: float | None = None):
        """`now_s`: when the budget begins; None for its first use."""
        if ratio < 0 or min_per_s < 0:
            raise ValueError(f"ratio is {ratio}, min_per_s is {min_per_s}; neither may be negative")
        self._per_call = _amount(ratio)
        self._per_us = _amount(min_per_s) // _US_PER_S
        self._floor = self._floor_max = self._per_us * _US_PER_S * WINDOW_S
        self._slices = [0] * WINDOW_S  # what calls have deposited, by the second in which they came
        self._from_calls = 0  # the sum of the slices
        self._last_us: int | None = None
        self._second = 0
        if now_s is not None:
            self._advance(now_s)

    def deposit(self, now_s: float) -> None:
        """One call has come."""
        self._advance(now_s)
        self._slices[self._second % WINDOW_S] += self._per_call
        self._from_calls += self._per_call

    def withdraw(self, now_s: float) -> bool:
        """Take one try out and return True, or False where there is none left."""
        self._advance(now_s)
        if self._from_calls + self._floor < _TRY:
            return False
        left = _TRY
        for age in range(WINDOW_S - 1, -1, -1):
            slot = (self._second - age) % WINDOW_S
            taken = min(left, self._slices[slot])
            self._slices[slot] -= taken
            left -= taken
        self._from_calls -= _TRY - left
        self._floor -= left
        return True

    def _advance(self, now_s: float) -> None:
        """Let time pass: the floor fills up, and what is older than the window is lost."""
        now_us = int(now_s * _US_PER_S)
        if self._last_us is None:
            self._last_us = now_us
            self._second = now_us // _US_PER_S
        passed_us = now_us - self._last_us
        if passed_us <= 0:
            return
        self._last_us = now_us
        self._floor = min(self._floor_max, self._floor + passed_us * self._per_us)
        second = now_us // _US_PER_S
        if second == self._second:
            return
        for expired in range(self._second + 1, min(second, self._second + WINDOW_S) + 1):
            slot = expired % WINDOW_S
            self._from_calls -= self._slices[slot]
            self._slices[slot] = 0
        self._second = second


def _amount(tries: float) -> int:
    """In the smallest unit, by the decimal that was written: three tenths are three tenths, although the double 0.3 is a little less."""
    return floor(Fraction(repr(tries)) * _TRY)
