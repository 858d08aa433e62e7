"""Cases 18 to 29: LM Studio's answers are to be trusted in nothing, not even in their status; as documented and reported by its users."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from tests.dialects.case import Case, each_form, play, stream_of
from tests.dialects.stage import NAMES, Scene
from tests.faults.scripts import COMMITTED, says_error
from tests.faults.stage import Told, told
from tests.faults.table import UNAVAILABLE
from tests.rawclient import Answer
from tests.running import Router, config_for, running
from tests.upstream import END, STREAM_HEAD, Script, Upstream, answer, chat_answer, chunked, says, sends, stream

pytestmark = pytest.mark.asyncio(loop_scope="module")

OF_B = Told(200, "from b", backend="b")
OVERFLOW = Told(400, code="context_length_exceeded")
BACKEND_AUTH = Told(502, code="backend_auth")
UNEXPECTED = answer({"error": "Unexpected endpoint or method. (POST /v1/chat/completions)"})


def said(words: str, status: str = "400 Bad Request") -> Script:
    """LM Studio's usual error, whose `error` is a string."""
    return sends(answer({"error": words}, status))


TOO_LONG = "Input does not fit in context length. The input has 31430 tokens, but the context length only supports 30000 tokens."
TOO_LONG_EVENT = chunked(
    b"event: error\ndata: %b\n\n" % json.dumps({"error": {"message": TOO_LONG}, "message": TOO_LONG}).encode()
)
KEEPS = (
    "Trying to keep the first 111490 tokens when context the overflows. However, the model is loaded with context length of only "
    "32768 tokens, which is not enough. Try to load the model with a larger context length, or provide a shorter input"
)
NONE_LOADED: dict[str, Any] = {
    "message": "No models loaded. Please load a model in the developer page or use the 'lms load' command.",
    "type": "invalid_request_error",
    "param": "model",
    "code": None,
}
TOKEN = {
    "type": "invalid_request",
    "code": "invalid_api_key",
    "message": "An LM Studio API token is required to make requests.",
}


def is_one_string(_scene: Scene, told: Answer) -> None:
    message = "'response_format.type' must be 'json_schema' or 'text'"
    assert told.json == {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}


def says_how_long(tokens: int) -> Any:
    def check(_scene: Scene, told: Answer) -> None:
        error = told.json["error"]
        assert (error["type"], error["param"]) == ("invalid_request_error", "messages")
        assert error["message"].startswith(f"This model's maximum context length is {tokens} tokens. ")

    return check


def blames_no_client(_scene: Scene, told: Answer) -> None:
    """No word of a key that the client could take for its own."""
    assert b"invalid_api_key" not in told.body and b"token" not in told.body


def says_error_last(_scene: Scene, told: Answer) -> None:
    assert stream_of(told).ending == ([], 0, ["stream_broken"]) and b"context" not in told.body


def echoes_what_was_asked(_scene: Scene, told: Answer) -> None:
    assert b'"model":"lmstudio"' in told.body and b"qwen" not in told.body


OTHER = "qwen/qwen3-4b"  # what happens to be loaded


def alone(case: Case, tells: Told, tries: str, **more: Any) -> list[Case]:
    """The case with a fallback, and with none."""
    return [
        case,
        replace(
            case, what=f"{case.what}; with no other backend", model="lmstudio alone", told=tells, tries=tries, **more
        ),
    ]


AFTER = sends(*COMMITTED, TOO_LONG_EVENT, END)
MOVES = "lmstudio not_served, b ok"
CASES = [
    *alone(
        Case(18, "a 200 that is no answer moves the call", sends(UNEXPECTED), OF_B, MOVES, "ws", "lmstudio"),
        UNAVAILABLE,
        "lmstudio not_served",
    ),
    Case(
        20,
        "an error that is a string becomes OpenAI's envelope",
        said("'response_format.type' must be 'json_schema' or 'text'"),
        Told(400),
        "lmstudio rejected",
        "ws",
        "lmstudio",
        also=is_one_string,
    ),
    *alone(
        Case(
            21,
            "an overflow as the first event of a 200 is no answer",
            sends(STREAM_HEAD, TOO_LONG_EVENT, END),
            OF_B,
            "lmstudio overflow, b ok",
            "s",
            "lmstudio",
        ),
        OVERFLOW,
        "lmstudio overflow",
        also=says_how_long(30000),
    ),
    Case(
        22,
        "an overflow after content ends with one error event",
        AFTER,
        Told(200, "one two", code="stream_broken"),
        "lmstudio stream_broken",
        "s",
        "lmstudio",
        also=says_error_last,
    ),
    Case(
        22,
        "an overflow after content is resumed where it may be",
        AFTER,
        Told(200, "one two three"),
        "lmstudio stream_broken, b ok",
        "s",
        "lmstudio resumed",
        b=sends(*stream("one ", "two ", "three ")),
    ),
    *alone(
        Case(
            23,
            "an overflow of a version before 0.4 moves the call",
            said(KEEPS),
            OF_B,
            "lmstudio overflow, b ok",
            "ws",
            "lmstudio",
        ),
        OVERFLOW,
        "lmstudio overflow",
        also=says_how_long(32768),
    ),
    *alone(
        Case(
            24,
            "no models loaded is not the client's fault",
            says_error("400 Bad Request", **NONE_LOADED),
            OF_B,
            MOVES,
            "ws",
            "lmstudio",
        ),
        UNAVAILABLE,
        "lmstudio not_served",
    ),
    *alone(
        Case(
            27,
            "a model that is unloaded in between is not the client's fault",
            said("Model is unloaded"),
            OF_B,
            MOVES,
            "ws",
            "lmstudio",
        ),
        UNAVAILABLE,
        "lmstudio not_served",
    ),
    *alone(
        Case(
            27,
            "a loading that is cancelled is not the client's fault",
            said('Failed to load model "x". Error: Operation canceled.'),
            OF_B,
            MOVES,
            "ws",
            "lmstudio",
        ),
        UNAVAILABLE,
        "lmstudio not_served",
    ),
    *alone(
        Case(
            28,
            "the router's own key refused is not the client's",
            sends(answer({"error": TOKEN}, "401 Unauthorized")),
            OF_B,
            "lmstudio key_refused, b ok",
            "ws",
            "lmstudio",
        ),
        BACKEND_AUTH,
        "lmstudio key_refused",
        also=blames_no_client,
    ),
    Case(
        26,
        "an answer of another model names the one that was asked for",
        sends(answer(chat_answer("loaded", OTHER))),
        Told(200, "loaded"),
        "lmstudio other_model",
        "w",
        "lmstudio",
        also=echoes_what_was_asked,
    ),
    Case(
        26,
        "a stream of another model names the one that was asked for",
        sends(*stream("loaded", model=OTHER)),
        Told(200, "loaded"),
        "lmstudio other_model",
        "s",
        "lmstudio",
        also=echoes_what_was_asked,
    ),
]


