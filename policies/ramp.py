"""Slow start: how much of its own calls a replica gets while it comes back from an ejection.

    weight = max(LEAST_WEIGHT, time since the return / length of the ramp), 1 after it

An engine that comes back has cold caches, and all its callers at once would push it out again. The ramp is as long as the replica was
out, RAMP_S at most: what was away for two seconds has lost nothing that takes longer to come back. It follows failures alone; neither a
start of the router nor a model that was not there yet is a return.

Worked numbers, away for a minute: a tenth of its calls for 3 s, half of them after 15 s, all after 30 s.

Source: Envoy's slow start (least weight 10 %, linear); the window is the one of nginx's documentation, slow_start=30s.
"""

from __future__ import annotations

RAMP_S = 30.0
LEAST_WEIGHT = 0.1


def ramp_s(out_s: float) -> float:
    """How long the ramp of a replica is that was out of rotation for `out_s` seconds."""
    return min(RAMP_S, max(0.0, out_s))


def weight(since_s: float, length_s: float) -> float:
    """The weight in LEAST_WEIGHT..1, `since_s` seconds into a ramp of `length_s`."""
    if length_s <= 0 or since_s >= length_s:
        return 1.0
    return max(LEAST_WEIGHT, since_s / length_s)
