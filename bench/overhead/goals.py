"""What Crossfade's figures have to be, in one run with the others: what holds at the first stage, and what is aimed at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.overhead.measure import BARE, DIFFERENCE, OURS, Summary

US, MB = 1e-6, 1e6
SOAK_GROWTH_BYTES = 2 * MB  # an allocator's arena or two; a leak of 100 bytes a call makes 5 MB of 50,000 calls

Figure = Callable[[Summary], float | None]


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure and its limits. `at_least`: the limits are the lowest that will do, else the highest."""

    text: str
    figure: Figure
    first: float | None
    aim: float | None = None
    at_least: bool = False
    form: str = "{:.2f}"

    def line(self, summary: Summary) -> str | None:
        """The figure and whether it will do; None where the run does not say."""
        value = self.figure(summary)
        if value is None:
            return None
        relation = ">=" if self.at_least else "<="
        stages = (("first stage", self.first), ("aim", self.aim))
        limits = [
            f"{name} {relation} {self.form.format(limit)} {_met(self.holds(value, limit))}"
            for name, limit in stages
            if limit is not None
        ]
        return f"{self.text}: {self.form.format(value)} ({', '.join(limits)})"

    def holds(self, value: float, limit: float) -> bool:
        """Whether `value` is on the right side of `limit`."""
        return value >= limit if self.at_least else value <= limit


def _met(is_met: bool) -> str:
    return "met" if is_met else "MISSED"


def _own(field: str, unit: float = 1.0) -> Figure:
    def figure(summary: Summary) -> float | None:
        spread = summary.get(OURS, {}).get(field)
        return spread.median / unit if spread else None

    return figure


def _ratio(field: str, other: str) -> Figure:
    def figure(summary: Summary) -> float | None:
        ours, theirs = (summary.get(name, {}).get(field) for name in ("crossfade", other))
        return ours.median / theirs.median if ours and theirs and theirs.median else None

    return figure


def _over_bare(field: str) -> Figure:
    """What our row costs more than bare pass-through, in microseconds."""

    def figure(summary: Summary) -> float | None:
        spread = summary.get(DIFFERENCE, {}).get(field)
        return spread.median / US if spread else None

    return figure


def _growth(summary: Summary) -> float | None:
    ours = summary.get("crossfade", {})
    after, soaked = ours.get("memory_after_calls_bytes"), ours.get("memory_after_soak_bytes")
    return (soaked.lowest - after.highest) / MB if after and soaked else None


GOALS = (
    Goal("CPU per call of 1 KB / raw-asgi-aiohttp", _ratio("call_1k_cpu_s", "raw-asgi-aiohttp"), 1.0),
    Goal("CPU per call of 1 KB / nginx", _ratio("call_1k_cpu_s", "nginx"), None, 3.5),
    Goal("CPU per call of 1 KB / vllm-router", _ratio("call_1k_cpu_s", "vllm-router"), None, 1.0),
    Goal("CPU per call of 32 KB / raw-asgi-aiohttp", _ratio("call_32k_cpu_s", "raw-asgi-aiohttp"), 1.0),
    Goal("CPU per call of 32 KB / vllm-router", _ratio("call_32k_cpu_s", "vllm-router"), None, 0.9),
    Goal("CPU per paced chunk / nginx", _ratio("chunk_cpu_s", "nginx"), 1.6, 1.3),
    Goal("CPU per paced chunk / vllm-router", _ratio("chunk_cpu_s", "vllm-router"), None, 1.0),
    Goal(f"CPU us per call of 1 KB, {OURS} - {BARE}", _over_bare("call_1k_cpu_s"), 30, form="{:.1f}"),
    Goal(f"CPU us per paced chunk, {OURS} - {BARE}", _over_bare("chunk_cpu_s"), 6, form="{:.1f}"),
    Goal("paced chunks / direct", _ratio("chunks_per_s", "direct"), 0.99, at_least=True, form="{:.3f}"),
    Goal("first token p99 at 100 streams, ms", _own("first_token_p99_s", 1e-3), 5.0, 2.0),
    Goal("calls/s, one worker", _own("calls_per_s"), 5000, 12_000, at_least=True, form="{:.0f}"),
    Goal("memory at start, MB", _own("memory_at_start_bytes", MB), 80, 60, form="{:.1f}"),
    Goal("memory gained over 50,000 more calls, MB", _growth, SOAK_GROWTH_BYTES / MB, form="{:.1f}"),
)


def verdicts(summary: Summary) -> list[str]:
    """A line for each goal that the run says something about."""
    return [line for goal in GOALS if (line := goal.line(summary)) is not None]
