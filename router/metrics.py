"""Counts and durations of calls, kept as plain numbers on the path and turned into Prometheus' form only when somebody asks.

Labels come from the configuration alone (models, backends) and from our own enums, so their number is bounded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from backends.usage import Usage
from policies.admission import Priority
from router.fleet import Fleet
from router.gate import Gate
from router.lag import Lag

# vLLM's own buckets for time to first token (vllm/v1/metrics/loggers.py), so that both can be laid side by side.
SECONDS = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
    160.0,
    640.0,
)


DIRECTIONS = ("prompt", "completion", "cached", "reasoning")


class Durations:
    """A histogram: one bisect and two additions an observation."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.sum_s += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as Prometheus wants them."""
        total = 0
        rows = []
        for bound, count in zip((*SECONDS, float("inf")), self.counts, strict=True):
            total += count
            rows.append(("+Inf" if bound == float("inf") else repr(bound), float(total)))
        return rows


class Metrics:
    """What is counted: calls by how they ended, attempts by outcome, decisions to go on or not, and durations."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str, str]] = Counter()
        self.attempts: Counter[tuple[str, str, str]] = Counter()
        self.steps: Counter[tuple[str, str]] = Counter()
        self.resumes: Counter[tuple[str, str, str]] = Counter()
        self.tokens: dict[tuple[str, str], list[int]] = {}  # a count for each of DIRECTIONS
        self.turned_away: Counter[tuple[str]] = Counter()
        self.client_retries: Counter[tuple[str]] = Counter()
        self.judged: Counter[tuple[str, str, str]] = Counter()
        self.lag = Lag()
        self._first: dict[tuple[str, str], Durations] = defaultdict(Durations)
        self._whole: dict[tuple[str, str], Durations] = defaultdict(Durations)

    def first_content(self, model: str, backend: str, seconds: float) -> None:
        """Time from the attempt's start to its first content."""
        self._first[model, backend].observe(seconds)

    def whole_call(self, model: str, backend: str, seconds: float) -> None:
        """Time from the call's arrival to its end."""
        self._whole[model, backend].observe(seconds)

    def used(self, model: str, backend: str, usage: Usage) -> None:
        """The tokens of one call. Those that came from a cache are of its prompt, those of reasoning are of its answer."""
        tokens = self.tokens.get((model, backend))
        if tokens is None:
            tokens = self.tokens[model, backend] = [0] * len(DIRECTIONS)
        tokens[0] += usage.prompt
        tokens[1] += usage.answer
        if usage.cached or usage.reasoning:
            tokens[2] += usage.cached
            tokens[3] += usage.reasoning

    def families(self) -> Iterable[Metric]:
        """Everything, in Prometheus' terms."""
        yield _counter("crossfade_calls", "Calls, by how they ended.", ("model", "backend", "result"), self.calls)
        yield _counter("crossfade_attempts", "Attempts, by outcome.", ("model", "backend", "outcome"), self.attempts)
        yield _counter("crossfade_steps", "What followed a failed attempt, by reason.", ("model", "reason"), self.steps)
        yield _counter(
            "crossfade_resumes", "Broken streams, by what followed.", ("model", "how", "result"), self.resumes
        )
        yield _counter(
            "crossfade_tokens",
            "Tokens as backends count them; cached are part of prompt, reasoning of completion.",
            ("model", "backend", "direction"),
            {
                (*where, direction): count
                for where, counts in list(self.tokens.items())
                for direction, count in zip(DIRECTIONS, counts, strict=True)
            },
        )
        yield _counter(
            "crossfade_turned_away", "Requests that never became calls, by reason.", ("reason",), self.turned_away
        )
        yield _counter(
            "crossfade_contract_judged",
            "Answers judged by the model's contract, by result; of plain calls only violations.",
            ("model", "backend", "result"),
            self.judged,
        )
        yield _counter(
            "crossfade_client_retries", "Calls that a client's SDK has made before.", ("model",), self.client_retries
        )
        yield _histogram("crossfade_first_token_seconds", "Attempt start to first content.", self._first)
        yield _histogram("crossfade_call_seconds", "Arrival of a call to its end.", self._whole)
        yield from _lag_families(self.lag)


