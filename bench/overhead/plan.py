"""How much is measured: rounds, durations and counts."""

from __future__ import annotations

import msgspec

US_PER_S = 1_000_000


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the bench. The streams are the headline work: 100 at once, 100 chunks each, 10 ms apart."""

    rounds: int = 3
    connections: int = 32  # kept busy by plain calls: enough to saturate one worker, as few as a small application has
    calls_s: float = 4.0
    rest_s: float = 1.0
    streams: int = 100
    chunks: int = 100
    gap_us: int = 10_000
    streams_s: float = 5.0
    soak_calls: int = 50_000
    soak_s: float = 60.0  # a proxy that cannot make the calls in this time is not waited for

    @property
    def stream_s(self) -> float:
        """How long one stream takes at the upstream's pace."""
        return self.chunks * self.gap_us / US_PER_S

    @property
    def stagger_us(self) -> int:
        """Streams begin evenly over one stream's length, and a hundredth apart from it so that their chunks do not fall together."""
        return round(1.01 * self.stream_s / self.streams * US_PER_S)

    @property
    def warm_s(self) -> float:
        """From when on all streams run."""
        return 1.2 * self.stream_s


FULL = Plan()
QUICK = Plan(rounds=1, calls_s=1.0, rest_s=0.3, streams_s=2.5, soak_calls=0)
