"""Cases 30 to 36: vLLM's errors reach the client in OpenAI's shape, and say nothing of vLLM."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.backends.captured import captured as read
from tests.dialects.case import Case, captured, each_form, play
from tests.dialects.stage import EMBEDDINGS, Scene
from tests.faults.stage import Told, told
from tests.faults.table import UNAVAILABLE
from tests.rawclient import Answer
from tests.upstream import Script, answer, sends

pytestmark = pytest.mark.asyncio(loop_scope="module")

GPT_OSS = "vllm-0.33-gpt-oss"
OF_B = Told(200, "from b", backend="b")
BACKEND_AUTH = Told(502, code="backend_auth")


def first_of(name: str, status: str) -> Script:
    """The first answer of a capture that holds several."""
    return sends(answer(read(name)[2], status))


UNAUTHORIZED = first_of("vllm-0.32-smollm2/38_api_key", "401 Unauthorized")


def tells_no_alias(_scene: Scene, told: Answer) -> None:
    everything = told.body + repr(told.headers).encode()
    assert b"alias" not in everything and b"gpt-oss" not in everything


def goes_nowhere(_scene: Scene, told: Answer) -> None:
    assert "location" not in told.headers and b"8124" not in told.body


def has_no_number_for_a_code(_scene: Scene, told: Answer) -> None:
    error = told.json["error"]
    assert error == {
        "message": "temperature must be in [0, 2], got 3.0. (parameter=temperature, value=3.0)",
        "type": "invalid_request_error",
        "param": "temperature",
        "code": None,
    }


def is_an_invalid_request(_scene: Scene, told: Answer) -> None:
    error = told.json["error"]
    assert error["type"] == "invalid_request_error" and error["code"] is None and len(error["message"]) <= 2_000


def says(tokens: int) -> Any:
    """The one code and the one message, whatever the backend's words."""

    def check(_scene: Scene, told: Answer) -> None:
        assert told.json == {
            "error": {
                "message": f"This model's maximum context length is {tokens} tokens. Please reduce the length of the messages.",
                "type": "invalid_request_error",
                "param": "messages",
                "code": "context_length_exceeded",
            }
        }

    return check


