"""One proxy's turn in a round, and the sum of all rounds.

CPU time is the proxy's own, user and system, of all its processes, divided by what it carried meanwhile: from machine to machine
the ratios of one run are what can be compared. Wall figures are shown as they are, beside those of the direct row; percentiles are
never subtracted.
"""

from __future__ import annotations

import http.client
import statistics
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from bench.overhead.harness import CannotRun, Durations, Harness, LoadResult, LoadShape, harness
from bench.overhead.plan import Plan
from bench.overhead.processes import Running, ask, cpu_s, machine_busy_s, memory_bytes, running
from bench.overhead.proxies import Proxy

US_PER_S = 1e6
OURS, BARE = "crossfade", "crossfade-pass"
DIFFERENCE = (
    f"{OURS} - {BARE}"  # what reading and rewriting costs beyond relaying; no proxy, so it has these fields only
)
CPU_FIELDS = ("call_1k_cpu_s", "call_32k_cpu_s", "chunk_cpu_s")


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What one round says of one proxy. None: not measured, or not the row's to say (the direct row has no proxy to weigh)."""

    start_s: float | None
    memory_at_start_bytes: float | None
    memory_after_calls_bytes: float | None
    memory_after_soak_bytes: float | None
    call_1k_cpu_s: float | None
    call_32k_cpu_s: float | None
    chunk_cpu_s: float | None
    calls_per_s: float
    rest_p50_s: float | None
    chunks_per_s: float
    first_token_p50_s: float | None
    first_token_p99_s: float | None
    gap_p99_s: float | None
    way_p99_s: float | None
    harness_share: float  # of one core, at saturation; near 1 the harness is what was measured in `calls_per_s`
    others_share: float  # of one core, taken meanwhile by processes that are not the bench's
    failed: float


class Spread(msgspec.Struct, frozen=True):
    """A figure over the rounds."""

    median: float
    lowest: float
    highest: float


Summary = dict[str, dict[str, Spread]]  # by proxy, then by field of Measured; what was never measured is not in it
Say = Callable[[str], None]


def measure(plan: Plan, proxies: Iterable[Proxy], say: Say) -> list[dict[str, Measured]]:
    """All rounds: in each, every proxy takes its turn, so that a noisy minute does not fall on one of them. Raises CannotRun."""
    rounds = []
    chosen = list(proxies)
    with tempfile.TemporaryDirectory(prefix="crossfade-bench-") as scratch, harness(plan, Path(scratch)) as driven:
        for number in range(1, plan.rounds + 1):
            found = {}
            for proxy in chosen:
                say(f"round {number} of {plan.rounds}: {proxy.name}")
                with running(proxy, driven, Path(scratch) / f"{number}-{proxy.name}") as process:
                    found[proxy.name] = _Turn(plan, driven, process).take(soaks=number == 1)
            rounds.append(found)
    return rounds


def summarize(rounds: list[dict[str, Measured]]) -> Summary:
    """Median, lowest and highest of each figure."""
    summary: Summary = {}
    for name in rounds[0]:
        figures = summary[name] = {}
        for field in Measured.__struct_fields__:
            values = [value for found in rounds if (value := getattr(found[name], field)) is not None]
            if values:
                figures[field] = _spread(values)
    if all(name in rounds[0] for name in (OURS, BARE)):
        summary[DIFFERENCE] = {field: _spread(_differences(rounds, field)) for field in CPU_FIELDS}
    return summary


def _differences(rounds: list[dict[str, Measured]], field: str) -> list[float]:
    """Round by round, so that a noisy minute falls on both."""
    return [getattr(found[OURS], field) - getattr(found[BARE], field) for found in rounds]


