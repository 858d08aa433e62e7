"""Whether a backend may be given more calls: by its state where that is known, by its health probe where it is not."""

from __future__ import annotations

import random

from router.building import build_fleet
from router.config import loads
from router.fitness import unfit
from router.fleet import Fleet, LiveReplica
from tests.running import config_for
from tests.upstream import Upstream, answer, says

NOBODY = "http://127.0.0.1:9"


def fleet_of(b: str, more: str = "") -> Fleet:
    config = config_for({"a": NOBODY, "b": b}, f"split: {{a: 1.0}}{more}")
    return build_fleet(loads(config, {}).config, {}, random.Random(1))


def replica_of(fleet: Fleet) -> LiveReplica:
    return fleet.backends["b"].replicas[0]


async def test_one_that_nobody_has_asked_yet_is_asked_now() -> None:
    async with Upstream(says()) as b:
        fleet = fleet_of(b.url)
        assert await unfit(fleet, "jane", ["b"]) == ""
        assert b.connections > 0
    assert "does not answer its health probe" in await unfit(fleet, "jane", ["b"])


async def test_one_that_is_known_to_be_well_is_not_asked_again() -> None:
    fleet = fleet_of(NOBODY)
    replica_of(fleet).probed_at_s = 1.0
    assert await unfit(fleet, "jane", ["b"]) == ""
    replica_of(fleet).probe_said = "connection refused"
    assert "does not answer its health probe" in await unfit(fleet, "jane", ["b"])


async def test_one_that_is_ejected_is_refused_with_the_reason_though_it_would_answer() -> None:
    async with Upstream(says()) as b:
        fleet = fleet_of(b.url)
        replica_of(fleet).health["jane"].keep_out(1e12, "5 failures in a row")
        said = await unfit(fleet, "jane", ["b"])
        assert said == f"b is not fit for calls of jane: {b.url} is ejected (5 failures in a row)"
        assert b.connections == 0


async def test_one_that_came_back_but_had_no_call_yet_is_asked() -> None:
    async with Upstream(says()) as b:
        fleet = fleet_of(b.url)
        health = replica_of(fleet).health["jane"]
        health.keep_out(1e12, "its first health probe failed")
        health.probe_failed(1e12)
        health.probe_succeeded(1e12)
        assert await unfit(fleet, "jane", ["b"]) == ""


async def test_one_that_does_not_list_the_model_is_refused() -> None:
    listed = answer({"object": "list", "data": [{"id": "another"}]})
    async with Upstream(says(), lists={"/v1/models": listed}) as b:
        assert f"{b.url} does not list real-b" in await unfit(fleet_of(b.url), "jane", ["b"])


async def test_of_several_replicas_one_that_is_well_is_enough() -> None:
    async with Upstream(says()) as b:
        config = config_for({"a": NOBODY, "b": b.url}, "split: {a: 1.0}").replace(
            f"url: {b.url}", f"urls: [{NOBODY}, {b.url}]"
        )
        fleet = build_fleet(loads(config, {}).config, {}, random.Random(1))
        assert await unfit(fleet, "jane", ["b"]) == ""
        fleet.backends["b"].drain({b.url})
        assert "does not answer" in await unfit(fleet, "jane", ["b"]), "who is draining does not count"


async def test_one_that_is_draining_is_refused() -> None:
    async with Upstream(says()) as b:
        fleet = fleet_of(b.url)
        fleet.backends["b"].drain({b.url})
        assert await unfit(fleet, "jane", ["b"]) == "b is draining; undrain it first"


async def test_one_of_a_kind_that_cannot_be_called_is_refused() -> None:
    config = config_for({"a": NOBODY}, "split: {a: 1.0}").replace(
        "models:", "  c: {kind: litellm, provider: openai}\nmodels:"
    )
    fleet = build_fleet(
        loads(config.replace("on: {a: real-a}", "on: {a: real-a, c: x}"), {}).config, {}, random.Random(1)
    )
    assert await unfit(fleet, "jane", ["c"]) == "c cannot be called by this version"
