"""The metrics of several workers as those of one router: what counts adds up, what is a state is told once.

A state that differs from worker to worker is told as the worst of them, so that an alert on it goes off: the smallest where less is worse,
else the largest. A worker that does not answer is there with what it counted last: a sum that fell and rose again would be taken for
a restart, and all that was ever counted would be counted again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from prometheus_client.core import Metric

ADD_UP = frozenset(
    {"crossfade_in_flight", "crossfade_inside", "crossfade_queue_length"}
)  # gauges, each worker's part of a number
LESS_IS_WORSE = frozenset(
    {"crossfade_in_rotation", "crossfade_revision"}
)  # out in one worker; not everywhere in force yet


def packed(families: Iterable[Metric]) -> bytes:
    """For another worker."""
    return msgspec.json.encode(
        [
            (family.name, family.type, family.documentation, [(s.name, s.labels, s.value) for s in family.samples])
            for family in families
        ]
    )


def unpacked(data: bytes) -> list[Metric]:
    """What `packed` made. Raises msgspec.DecodeError."""
    families = []
    for name, kind, text, samples in msgspec.json.decode(data, type=list[tuple[str, str, str, list[Any]]]):
        families.append(Metric(name, text, kind))
        for sample in samples:
            families[-1].add_sample(*sample)
    return families


def counted(families: Iterable[Metric]) -> list[Metric]:
    """Those alone that only ever grow."""
    return [family for family in families if family.type in ("counter", "histogram")]


def summed(workers: Sequence[Iterable[Metric]]) -> list[Metric]:
    """The families of all workers as one's; in the order of the first worker that has them."""
    whole: dict[str, Metric] = {}
    values: dict[str, dict[tuple[Any, ...], float]] = {}
    for families in workers:
        for family in families:
            whole.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            known = values.setdefault(family.name, {})
            for sample in family.samples:
                key = (sample.name, *sample.labels.items())
                known[key] = sample.value if key not in known else _folded(family, known[key], sample.value)
    for name, family in whole.items():
        for (sample_name, *labels), value in values[name].items():
            family.add_sample(sample_name, dict(labels), value)
    return list(whole.values())


def _folded(family: Metric, one: float, other: float) -> float:
    if family.type in ("counter", "histogram") or family.name in ADD_UP:
        return one + other
    return min(one, other) if family.name in LESS_IS_WORSE else max(one, other)
