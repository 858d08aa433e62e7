"""Which of several equal replicas gets the next attempt: the least busy, and chance among equals.

Two kinds of replicas must not be taken for idle ones:

* **One that fails fast.** It has nothing in flight because it refuses at once, and would get every call. So a call that failed stays on its
  books for FAILED_S more, as though it were still running: who refuses a hundred calls a second soon weighs five hundred. Where it
  said `retry-after`, it gets nothing until then, LONGEST_S at most, while another is there.
* **One that is coming back.** It gets its weight's part of an equal share, by a draw, and the others are balanced among themselves.

Worked numbers: of two replicas, one with 40 calls in flight and one that answers 429 at once, the second gets 40 more calls, and about
8 a second from then on; by load alone it would get all of them. Of four, one at a weight of 0.1 gets 0.1 / 3.1 of the calls, not a quarter.

Source: Linkerd's load biaser (5 s for a 429, `retry-after` up to 300 s) on a least-request balancer in place of its average of latencies;
Envoy's slow start.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

FAILED_S = 5.0
LONGEST_S = 300.0


class Bias:
    """What a replica's failures add to its load. Told the time; `until_s` is the instant from which on it adds nothing."""

    __slots__ = ("_asked_until_s", "_calls", "until_s")

    def __init__(self) -> None:
        self._calls = 0
        self._asked_until_s = -math.inf
        self.until_s = -math.inf

    def failed(self, now_s: float, retry_after_s: float | None = None) -> None:
        """A call failed through the replica's fault; `retry_after_s` is what it said of when to come back."""
        if now_s >= self.until_s:
            self._calls = 0
        self._calls += 1
        if retry_after_s is not None:
            self._asked_until_s = max(self._asked_until_s, now_s + min(retry_after_s, LONGEST_S))
        self.until_s = max(now_s + FAILED_S, self._asked_until_s)

    def calls(self, now_s: float) -> int:
        """How many calls to count beside those in flight."""
        return self._calls if now_s < self.until_s else 0

    def is_left_alone(self, now_s: float) -> bool:
        """Whether the replica has asked to be left alone until later."""
        return now_s < self._asked_until_s


@dataclass(frozen=True, slots=True)
class Load:
    """A replica in the balance: `calls` in flight and on its books, `weight` in 0..1, and whether it asked to be left alone."""

    calls: int
    weight: float = 1.0
    is_left_alone: bool = False


def least_busy(loads: Sequence[int], rng: random.Random) -> int:
    """The index of the smallest of `loads` (calls in flight, per replica); ties are broken by `rng`.

    All loads are known in this process and there are few, so all are compared; two random choices are for many replicas. A tie
    broken by order would send every call of a quiet hour to the first replica, and with it all cold caches to the others.
    Raises ValueError where there is no replica.
    """
    least = min(loads)
    index = loads.index(least)
    if loads.count(least) == 1:
        return index
    equals = [i for i, load in enumerate(loads) if load == least]
    return equals[rng.randrange(len(equals))]


def fairest(loads: Sequence[Load], rng: random.Random) -> int:
    """The index of the replica for the next attempt where not all weigh the same, or one has asked to be left alone.

    One on a ramp never gets a call while it has more to do than the least busy of the others. Raises ValueError where there is no replica.
    """
    able = [index for index, load in enumerate(loads) if not load.is_left_alone] or list(range(len(loads)))
    steady = [index for index in able if loads[index].weight >= 1]
    if len(steady) == len(able):
        return able[least_busy([loads[index].calls for index in able], rng)]
    if not steady:
        return min(able, key=lambda index: ((loads[index].calls + 1) / loads[index].weight, rng.random()))
    idlest = steady[least_busy([loads[index].calls for index in steady], rng)]
    drawn: int = rng.choices(able, [loads[index].weight for index in able])[0]
    return drawn if loads[drawn].weight < 1 and loads[drawn].calls <= loads[idlest].calls else idlest
