"""`/health`: ready where every model has somebody to answer it, and not a word about where they live."""

from __future__ import annotations

import random

import pytest

from backends.dialects import Abilities
from router.building import build_fleet
from router.config import loads
from router.fleet import Fleet
from router.readiness import readiness
from tests.running import config_for, running

TWO_MODELS = config_for({"a": "http://10.0.0.1:1", "b": "http://10.0.0.2:2"}) + "\n  kim: {on: {b: x}, split: {b: 1.0}}"


def fleet_with(*out: tuple[str, str], draining: str = "") -> Fleet:
    """A fleet whose (backend, model) pairs in `out` are out of rotation."""
    fleet = build_fleet(loads(TWO_MODELS, {}).config, {}, random.Random())
    for backend, model in out:
        fleet.backends[backend].replicas[0].health[model].keep_out(0.0, "said so")
    if draining:
        fleet.backends[draining].is_draining = True
    return fleet


STATES: list[tuple[str, Fleet, bool]] = [
    ("all is well", fleet_with(), True),
    ("one of two is out", fleet_with(("a", "jane")), True),
    ("both of a model are out", fleet_with(("a", "jane"), ("b", "jane")), False),
    ("the only one of a model is out", fleet_with(("b", "kim")), False),
    ("the only one of a model is draining", fleet_with(draining="b"), False),
    ("one of a model is draining, the other is out", fleet_with(("a", "jane"), draining="a"), True),
]


@pytest.mark.parametrize(("fleet", "is_ready"), [row[1:] for row in STATES], ids=[row[0] for row in STATES])
def test_ready_means_that_every_model_has_somebody(fleet: Fleet, is_ready: bool) -> None:
    report = readiness(fleet)
    assert report.is_ready is is_ready
    assert "10.0.0" not in str(report.as_json())


def test_the_report_says_who_is_out_and_why() -> None:
    models = readiness(fleet_with(("a", "jane"))).as_json()["models"]
    assert models["jane"] == {
        "a": [{"state": "ejected", "reason": "said so"}],
        "b": [{"state": "in_rotation", "reason": ""}],
    }


def test_the_report_says_what_each_backend_can_and_who_says_so() -> None:
    config = TWO_MODELS.replace("a: real-a", "a: {name: real-a, can: {images: true}, context_tokens: 9000}")
    fleet = build_fleet(loads(config, {}).config, {}, random.Random())
    jane = fleet.models["jane"]
    jane.bindings["b"].abilities.heard(0, Abilities({"embeddings": False}, 4096))
    jane.misses(jane.bindings["b"], "responses", 1.0, "it has no such route")
    unseen = {
        name: {"can": False, "from": "dialect"}
        for name in ("audio", "best_of", "custom_tools", "files", "functions", "suffix", "video")
    }
    report = readiness(fleet).as_json()["capabilities"]
    assert report["jane"] == {
        "a": unseen
        | {
            "images": {"can": True, "from": "configured"},
            "context_tokens": {"tokens": 9000, "from": "configured"},
        },
        "b": unseen
        | {
            "images": {"can": False, "from": "dialect"},
            "embeddings": {"can": False, "from": "probed"},
            "responses": {"can": False, "from": "answers"},
            "context_tokens": {"tokens": 4096, "from": "probed"},
        },
    }
    assert set(report) == {"jane", "kim"}


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics"])
async def test_a_head_is_answered_and_any_other_method_is_an_error_in_openais_shape(path: str) -> None:
    async with running(config_for({"a": "http://127.0.0.1:1"})) as router:
        head = await router.client.head(path)
        posted = await router.client.post(path)
    assert head.status_code == 200 and not head.content
    assert posted.status_code == 405 and posted.headers["allow"] == "GET" and "x-request-id" in posted.headers
    assert posted.json()["error"]["code"] == "method_not_allowed"


async def test_live_is_live() -> None:
    async with running(config_for({"a": "http://127.0.0.1:1"})) as router:
        live = await router.client.get("/health/live")
        ready = await router.client.get("/health/ready")
    assert live.status_code == 200 and live.json() == {"status": "ok"}
    assert ready.status_code == 200 and ready.json()["status"] == "ready", "the last one is never taken out"
