"""The health monitor: what probes and lists of models bring about, and that nobody is asked for inference."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from policies.ejection import State
from router.building import build_fleet
from router.config import loads
from router.fleet import Fleet, LiveReplica
from router.monitor import LISTS_EVERY, Monitor
from router.readiness import readiness
from tests.running import running
from tests.upstream import Upstream, answer, says


def listed(*names: str) -> bytes:
    return answer({"object": "list", "data": [{"id": name} for name in names]})


def states(**loaded: bool) -> bytes:
    """LM Studio's own list."""
    return answer({"data": [{"id": name, "state": "loaded" if it else "not-loaded"} for name, it in loaded.items()]})


def config(a: Upstream, b: Upstream, kind: str = "vllm") -> str:
    """Two models on a, one of them on b too."""
    return f"""
backends: {{a: {{kind: {kind}, url: "{a.url}"}}, b: {{kind: openai, url: "{b.url}"}}}}
models:
  jane: {{on: {{a: big, b: x}}, split: {{a: 1.0}}, retry: {{attempts_per_backend: 1}}}}
  kim: {{on: {{a: small}}, split: {{a: 1.0}}}}
"""


class Watched:
    """A fleet under a monitor whose rounds the test makes."""

    def __init__(self, fleet: Fleet):
        self.fleet = fleet
        self.monitor = Monitor(fleet)
        self.a = fleet.backends["a"].replicas[0]
        self.b = fleet.backends["b"].replicas[0]

    async def rounds(self, count: int = LISTS_EVERY) -> None:
        for _ in range(count):
            await self.monitor.round()

    def reasons(self, model: str) -> list[str]:
        rows = readiness(self.fleet).as_json()["models"][model]
        return [row["reason"] for replicas in rows.values() for row in replicas]


@asynccontextmanager
async def watched(a: Upstream, b: Upstream, kind: str = "vllm") -> AsyncIterator[Watched]:
    fleet = build_fleet(loads(config(a, b, kind), {}).config, {}, random.Random(1))
    try:
        yield Watched(fleet)
    finally:
        for backend in fleet.backends.values():
            for replica in backend.replicas:
                replica.server.pool.close()


def state_of(replica: LiveReplica, model: str = "jane") -> State:
    return replica.health[model].state


async def test_a_model_that_is_not_listed_is_held_out_and_the_others_stay(caplog: pytest.LogCaptureFixture) -> None:
    a = Upstream(says("x"), lists={"/v1/models": listed("small")})
    async with a, Upstream(says("x")) as b, watched(a, b) as watch:
        await watch.rounds()
        assert watch.a.health["jane"].is_held_out and state_of(watch.a, "kim") is State.IN_ROTATION
        assert watch.fleet.models["jane"].unwell == 1 and watch.fleet.models["kim"].unwell == 0
        assert watch.reasons("jane") == ["the backend does not list the model", ""]
        assert readiness(watch.fleet).is_ready
        await watch.rounds(2 * LISTS_EVERY)
        said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert len(said) == 1 and "'big'" in said[0] and "models.jane.on" in said[0], "once, not with every round"
        a.lists["/v1/models"] = listed("small", "big")
        await watch.rounds()
        assert state_of(watch.a) is State.PROBING, "the next call decides"
        assert watch.reasons("jane")[0] == "its health probe is well"


async def test_the_last_one_stays_in_rotation_and_what_it_lacks_is_said() -> None:
    a = Upstream(says("x"), lists={"/v1/models": listed("big")})
    async with a, Upstream(says("x")) as b, watched(a, b) as watch:
        await watch.rounds()
        assert state_of(watch.a, "kim") is State.IN_ROTATION and readiness(watch.fleet).is_ready
        assert watch.reasons("kim") == ["the backend does not list the model"]


async def test_who_was_the_last_one_is_held_out_as_soon_as_another_is_there() -> None:
    a = Upstream(says("x"), lists={"/v1/models": listed("small")})
    async with a, Upstream(says("x")) as b, watched(a, b) as watch:
        watch.b.health["jane"].keep_out(0.0, "a test")
        await watch.rounds()
        assert state_of(watch.a) is State.IN_ROTATION
        assert watch.b.health["jane"].may_take(1e9)
        watch.b.health["jane"].succeeded(1e9)
        await watch.rounds()
        assert watch.a.health["jane"].is_held_out