def _spread(values: list[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


class _Turn:
    """The steps of one proxy in one round, in their order."""

    def __init__(self, plan: Plan, driven: Harness, process: Running):
        self._plan = plan
        self._harness = driven
        self._process = process
        self._failed = 0
        self._harness_cpu_s = 0.0

    def take(self, *, soaks: bool) -> Measured:
        plan = self._plan
        at_start = self._memory_bytes()
        self._check_answers()
        self._load("1k", LoadShape(plan.connections, plan.calls_s / 8))
        busy_s, used_s = machine_busy_s(), self._used_s()
        calls, call_1k = self._load("1k", LoadShape(plan.connections, plan.calls_s))
        share = (self._harness_cpu_s + calls.cpu_s) / calls.took_s
        long_calls, call_32k = self._load("32k", LoadShape(plan.connections, plan.calls_s))
        rest, _ = self._load("1k", LoadShape(1, plan.rest_s))
        streams, stream_cpu = self._load(
            "1k-stream", LoadShape(plan.streams, plan.streams_s, plan.stagger_us, plan.warm_s)
        )
        self._check_chunks(streams)
        loads = (calls, long_calls, rest, streams)
        took_s = sum(load.took_s for load in loads)
        others_s = machine_busy_s() - busy_s - (self._used_s() - used_s) - sum(load.cpu_s for load in loads)
        after_calls = self._memory_bytes()
        return Measured(
            start_s=self._process.start_s,
            memory_at_start_bytes=at_start,
            memory_after_calls_bytes=after_calls,
            memory_after_soak_bytes=self._after_soak_bytes() if soaks and plan.soak_calls else None,
            call_1k_cpu_s=_per(call_1k, calls.ended),
            call_32k_cpu_s=_per(call_32k, long_calls.ended),
            chunk_cpu_s=_per(stream_cpu, streams.chunks),
            calls_per_s=calls.calls_per_s,
            rest_p50_s=_p50_s(rest.answer),
            chunks_per_s=streams.chunks_per_s,
            first_token_p50_s=_p50_s(streams.first_token),
            first_token_p99_s=_p99_s(streams.first_token),
            gap_p99_s=_p99_s(streams.gap),
            way_p99_s=_p99_s(streams.way),
            harness_share=share,
            others_share=max(0.0, others_s / took_s),
            failed=self._failed,
        )

    def _load(self, body: str, shape: LoadShape) -> tuple[LoadResult, float | None]:
        """Put a load on; what came of it, and the CPU time that it took the proxy."""
        pid = self._process.pid
        before_s, harness_before_s = cpu_s(pid) if pid else 0.0, cpu_s(self._harness.upstream.pid)
        result = self._harness.load(self._process.port, self._process.proxy.path, body, shape)
        used_s = cpu_s(pid) - before_s if pid else None
        self._harness_cpu_s = cpu_s(self._harness.upstream.pid) - harness_before_s
        self._failed += result.failed
        self._harness.check()
        if not result.ended:
            raise CannotRun(f"{self._process.proxy.name} ended no call at all: {result.first_failure}")
        return result, used_s

    def _after_soak_bytes(self) -> float | None:
        shape = LoadShape(self._plan.connections, self._plan.soak_s, calls=self._plan.soak_calls)
        self._load("1k", shape)
        return self._memory_bytes()

    def _check_answers(self) -> None:
        """One call and one stream, read in full: a proxy that answers wrongly must not be timed. Raises CannotRun."""
        proxy, port = self._process.proxy, self._process.port
        name, model = proxy.name, b'"model":"%b"' % proxy.model.encode()
        try:
            _, whole = ask(port, proxy.path, (self._harness.bodies / "1k").read_bytes())
            _, stream = ask(port, proxy.path, (self._harness.bodies / "1k-stream").read_bytes())
        except (OSError, http.client.HTTPException) as exc:
            raise CannotRun(f"{name} broke off an answer: {exc!r}") from exc
        chunks, models = stream.count(b'"content":"t'), stream.count(model)
        if model not in whole or chunks != self._plan.chunks or models != chunks + 2 or b"[DONE]" not in stream:
            raise CannotRun(f"{name} answers wrongly: {chunks} chunks, {models} with its name for the model; {whole!r}")

    def _check_chunks(self, streams: LoadResult) -> None:
        if not streams.failed and streams.chunks != streams.ended * self._plan.chunks:
            raise CannotRun(f"{self._process.proxy.name} lost chunks: {streams.chunks} of {streams.ended} streams came")

    def _memory_bytes(self) -> float | None:
        return memory_bytes(self._process.pid) if self._process.pid else None

    def _used_s(self) -> float:
        return cpu_s(self._harness.upstream.pid) + (cpu_s(self._process.pid) if self._process.pid else 0.0)


def _per(used_s: float | None, count: int) -> float | None:
    return used_s / count if used_s is not None and count else None


def _p50_s(durations: Durations | None) -> float | None:
    return durations.p50_us / US_PER_S if durations else None


def _p99_s(durations: Durations | None) -> float | None:
    return durations.p99_us / US_PER_S if durations else None