class _Scrape(Collector):
    def __init__(self, families: Iterable[Metric]):
        self._families = tuple(families)  # a registry collects twice: once for the names

    def collect(self) -> Iterable[Metric]:
        return self._families


def _lag_families(lag: Lag) -> Iterable[Metric]:
    yield GaugeMetricFamily("crossfade_loop_lag_seconds", "How late the event loop was at the last look.", lag.last_s)
    yield CounterMetricFamily("crossfade_loop_stalls", "Times that the router itself stood still.", lag.stalls)
    yield CounterMetricFamily("crossfade_loop_stalled_seconds", "How long it stood still in all.", lag.stalled_s)


def _fleet_families(fleet: Fleet) -> Iterable[Metric]:
    rotation = GaugeMetricFamily(
        "crossfade_in_rotation", "1 where a replica takes calls of a model.", labels=("model", "backend", "replica")
    )
    flying = GaugeMetricFamily("crossfade_in_flight", "Attempts that are running.", labels=("backend", "replica"))
    share = GaugeMetricFamily(
        "crossfade_share", "The share of a model's calls that a backend is meant to get.", labels=("model", "backend")
    )
    for backend in fleet.backends.values():
        for replica in backend.replicas:
            flying.add_metric((backend.name, replica.url), replica.in_flight)
            for model, health in replica.health.items():
                rotation.add_metric((model, backend.name, replica.url), float(health.state == "in_rotation"))
    for live in fleet.models.values():
        for name, value in live.split.items():
            share.add_metric((live.name, name), value)
    yield from (rotation, flying, share)
    yield GaugeMetricFamily("crossfade_revision", "The routing state in force.", value=fleet.revision)


def _gate_families(gates: Mapping[tuple[str, str], Gate]) -> Iterable[Metric]:
    """Of each queue, the router's own and each backend's."""
    where = ("queue", "backend")
    inside = GaugeMetricFamily("crossfade_inside", "Calls that have a place.", labels=where)
    limit = GaugeMetricFamily("crossfade_limit", "Places that there are.", labels=where)
    length = GaugeMetricFamily("crossfade_queue_length", "Calls that wait for a place.", labels=(*where, "priority"))
    refused = CounterMetricFamily(
        "crossfade_queue_refused",
        "Calls that got no place, by class and reason.",
        labels=(*where, "priority", "reason"),
    )
    for labels, gate in gates.items():
        inside.add_metric(labels, gate.inside)
        limit.add_metric(labels, gate.limit)
        for priority in Priority:
            length.add_metric((*labels, priority.label), gate.length(priority))
        for (priority, reason), count in list(gate.refused.items()):
            refused.add_metric((*labels, priority.label, reason.value), count)
    yield from (inside, limit, length, refused)


def _counter(name: str, help_text: str, labels: tuple[str, ...], counts: Mapping[Any, int]) -> Metric:
    family = CounterMetricFamily(name, help_text, labels=labels)
    for values, count in list(counts.items()):
        family.add_metric(values, count)
    return family


def _histogram(name: str, help_text: str, table: dict[tuple[str, str], Durations]) -> Metric:
    family = HistogramMetricFamily(name, help_text, labels=("model", "backend"))
    for values, durations in list(table.items()):
        family.add_metric(values, durations.buckets(), durations.sum_s)
    return family


def families(metrics: Metrics, fleet: Fleet, door: Gate) -> Iterable[Metric]:
    """All that is counted in this process. `door`: the router's own limit."""
    yield from metrics.families()
    yield from _fleet_families(fleet)
    backends = fleet.backends.values()
    yield from _gate_families({("router", ""): door} | {("backend", b.name): b.gate for b in backends})


def as_text(families: Iterable[Metric]) -> bytes:
    """In the form that Prometheus scrapes."""
    registry = CollectorRegistry()
    registry.register(_Scrape(families))
    return generate_latest(registry)


def exposition(metrics: Metrics, fleet: Fleet, door: Gate) -> bytes:
    """The text that Prometheus scrapes of one process."""
    return as_text(families(metrics, fleet, door))