@pytest.mark.parametrize(
    "lists",
    [{}, {"/v1/models": answer({"error": "Unauthorized"}, "401 Unauthorized")}, {"/v1/models": answer(b"<html>")}],
    ids=["no names", "no leave to read it", "no list"],
)
async def test_a_list_that_says_nothing_changes_nothing(lists: dict[str, bytes]) -> None:
    async with Upstream(says("x"), lists=lists) as a, Upstream(says("x")) as b, watched(a, b) as watch:
        await watch.rounds()
        assert state_of(watch.a) is State.IN_ROTATION and watch.reasons("jane") == ["", ""]


async def test_a_list_that_says_nothing_any_more_lets_nobody_go() -> None:
    a = Upstream(says("x"), lists={"/v1/models": listed("small")})
    async with a, Upstream(says("x")) as b, watched(a, b) as watch:
        await watch.rounds()
        a.lists["/v1/models"] = answer(b"<html>")
        await watch.rounds()
        assert watch.a.health["jane"].is_held_out


async def test_lists_are_read_at_once_where_a_replica_turns_out_well_and_seldom_otherwise() -> None:
    a = Upstream(says("x"), lists={"/v1/models": listed("small", "big")})
    async with a, Upstream(says("x")) as b, watched(a, b) as watch:
        await watch.rounds(1)
        a.lists["/v1/models"] = listed("small")
        await watch.rounds(1)
        assert state_of(watch.a) is State.IN_ROTATION, "not with every round"
        a.is_well = False
        await watch.rounds(1)
        a.is_well = True
        await watch.rounds(1)
        assert watch.a.health["jane"].is_held_out


# -- LM Studio -------------------------------------------------------------------------------------


async def test_a_model_that_the_next_call_would_load_gets_one_call_at_a_time_until_it_is() -> None:
    lists = {"/v1/models": listed("big", "small"), "/api/v0/models": states(big=False, small=True)}
    async with Upstream(says("x"), lists=lists) as a, Upstream(says("x")) as b, watched(a, b, "lmstudio") as watch:
        await watch.rounds(1)
        health = watch.a.health["jane"]
        assert state_of(watch.a) is State.PROBING and state_of(watch.a, "kim") is State.IN_ROTATION
        assert watch.reasons("jane")[0] == "the model is not loaded; a call loads it"
        assert [health.may_take(1e9), health.may_take(1e9)] == [True, False]
        await watch.rounds()
        assert state_of(watch.a) is State.PROBING and not health.may_take(1e9), "its call is still on the way"
        health.succeeded(1e9)
        a.lists["/api/v0/models"] = states(big=True, small=True)
        await watch.rounds()
        assert state_of(watch.a) is State.IN_ROTATION and watch.reasons("jane")[0] == "a probing call succeeded"
        assert health.weight(1e9) == 1.0, "what was loaded for the first time is no return"


async def test_a_model_that_lm_studio_neither_has_loaded_nor_would_load_is_held_out() -> None:
    lists = {"/v1/models": listed("small"), "/api/v0/models": states(big=False, small=True)}
    async with Upstream(says("x"), lists=lists) as a, Upstream(says("x")) as b, watched(a, b, "lmstudio") as watch:
        await watch.rounds(1)
        assert watch.a.health["jane"].is_held_out


async def test_while_one_call_loads_the_model_the_others_are_answered_elsewhere() -> None:
    lists = {"/v1/models": listed("big", "small"), "/api/v0/models": states(big=False, small=True)}
    async with (
        Upstream(says("x"), lists=lists) as a,
        Upstream(says("x")) as b,
        running(config(a, b, "lmstudio")) as router,
    ):
        for _ in range(500):
            report = (await router.client.get("/health/ready")).json()["models"]["jane"]
            if report["a"][0]["state"] == "probing":
                break
        assert report["a"][0] == {"state": "probing", "reason": "the model is not loaded; a call loads it"}
        response = await router.chat(headers={"x-crossfade-explain": "1"})
        assert response.headers["x-crossfade-backend"] == "a", response.headers["x-crossfade-trail"]
    assert json.loads(a.received[0].body)["model"] == "big"


# -- what servers can do ---------------------------------------------------------------------------

CHAT_ALONE = answer({"paths": {"/v1/chat/completions": {}, "/v1/models": {}}})


