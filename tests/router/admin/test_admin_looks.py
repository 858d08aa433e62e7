"""What operators see: the state in force beside the file's, every replica with its reason, what each revision changed, no secret."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from router.admin.status import plain_url
from tests.router.admin.operators import CLIENT, ENV, OPERATOR, SERVER, SPLIT, VIEWER, Admin, administered, error_of
from tests.running import config_for, running
from tests.upstream import Upstream, says

MARKS = {
    "CROSSFADE_ADMIN_KEY": OPERATOR,
    "VIEWER_KEY": VIEWER,
    "CROSSFADE_KEYS": CLIENT,
    "BACKEND_KEY": "backend-key-0123456789-0123456789",
}


async def test_status_shows_where_the_running_state_differs_from_the_file(admin: Admin) -> None:
    jane = (await admin.get("status")).json()["models"]["jane"]
    assert (jane["split"], jane["drift"]) == (jane["file_split"], False)
    await admin.shift(0.5)
    answer = await admin.get("status")
    jane = answer.json()["models"]["jane"]
    assert (jane["split"], jane["file_split"], jane["drift"]) == ({"a": 0.5, "b": 0.5}, {"a": 0.95, "b": 0.05}, True)
    assert (jane["backends"]["b"]["share"], answer.headers["etag"]) == (0.5, '"2"')
    await admin.post("models/jane/rollback", {})
    assert (await admin.get("status")).json()["models"]["jane"]["drift"] is False


async def test_a_look_at_another_router_of_the_same_store_right_after_a_change_is_true(tmp_path: Path) -> None:
    more = f"\nstore: {{url: 'sqlite:///{tmp_path}/crossfade.db'}}\n"
    async with administered(more=more) as one, administered(more=more) as other:
        for share in (0.1, 0.2, 0.3, 0.4):
            number = (await one.shift(share)).json()["revision"]["number"]
            assert await other.revision() == number
            assert (await other.get("history")).json()["revisions"][0]["number"] == number


async def test_status_shows_the_file_the_workers_and_the_version(admin: Admin) -> None:
    await admin.shift(0.5)
    status = (await admin.get("status")).json()
    assert status["file"]["drift"] == ["jane: a 50 %, b 50 %; the file asks for a 95 %, b 5 %"]
    assert (status["file"]["refused"], status["workers"]) == ([], {"count": 1, "pid": os.getpid()})
    assert status["version"][0].isdigit()


async def test_status_shows_every_replica_with_its_state_and_reason() -> None:
    async with Upstream(says()) as a:
        config = config_for({"a": a.url, "b": "http://127.0.0.1:9"}, SPLIT, SERVER)
        async with running(config, ENV) as router:
            await router.chat()
            shown = await ejected(Admin(router))
            assert shown["replicas"] == [
                {
                    "url": "http://127.0.0.1:9",
                    "state": "ejected",
                    "reason": "its first health probe failed",
                    "in_flight": 0,
                    "probed": False,
                    "is_draining": False,
                }
            ]


async def test_a_shift_to_a_backend_that_is_out_is_refused_unless_forced_and_away_from_it_never() -> None:
    async with (
        Upstream(says()) as a,
        running(config_for({"a": a.url, "b": "http://127.0.0.1:9"}, SPLIT, SERVER), ENV) as router,
    ):
        admin = Admin(router)
        await ejected(admin)
        refused = await admin.shift(0.5)
        assert error_of(refused) == (422, "backend_unwell")
        assert "127.0.0.1:9 is ejected (its first health probe failed)" in refused.json()["error"]["message"]
        assert await admin.revision() == 1
        forced = await admin.post("models/jane/shift", {"shares": {"b": 0.5}, "force": True}, idempotency_key="f")
        assert forced.status_code == 200
        assert (await admin.shift(0.01)).status_code == 200


async def test_a_repeat_of_a_shift_is_answered_alike_though_its_backend_has_gone_meanwhile() -> None:
    async with administered() as admin:
        first = await admin.shift(0.5, idempotency_key="k")
        await admin.shift(0.1)
        await admin.post("drain", {"target": "b"})
        assert (await admin.shift(0.5, idempotency_key="k")).json() == first.json()
        assert error_of(await admin.shift(0.6)) == (422, "backend_unwell")


async def ejected(admin: Admin) -> dict[str, Any]:
    """What is shown of b as soon as its first probe has failed."""
    while True:
        shown: dict[str, Any] = (await admin.get("status")).json()["models"]["jane"]["backends"]["b"]
        if shown["replicas"][0]["probed"] is not None:
            return shown


async def test_history_tells_newest_first_who_changed_what_and_why(admin: Admin) -> None:
    await admin.shift(0.25, x_crossfade_actor="alice")
    await admin.post("drain", {"target": "a", "reason": "a new driver"})
    await admin.post("models/jane/rollback", {})
    everything = (await admin.get("history")).json()["revisions"]
    assert [each["number"] for each in everything] == [4, 3, 2, 1]
    assert [each["kind"] for each in everything] == ["rollback", "drain", "shift", "start"]
    assert (everything[1]["changes"], everything[1]["reason"]) == (["a: takes no new calls"], "a new driver")
    assert everything[1]["after"]["draining"] == ["a"] and everything[1]["before"]["draining"] == []
    assert everything[3]["before"] is None
    of_jane = (await admin.get("history?model=jane&limit=2")).json()["revisions"]
    assert [each["number"] for each in of_jane] == [4, 2]
    assert (of_jane[0]["restores"], of_jane[1]["actor"]) == (1, "operator: alice")
    assert of_jane[1]["before"]["split"] == {"a": 0.95, "b": 0.05}


async def test_a_model_with_a_slash_in_its_name_is_reached_by_it() -> None:
    async with Upstream(says()) as a, Upstream(says()) as b:
        config = config_for({"a": a.url, "b": b.url}, SPLIT, SERVER).replace("  jane:", "  team/jane-7b:")
        async with running(config, ENV) as router:
            for name in ("team/jane-7b", "team%2Fjane-7b"):
                answer = await Admin(router).post(f"models/{name}/shift", {"shares": {"b": 0.5}})
                assert (answer.status_code, answer.json()["revision"]["model"]) == (200, "team/jane-7b")


async def test_no_answer_and_no_line_of_the_log_holds_a_key_or_a_password(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    told = ["password-0123456789", "hook-0123456789", "engine-0123456789", *MARKS.values()]
    more = f"\nstore: {{url: 'sqlite:///{tmp_path}/crossfade.db'}}\n"
    model = SPLIT + "\nrollout: {baseline: a, candidate: b, webhooks: ['https://hooks.example/hook-0123456789']}"
    async with Upstream(says()) as a, Upstream(says()) as b:
        text = config_for({"a": a.url, "b": b.url}, model, SERVER) + more
        text = text.replace(
            "backends:", "backends:\n  e: {kind: vllm, url: 'http://127.0.0.1:9', key_env: BACKEND_KEY, ENGINE}"
        )
        text = text.replace("ENGINE", "engine: {model: m, args: {api-key: engine-0123456789, max-model-len: 7}}")
        async with running(text, MARKS) as router:
            admin = Admin(router)
            seen = [await admin.get(path) for path in ("status", "history", "config", "openapi.json", "nothing")]
            seen += [await admin.shift(0.5), await admin.shift(0.7, if_match='"1"'), await admin.shift(7)]
            seen += [await admin.get("status", authorization=f"Basic {key}") for key in MARKS.values()]
            seen += [
                await admin.get(f"status?key={OPERATOR}"),
                await admin.post("drain", {"target": "x", OPERATOR[:30]: 1}),
            ]
            seen += [await router.client.get(path) for path in ("/metrics", "/health/ready")]
    config = seen[2].json()
    assert config["backends"]["e"]["key_env"] == "BACKEND_KEY"
    assert config["backends"]["e"]["engine"]["args"] == {"api-key": "***", "max-model-len": 7}
    assert config["models"]["jane"]["rollout"]["webhooks"][0].startswith("https://hooks.example/*** (sha256 ")
    log = [record.getMessage() for record in caplog.records if not record.name.startswith("http")]  # the client's own
    texts = [*log, *(answer.text + str(answer.headers) for answer in seen)]
    assert not [mark for mark in told for text in texts if mark in text]


async def test_every_answer_has_an_id_the_callers_own_if_it_is_a_sane_one(admin: Admin) -> None:
    ids = [(await admin.get(path)).headers["x-request-id"] for path in ("status", "nothing", "status")]
    assert len(set(ids)) == 3
    assert (await admin.get("status", x_request_id="mine-1")).headers["x-request-id"] == "mine-1"
    admin.key = None
    assert (await admin.get("status", x_request_id="mine-2")).headers["x-request-id"] == "mine-2"


async def test_the_running_configuration_is_told_whole_with_its_defaults(admin: Admin) -> None:
    config = (await admin.get("config")).json()
    assert config["models"]["jane"]["split"] == {"a": 0.95, "b": 0.05}
    assert config["server"]["drain_s"] == 30
    assert set(config) == {"server", "store", "backends", "models"}


def test_of_a_stores_url_neither_password_nor_query_is_told() -> None:
    url = "postgresql://me:password-0123456789@db.internal:5432/crossfade?sslpassword=password-0123456789"
    assert plain_url(url) == "postgresql://me:***@db.internal:5432/crossfade"


async def test_openapi_describes_every_path_its_bodies_its_headers_and_its_refusals(admin: Admin) -> None:
    description = (await admin.get("openapi.json")).json()
    paths = {(path, method) for path, of_path in description["paths"].items() for method in of_path}
    base, model = "/admin/api", "/admin/api/models/{model}"
    assert paths == {
        *((f"{base}/{name}", "get") for name in ("status", "history", "config")),
        *((f"{base}/{name}", "post") for name in ("drain", "undrain")),
        *((f"{model}/{name}", "post") for name in ("shift", "rollback", "ramp")),
    }
    shift = description["paths"][f"{model}/shift"]["post"]
    assert {each["name"] for each in shift["parameters"]} == {
        "model",
        "x-crossfade-actor",
        "idempotency-key",
        "if-match",
    }
    assert {"200", "400", "401", "403", "404", "409", "412", "415", "422", "429", "503"} <= set(shift["responses"])
    assert description["components"]["schemas"]["Shift"]["additionalProperties"] is False
    assert shift["security"] == [{"HTTPBearer": []}]
    assert "HTTPValidationError" not in json.dumps(description)