DUMP = (
    "1 validation error:\n  {'type': 'string_type', 'loc': 'body.messages.0.content', 'input': '"
    + "secret " * 20_000
    + "'}"
)
ENGINE_LENGTH = "The engine prompt length 5000 exceeds the max_model_len 4096. Please reduce prompt."
OVERFLOW = Told(400, code="context_length_exceeded")
TEXTS = {
    "gpt-oss": (captured(f"{GPT_OSS}/err_ctx"), 4096),
    "gpt-oss, of a stream": (captured(f"{GPT_OSS}/err_ctx_stream"), 4096),
    "other models": (captured("vllm-0.32-smollm2/32_err_context_overflow"), 2048),
    "responses": (
        sends(
            answer(
                {"error": {"message": ENGINE_LENGTH, "type": "invalid_request_error", "code": 400}}, "400 Bad Request"
            )
        ),
        4096,
    ),
}
CASES = [
    Case(
        30,
        "an unknown model moves the call",
        captured(f"{GPT_OSS}/err_model"),
        OF_B,
        "vllm not_served, b ok",
        "ws",
        also=tells_no_alias,
    ),
    Case(
        30,
        "an unknown model of the last backend tells no alias",
        captured(f"{GPT_OSS}/err_model"),
        UNAVAILABLE,
        "vllm not_served",
        "ws",
        "vllm alone",
        also=tells_no_alias,
    ),
    Case(
        32,
        "a redirect is no answer, and is not followed",
        captured(f"{GPT_OSS}/trailing_slash"),
        OF_B,
        "vllm protocol_broken, b ok",
        "ws",
        also=goes_nowhere,
    ),
    Case(
        32,
        "a redirect of the last backend is not passed on",
        captured(f"{GPT_OSS}/trailing_slash"),
        UNAVAILABLE,
        "vllm protocol_broken, vllm protocol_broken",
        "ws",
        "vllm alone",
        also=goes_nowhere,
    ),
    Case(33, "a refused key moves the call", UNAUTHORIZED, OF_B, "vllm key_refused, b ok", "ws"),
    Case(33, "a refused key is not the client's", UNAUTHORIZED, BACKEND_AUTH, "vllm key_refused", "ws", "vllm alone"),
    Case(
        34,
        "a code that is a number becomes null",
        captured(f"{GPT_OSS}/err_temp3"),
        Told(400),
        "vllm rejected",
        "ws",
        also=has_no_number_for_a_code,
    ),
    Case(
        35,
        "a validation dump of a wrong type is an invalid request",
        captured(f"{GPT_OSS}/err_badtype"),
        Told(400),
        "vllm rejected",
        "ws",
        also=is_an_invalid_request,
    ),
    Case(
        35,
        "a validation dump of malformed JSON is an invalid request",
        captured(f"{GPT_OSS}/err_json"),
        Told(400),
        "vllm rejected",
        "ws",
        also=is_an_invalid_request,
    ),
    Case(
        35,
        "a validation dump of the whole prompt is cut",
        sends(answer({"error": {"message": DUMP, "type": "Bad Request", "code": 400}}, "400 Bad Request")),
        Told(400),
        "vllm rejected",
        "ws",
        also=is_an_invalid_request,
    ),
    *(
        Case(
            36,
            f"an overflow in the words of {who} has one code and one message",
            plays,
            OVERFLOW,
            "vllm overflow",
            "ws",
            "vllm alone",
            also=says(tokens),
        )
        for who, (plays, tokens) in TEXTS.items()
    ),
    *(
        Case(
            36,
            f"an overflow in the words of {who} moves to who may have a larger context",
            plays,
            OF_B,
            "vllm overflow, b ok",
            "ws",
        )
        for who, (plays, _) in TEXTS.items()
    ),
]


@each_form(CASES)
async def test_case(case: Case, stream: bool, scene: Scene) -> None:
    await play(case, stream, scene)


async def test_case_31_a_path_that_the_router_does_not_have_is_a_404_in_openais_shape(scene: Scene) -> None:
    heard = await scene.ask(path="/foo")
    assert told(heard) == Told(404, code="not_found") and scene.tries() == []


async def test_case_31_a_route_that_a_backend_does_not_have_is_not_told_in_its_shape(scene: Scene) -> None:
    """As captured from a gpt-oss, which has no embeddings: another that has them answers, else the router says so in OpenAI's shape."""
    nothing = captured(f"{GPT_OSS}/unknown_route")
    scene.begin(vllm=nothing, b=sends(answer({"object": "list", "data": [], "model": "x"})))
    assert (await scene.ask("vllm", EMBEDDINGS)).headers["x-crossfade-backend"] == "b"
    heard = await scene.ask("vllm alone", EMBEDDINGS)
    assert told(heard) == Told(404, code="unsupported", backend="vllm") and b"detail" not in heard.body


@pytest.mark.parametrize("path", ["/v1/chat/completions/", "/v1/chat/completions//", "/v1/v1/chat/completions"])
async def test_case_32_the_router_answers_a_trailing_slash_itself(path: str, scene: Scene) -> None:
    heard = await scene.ask(path=path)
    assert told(heard) == Told(404, code="not_found") and "location" not in heard.headers and scene.tries() == []


async def test_case_34_no_code_that_a_client_sees_is_a_number(scene: Scene) -> None:
    for name in ("err_model", "err_temp3", "err_json", "err_ctx", "fail_dead"):
        scene.begin(vllm=captured(f"{GPT_OSS}/{name}"))
        error = json.loads((await scene.ask("vllm alone")).body)["error"]
        assert error["code"] is None or not error["code"].isdigit(), name