async def test_what_a_server_says_of_itself_is_asked_once_in_its_life_and_its_lists_again_and_again() -> None:
    lists = {"/openapi.json": CHAT_ALONE, "/v1/models": answer({"data": [{"id": "big", "max_model_len": 100}]})}
    async with Upstream(says("x"), lists=lists) as a, Upstream(says("x")) as b, watched(a, b) as watch:
        abilities = watch.fleet.models["jane"].bindings["a"].abilities
        await watch.rounds(1)
        assert "embeddings" in abilities.lacks and abilities.context_tokens == 100
        a.lists["/openapi.json"] = answer({"paths": {"/v1/embeddings": {}, "/v1/models": {}}})
        a.lists["/v1/models"] = answer({"data": [{"id": "big", "max_model_len": 200}]})
        await watch.rounds(2 * LISTS_EVERY)
        assert "embeddings" in abilities.lacks and abilities.context_tokens == 200
        a.is_well = False
        await watch.rounds(1)
        a.is_well = True
        await watch.rounds(1)
        assert "embeddings" not in abilities.lacks and "chat" in abilities.lacks, "it may be another server now"
        views = watch.fleet.models["jane"].snapshot(1e9).views
        assert "chat" in views["a"].lacks and views["a"].context_tokens == 200


async def test_a_server_that_did_not_say_is_asked_again() -> None:
    async with Upstream(says("x")) as a, Upstream(says("x")) as b, watched(a, b) as watch:
        a.lists["/openapi.json"] = answer({"detail": "Not Found"}, "404 Not Found")
        await watch.rounds(1)
        abilities = watch.fleet.models["jane"].bindings["a"].abilities
        assert "embeddings" not in abilities.lacks
        a.lists["/openapi.json"] = CHAT_ALONE
        await watch.rounds()
        assert "embeddings" in abilities.lacks


async def test_a_list_that_does_not_come_takes_nothing_back() -> None:
    entries = [{"id": "big", "type": "vlm", "state": "loaded", "loaded_context_length": 100}]
    lists = {"/v1/models": listed("big", "small"), "/api/v0/models": answer({"data": entries})}
    async with Upstream(says("x"), lists=lists) as a, Upstream(says("x")) as b, watched(a, b, "lmstudio") as watch:
        abilities = watch.fleet.models["jane"].bindings["a"].abilities
        await watch.rounds(1)
        assert "images" not in abilities.lacks and abilities.context_tokens == 100
        a.lists["/api/v0/models"] = answer({"error": "busy"}, "500 Oh")
        await watch.rounds()
        assert "images" not in abilities.lacks and abilities.context_tokens == 100
        a.lists["/api/v0/models"] = answer({"data": [{"id": "big", "type": "llm", "state": "loaded"}]})
        await watch.rounds()
        assert "images" in abilities.lacks and abilities.context_tokens is None


async def test_what_an_answer_showed_is_forgotten_where_the_server_was_away() -> None:
    async with Upstream(says("x")) as a, Upstream(says("x")) as b, watched(a, b) as watch:
        model = watch.fleet.models["jane"]
        await watch.rounds(1)
        model.misses(model.bindings["a"], "embeddings", 1.0, "it has no such route")
        await watch.rounds()
        assert model.snapshot(2.0).views["a"].missing == {"embeddings"}
        a.is_well = False
        await watch.rounds(1)
        a.is_well = True
        await watch.rounds(1)
        assert not model.bindings["a"].abilities.missing


async def test_a_document_of_the_size_that_a_real_vllm_writes_is_read() -> None:
    paths = json.loads(CHAT_ALONE.partition(b"\r\n\r\n")[2])
    lists = {"/openapi.json": answer(paths | {"components": "x" * 280_000})}
    async with Upstream(says("x"), lists=lists) as a, Upstream(says("x")) as b, watched(a, b) as watch:
        await watch.rounds(1)
        assert "embeddings" in watch.fleet.models["jane"].bindings["a"].abilities.lacks


# -- probes ----------------------------------------------------------------------------------------


async def test_a_failure_that_the_probe_sees_too_counts_whoever_it_came_from() -> None:
    a = Upstream(says("x"))
    async with a, Upstream(says("x")) as b, watched(a, b) as watch:
        health = watch.a.health["jane"]
        await watch.rounds(1)
        for _ in range(9):
            health.failed(1.0, voters=(b"ann",))
        assert state_of(watch.a) is State.IN_ROTATION
        a.is_well = False
        await watch.rounds(1)
        for _ in range(5):
            health.failed(2.0, voters=(b"ann",))
        assert state_of(watch.a) is State.EJECTED


async def test_nobody_is_asked_for_inference() -> None:
    lists = {"/v1/models": listed("big", "small"), "/api/v0/models": states(big=True, small=True)}
    async with Upstream(says("x"), lists=lists) as a, Upstream(says("x")) as b, watched(a, b, "lmstudio") as watch:
        await watch.rounds(2 * LISTS_EVERY)
        assert a.received == [] and b.received == []
