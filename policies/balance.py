"""Which of several equal replicas gets the next attempt: the least busy, and chance among equals."""

from __future__ import annotations

import random
from collections.abc import Sequence


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
