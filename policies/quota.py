"""How many calls a client may begin: a token bucket in integers.

After a quiet minute a client may begin `per_min` calls at once, and one more every 60 / per_min seconds: 3 a minute are three at once, and
then one every 20 s. A call is refused with the time until the next is allowed, which is never more than a minute.

Amounts are millionths of a sixtieth of a call and times whole microseconds, so that no number of calls drifts. Time that runs backwards is
no time.

Source: the token bucket of RFC 2697; OpenAI's limits are refilled in the same way.
"""

from __future__ import annotations

_US_PER_S = 1_000_000
_CALL = 60 * _US_PER_S  # a microsecond brings `per_min` of these


class CallRate:
    """Holds state (`amount`, as it was at `at_us`), but no clock. `per_min` >= 1."""

    __slots__ = ("_per_min", "amount", "at_us")

    def __init__(self, per_min: int, now_s: float):
        self._per_min = per_min
        self.amount = per_min * _CALL
        self.at_us = int(now_s * _US_PER_S)

    def take(self, now_s: float) -> float:
        """Begin a call: 0 where it may begin, else the seconds (0 to 60) until one may."""
        now_us = int(now_s * _US_PER_S)
        if now_us > self.at_us:
            self.amount = min(self.amount + (now_us - self.at_us) * self._per_min, self._per_min * _CALL)
            self.at_us = now_us
        if self.amount >= _CALL:
            self.amount -= _CALL
            return 0.0
        return -((self.amount - _CALL) // self._per_min) / _US_PER_S
