"""What several workers count, told as one router's: sums, states that are told once, and who was restarted in between."""

from __future__ import annotations

import msgspec
import pytest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from router.metrics import as_text
from router.summing import counted, packed, summed, unpacked


def counter(**values: float) -> Metric:
    family = CounterMetricFamily("crossfade_calls", "Calls.", labels=("result",))
    for label, value in values.items():
        family.add_metric((label,), value)
    return family


def gauge(name: str, value: float) -> Metric:
    return GaugeMetricFamily(name, "A state.", value)


def values(families: list[Metric]) -> dict[str, float]:
    return {f"{s.name}{list(s.labels.values()) or ''}": s.value for family in families for s in family.samples}


def test_counters_add_up_label_by_label() -> None:
    found = summed([[counter(ok=3, failed=1)], [counter(ok=4)], [counter(stopped=2)]])
    assert values(found) == {
        "crossfade_calls_total['ok']": 7,
        "crossfade_calls_total['failed']": 1,
        "crossfade_calls_total['stopped']": 2,
    }


def test_histograms_add_up_bucket_by_bucket() -> None:
    def one(*buckets: float) -> Metric:
        family = HistogramMetricFamily("seconds", "Durations.", labels=("model",))
        bounds = ("0.1", "1.0", "+Inf")
        family.add_metric(("jane",), list(zip(bounds, buckets, strict=True)), 0.5)
        return family

    text = as_text(summed([[one(1, 2, 3)], [one(0, 5, 5)]])).decode()
    assert 'seconds_bucket{le="1.0",model="jane"} 7.0' in text
    assert 'seconds_count{model="jane"} 8.0' in text and 'seconds_sum{model="jane"} 1.0' in text


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("crossfade_in_flight", 3),
        ("crossfade_inside", 3),
        ("crossfade_queue_length", 3),
        ("crossfade_limit", 2),
        ("crossfade_loop_lag_seconds", 2),
        ("crossfade_in_rotation", 1),
        ("crossfade_revision", 1),
    ],
)
def test_a_gauge_is_a_part_of_a_number_or_a_state_told_as_the_worst(name: str, told: float) -> None:
    for pair in ([1.0, 2.0], [2.0, 1.0]):
        assert values(summed([[gauge(name, value)] for value in pair])) == {name: told}


def test_what_a_worker_tells_another_is_what_it_would_have_shown() -> None:
    families = [counter(ok=3), gauge("crossfade_limit", 512)]
    assert as_text(unpacked(packed(families))) == as_text(families)


def test_only_what_grows_is_kept_of_one_that_is_gone() -> None:
    assert [each.name for each in counted([counter(ok=1), gauge("crossfade_inside", 4)])] == ["crossfade_calls"]


def test_half_of_what_was_told_is_nothing() -> None:
    with pytest.raises(msgspec.DecodeError):
        unpacked(packed([counter(ok=1)])[:-5])
