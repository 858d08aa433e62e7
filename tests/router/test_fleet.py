"""The live state: who gets the next attempt of a backend, and what a choice may count on, also while somebody comes back."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from backends.dialects import Abilities
from policies.choose import MOST_BYTES_PER_TOKEN
from policies.ejection import State
from router.building import build_fleet
from router.capabilities import MISSING_S
from router.config import loads
from router.fleet import Fleet, LiveModel, LiveReplica
from tests.running import config_for

TWO = {"a": "http://127.0.0.1:1", "b": "http://127.0.0.1:2"}


def fleet_of(config: str = "") -> Fleet:
    return build_fleet(loads(config or config_for(TWO), {}).config, {}, random.Random(1))


def two_replicas() -> tuple[Fleet, LiveReplica, LiveReplica]:
    """One backend of two replicas."""
    config = """
backends: {a: {kind: vllm, urls: ["http://127.0.0.1:1", "http://127.0.0.1:2"]}}
models: {jane: {on: {a: x}, split: {a: 1.0}}}
"""
    fleet = fleet_of(config)
    one, other = fleet.backends["a"].replicas
    return fleet, one, other


def trip(model: LiveModel, replica: LiveReplica, now_s: float) -> None:
    """Eject a replica by failures."""
    for _ in range(5):
        replica.health["jane"].failed(now_s)
    assert replica.health["jane"].state is State.EJECTED
    model.count_unwell(now_s)


def bring_back(model: LiveModel, replica: LiveReplica, now_s: float) -> None:
    """Let its probing call succeed."""
    assert replica.health["jane"].may_take(now_s)
    replica.health["jane"].succeeded(now_s)
    model.count_unwell(now_s)


def picks(fleet: Fleet, now_s: float, count: int = 1000) -> Counter[str]:
    """Who is picked how often, by URL."""
    backend = fleet.backends["a"]
    return Counter(backend.pick("jane", now_s, fleet.rng).url for _ in range(count))


def test_the_snapshot_is_one_object_before_an_ejection_and_again_after_the_ramp() -> None:
    fleet = fleet_of()
    model, replica = fleet.models["jane"], fleet.backends["a"].replicas[0]
    well = model.snapshot(100.0)
    assert well is model.snapshot(101.0) and well.all_in_rotation
    trip(model, replica, 102.0)
    assert not model.snapshot(102.0).views["a"].in_rotation
    bring_back(model, replica, 112.0)
    weights = [model.snapshot(now_s).views["a"].weight for now_s in (112.0, 115.0, 117.0, 121.0)]
    assert weights == pytest.approx([0.1, 0.3, 0.5, 0.9])
    assert model.snapshot(122.0) is well and model.unwell == 0


def test_a_ramp_that_ends_while_another_is_out_leaves_that_one_out() -> None:
    fleet = fleet_of()
    model, a, b = fleet.models["jane"], fleet.backends["a"].replicas[0], fleet.backends["b"].replicas[0]
    trip(model, a, 100.0)
    bring_back(model, a, 105.0)
    trip(model, b, 106.0)
    late = model.snapshot(110.2)
    assert not late.views["b"].in_rotation and late.views["a"].weight == 1.0
    bring_back(model, b, 201.0)
    assert model.snapshot(202.0).views["b"].weight == 0.1 and model.snapshot(231.0).all_in_rotation


def test_a_backend_is_ramped_only_where_all_that_it_has_in_rotation_are() -> None:
    fleet, one, other = two_replicas()
    model, backend = fleet.models["jane"], fleet.backends["a"]
    trip(model, one, 100.0)
    bring_back(model, one, 130.0)
    assert backend.weight("jane", 130.0) == 1.0
    trip(model, other, 131.0)
    assert backend.weight("jane", 142.0) == pytest.approx(0.4)


def test_a_replica_that_comes_back_gets_its_calls_by_and_by() -> None:
    fleet, one, other = two_replicas()
    trip(fleet.models["jane"], one, 100.0)
    assert picks(fleet, 101.0) == {other.url: 1000}
    bring_back(fleet.models["jane"], one, 130.0)
    counts = [picks(fleet, 130.0 + since_s)[one.url] for since_s in (0.0, 15.0, 30.0)]
    assert counts == [pytest.approx(91, abs=30), pytest.approx(333, abs=50), pytest.approx(500, abs=60)]


def test_a_replica_that_failed_fast_is_not_taken_for_an_idle_one() -> None:
    fleet, one, other = two_replicas()
    other.in_flight = 3
    assert picks(fleet, 100.0) == {one.url: 1000}
    for _ in range(4):
        one.bias.failed(100.0)
    assert picks(fleet, 100.0) == {other.url: 1000}
    assert picks(fleet, 106.0) == {one.url: 1000}


def test_a_replica_that_asked_to_be_left_alone_is_while_another_is_there() -> None:
    fleet, one, other = two_replicas()
    other.in_flight = 50
    one.bias.failed(100.0, 20.0)
    assert picks(fleet, 119.0) == {other.url: 1000} and picks(fleet, 121.0) == {one.url: 1000}
    other.bias.failed(110.0, 20.0)
    assert picks(fleet, 115.0) == {one.url: 1000}


def test_a_missing_api_changes_the_snapshot_and_is_forgotten_by_the_next_call_that_is_late_enough() -> None:
    fleet = fleet_of()
    model = fleet.models["jane"]
    well = model.snapshot(100.0)
    model.misses(model.bindings["a"], "embeddings", 100.0, "it has no such route")
    model.misses(model.bindings["a"], "embeddings", 110.0, "it has no such route")
    for now_s in (110.0, 110.0 + MISSING_S - 1):
        assert model.snapshot(now_s).views["a"].missing == {"embeddings"}, "the second meeting counts"
        assert not model.snapshot(now_s).views["b"].missing
    assert model.snapshot(110.0 + MISSING_S) == well


def test_a_snapshot_knows_what_each_backend_lacks_also_while_somebody_is_out() -> None:
    fleet = fleet_of()
    model = fleet.models["jane"]
    model.bindings["a"].abilities.heard(0, Abilities({"n": False}, 50))
    model.note_abilities()
    assert model.snapshot(100.0).safe_bytes == 50 * MOST_BYTES_PER_TOKEN
    trip(model, fleet.backends["b"].replicas[0], 101.0)
    for view in (model.snapshot(100.0).views["a"], model.snapshot(102.0).views["a"]):
        assert "n" in view.lacks and view.context_tokens == 50