@each_form(CASES)
async def test_case(case: Case, stream: bool, scene: Scene) -> None:
    await play(case, stream, scene)


def listed(*names: str) -> bytes:
    return answer({"object": "list", "data": [{"id": name, "object": "model"} for name in names]})


async def states(router: Router) -> list[dict[str, str]]:
    """The state of a and b, once a has been probed."""
    app: Any = router.server.config.app
    fleet = app.raw_endpoints[b"/v1/chat/completions"].fleet
    async with asyncio.timeout(5):
        while any(replica.probed_at_s is None for backend in fleet.backends.values() for replica in backend.replicas):
            await asyncio.sleep(0.01)
    models = (await router.client.get("/health/ready")).json()["models"]
    return [row for replicas in models["jane"].values() for row in replicas]


LISTED = listed("openai/gpt-oss-20b")


@pytest.mark.parametrize(
    ("kind", "lists", "state"),
    [
        ("vllm", {"/health": UNEXPECTED, "/v1/models": LISTED}, "ejected"),
        ("lmstudio", {"/health": UNEXPECTED, "/v1/models": LISTED}, "in_rotation"),
        ("lmstudio", {"/health": UNEXPECTED, "/v1/models": UNEXPECTED}, "ejected"),
    ],
    ids=[
        "19-a 200 to GET /health that is an error is no health",
        "19-LM Studio is asked for its models instead",
        "19-a 200 to GET /v1/models that is an error is no health either",
    ],
)
async def test_a_probe(kind: str, lists: dict[str, bytes], state: str) -> None:
    async with Upstream(says("x"), lists=lists) as a, Upstream(says("x")) as b:
        config = config_for({"a": a.url, "b": b.url}).replace("{kind: vllm", f"{{kind: {kind}", 1)
        async with running(config.replace("real-a", "openai/gpt-oss-20b")) as router:
            assert (await states(router))[0]["state"] == state


@pytest.mark.parametrize("name", ["nope", "openai/gpt-oss-20b", NAMES["lmstudio"].upper()])
async def test_case_25_an_unknown_model_is_a_404_of_the_routers_own(name: str, scene: Scene) -> None:
    heard = await scene.ask(name)
    assert told(heard) == Told(404, code="model_not_found") and heard.json["error"]["param"] == "model"
    assert scene.tries() == [] and all(not upstream.received for upstream in scene.at.values())


async def test_case_26_an_answer_of_another_model_is_counted(scene: Scene) -> None:
    scene.begin(lmstudio=sends(answer(chat_answer("loaded", OTHER))))
    line = 'crossfade_attempts_total{backend="lmstudio",model="lmstudio",outcome="other_model"}'
    before = await scene.metric(line)
    await scene.ask("lmstudio")
    assert await scene.metric(line) == before + 1


async def test_case_28_the_operator_is_alerted(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """The table's own calls may have raised the alert of its models within this minute; this model has not been asked yet."""
    scene.begin(lmstudio=sends(answer({"error": TOKEN}, "401 Unauthorized")))
    with caplog.at_level("ERROR", logger="crossfade"):
        await scene.ask("lmstudio resumed")
    assert [record.getMessage().partition(";")[0] for record in caplog.records if record.levelname == "ERROR"] == [
        "backend lmstudio refuses the router's key"
    ]


async def test_case_29_a_second_instance_of_the_model_is_the_model_and_is_not_shown() -> None:
    lists = {"/v1/models": listed("openai/gpt-oss-20b:2", "openai/gpt-oss-20b:3")}
    async with Upstream(says("x"), lists=lists) as a, Upstream(says("x")) as b:
        config = config_for({"a": a.url, "b": b.url}).replace("{kind: vllm", "{kind: lmstudio", 1)
        async with running(config.replace("real-a", "openai/gpt-oss-20b")) as router:
            assert (await states(router))[0] == {"state": "in_rotation", "reason": ""}
            models = await router.client.get("/v1/models")
            assert (await router.chat()).headers["x-crossfade-backend"] == "a"
    assert [entry["id"] for entry in models.json()["data"]] == ["jane"] and ":2" not in models.text
