"""Responses, messages and tokenize through the whole router: what is sent on, what comes back, what moves; the routes on models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from tests.backends.captured import captured
from tests.rawclient import connected, request
from tests.running import Router, config_for, running
from tests.upstream import Upstream, answer, sends

ASKED: dict[str, dict[str, Any]] = {
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "hi"}]},
    "/tokenize": {"prompt": "hi"},
    "/v1/tokenize": {"prompt": "hi"},
}
RESPONSE_KEYS = [
    "id", "object", "created_at", "status", "background", "error", "incomplete_details", "instructions",
    "max_output_tokens", "max_tool_calls", "model", "output", "parallel_tool_calls", "previous_response_id", "prompt_cache_key",
    "reasoning", "safety_identifier", "service_tier", "store", "temperature", "text", "tool_choice", "tools", "top_logprobs", "top_p",
    "truncation", "usage", "user", "metadata",
]  # fmt: skip
KEYS = {
    "/v1/responses": RESPONSE_KEYS,
    "/v1/messages": ["id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"],
    "/v1/messages/count_tokens": ["input_tokens"],
    "/tokenize": ["count", "max_model_len", "tokens", "token_strs"],
    "/v1/tokenize": ["count", "max_model_len", "tokens", "token_strs"],
}
CAPTURES = {
    "/v1/responses": "24_responses",
    "/v1/messages": "25_messages",
    "/v1/messages/count_tokens": "25_messages_count_tokens",
    "/tokenize": "23_tokenize",
    "/v1/tokenize": "23_tokenize",
}
ENGINES = {"vllm": "vllm-0.32-smollm2", "llama": "llama-server-smollm2"}


async def ask(router: Router, path: str, headers: Mapping[str, str] | None = None, **fields: object) -> httpx.Response:
    """One call of the model `jane` at this path."""
    return await router.client.post(path, json={"model": "jane", **ASKED[path], **fields}, headers=headers)


def body_of(engine: str, path: str) -> bytes:
    """What a real engine answered there."""
    return captured(f"{ENGINES[engine]}/{CAPTURES[path]}")[2]


WHOLE = [(engine, path) for engine in ENGINES for path in ASKED if (engine, path[-8:]) != ("llama", "tokenize")]


def serving(body: bytes, *more: bytes) -> Upstream:
    """A backend with this answer to every call; /tokenize is a question after skills too, and so answered apart."""
    return Upstream(sends(body, *more), skill=lambda _: body)


@pytest.mark.parametrize(("engine", "path"), WHOLE, ids=[f"{path} of {engine}" for engine, path in WHOLE])
async def test_a_whole_answer_has_its_apis_keys_and_no_others_whichever_engine_answers(engine: str, path: str) -> None:
    async with serving(answer(body_of(engine, path))) as a, running(config_for({"a": a.url})) as router:
        response = await ask(router, path)
    assert response.status_code == 200, response.text
    assert list(response.json()) == KEYS[path]
    assert response.json().get("model", "jane") == "jane"
    assert "smollm2" not in response.text and "chatcmpl" not in response.text
    sent = [each for each in (*a.received, *a.questions) if each.json == {"model": "real-a", **ASKED[path]}]
    assert sent[0].path == path.replace("/v1/tokenize", "/tokenize")


NO_FILE = {"error": {"message": "File Not Found", "type": "not_found_error", "code": 404}}
NONE: list[tuple[str, list[bytes]]] = [
    ("FastAPI has no such route", [answer({"detail": "Not Found"}, "404 Not Found")]),
    ("LM Studio has no such route", [answer({"error": "Unexpected endpoint or method. (POST /v1/x)"})]),
    ("llama.cpp has no such route", [answer(NO_FILE, "404 Not Found")]),
    ("an error in a 200", [answer({"type": "error", "error": {"type": "overloaded_error", "message": "x"}})]),
    ("an answer of another API", [answer({"object": "list", "data": []})]),
    ("HTML", [answer(b"<html>", content_type="text/html")]),
]  # fmt: skip
MOVES = [(path, what, pieces) for path in ASKED if path[-8:] != "tokenize" for what, pieces in NONE]


@pytest.mark.parametrize(("path", "what", "pieces"), MOVES, ids=[f"{path}: {what}" for path, what, _ in MOVES])
async def test_what_is_no_answer_moves_the_call(path: str, what: str, pieces: list[bytes]) -> None:
    async with (
        Upstream(sends(*pieces)) as a,
        Upstream(sends(answer(body_of("vllm", path)))) as b,
        running(config_for({"a": a.url, "b": b.url})) as router,
    ):
        response = await ask(router, path)
    assert (response.status_code, response.headers["x-crossfade-backend"]) == (200, "b"), response.text
    assert response.headers["x-crossfade-attempts"] == "2"


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
async def test_a_backend_without_the_route_is_not_asked_for_it_again_and_nobody_elses_calls_suffer(path: str) -> None:
    missing = answer({"detail": "Not Found"}, "404 Not Found")
    async with (
        Upstream(sends(missing)) as a,
        Upstream(sends(answer(body_of("vllm", path)))) as b,
        running(config_for({"a": a.url, "b": b.url})) as router,
    ):
        first, second = await ask(router, path), await ask(router, path)
    assert (first.headers["x-crossfade-attempts"], second.headers["x-crossfade-attempts"]) == ("2", "1")
    assert second.headers["x-crossfade-backend"] == "b" and len(a.received) == 1


CONVERSATIONS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]}),
    ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}]}),
]


@pytest.mark.parametrize(("path", "fields"), CONVERSATIONS, ids=[path for path, _ in CONVERSATIONS])
async def test_a_conversation_stays_where_it_is(path: str, fields: dict[str, Any]) -> None:
    model = "split: {a: 0.5, b: 0.5}\nstick_by: [conversation]"
    body = answer(body_of("vllm", path))
    async with (
        Upstream(sends(body)) as a,
        Upstream(sends(body)) as b,
        running(config_for({"a": a.url, "b": b.url}, model)) as router,
    ):
        backends = {(await ask(router, path, **fields)).headers["x-crossfade-backend"] for _ in range(12)}
    assert len(backends) == 1


# -- errors, in the form of the API ---------------------------------------------------------------------

KEYS_ENV = {"CROSSFADE_KEYS": "right"}
MALFORMED = answer({"type": "error", "error": {"type": "invalid_request_error", "message": "x"}}, "400 Bad Request")
BUSY = answer({"error": {"message": "busy", "code": 503}}, "503 Service Unavailable")
ERRORS: list[tuple[str, dict[str, Any], bytes, int, str, str | None]] = [
    ("a field that is missing", {"max_tokens": None, "messages": []}, b"", 400, "invalid_request_error", None),
    ("a model that nobody knows", {"model": "who"}, b"", 404, "not_found_error", "model_not_found"),
    ("what the backend rejects", {}, MALFORMED, 400, "invalid_request_error", None),
    ("an overload", {}, BUSY, 503, "overloaded_error", "overloaded"),
    ("a failure", {}, answer(b"<html>"), 503, "overloaded_error", "backend_unavailable"),
]  # fmt: skip


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize(
    ("fields", "says", "status", "kind", "code"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS]
)
async def test_anthropics_clients_are_told_of_errors_in_both_forms(
    path: str, fields: dict[str, Any], says: bytes, status: int, kind: str, code: str | None
) -> None:
    model = "split: {a: 1.0}\nretry: {attempts_per_backend: 1}"
    async with Upstream(sends(says)) as a, running(config_for({"a": a.url}, model)) as router:
        response = await ask(router, path, **fields)
    told = response.json()
    assert (response.status_code, told["type"], list(told)) == (status, "error", ["type", "error"])
    assert (told["error"]["type"], told["error"]["code"]) == (kind, code)
    assert set(told["error"]) == {"message", "type", "param", "code"} and told["error"]["message"]


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/messages", {"x-api-key": "right"}, 200),
        ("/v1/messages/count_tokens", {"x-api-key": "right"}, 200),
        ("/v1/messages", {"authorization": "Bearer right"}, 200),
        ("/v1/messages", {"authorization": "Bearer right", "x-api-key": "wrong"}, 200),
        ("/v1/messages", {"authorization": "Bearer wrong", "x-api-key": "right"}, 401),
        ("/v1/messages", {"x-api-key": "wrong"}, 401),
        ("/v1/messages", {}, 401),
        ("/v1/responses", {"x-api-key": "right"}, 401),
    ],
)
async def test_the_key_of_anthropics_sdks_opens_their_paths_alone_and_stays_here(
    path: str, headers: dict[str, str], status: int
) -> None:
    async with (
        Upstream(sends(answer(body_of("vllm", path)))) as a,
        running(config_for({"a": a.url}), KEYS_ENV) as router,
    ):
        assert (await ask(router, path, headers)).status_code == status
    assert len(a.received) == (status == 200)
    assert all(b"right" not in str(each).encode() for each in a.received)


@pytest.mark.parametrize("keys", [["right", "wrong"], ["wrong", "right"], ["right", "right"]], ids=" ".join)
async def test_of_two_keys_none_counts(keys: list[str]) -> None:
    async with running(config_for({"a": "http://127.0.0.1:1"}), KEYS_ENV) as router, connected(router.port) as client:
        body = json.dumps({"model": "jane", **ASKED["/v1/messages"]}).encode()
        await client.send(request(body, *(f"x-api-key: {key}" for key in keys), line="POST /v1/messages HTTP/1.1"))
        assert (await client.answer()).status == 401


# -- models --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["jane", "openai%2Fgpt-oss:20b", "openai/gpt-oss:20b"])
async def test_a_model_is_shown_by_its_name(path: str) -> None:
    config = config_for({"a": "http://127.0.0.1:1"})
    name = path.replace("%2F", "/")
    async with running(config.replace("  jane:", f"  {name!r}:")) as router:
        response = await router.client.get(f"/v1/models/{path}")
        listed = (await router.client.get("/v1/models")).json()["data"]
    assert response.status_code == 200
    assert [response.json()] == listed and listed[0]["id"] == name


@pytest.mark.parametrize(
    ("path", "code"),
    [("/v1/models/who", "model_not_found"), ("/v1/models/", "not_found"), ("/v1/models/%ff", "not_found"),
     ("/v1/models/x%ff", "model_not_found"),
     ("/v1/models/%2e%2e/jane", "not_found"), ("/v1/models/jane/%2E./x", "not_found"), ("/v1/models//jane", "not_found"),
     ("/v1/models/jane/x", "model_not_found"), ("/v1/models/real-a", "model_not_found"), ("/v1/modelsjane", "not_found")],
)  # fmt: skip
async def test_nothing_else_is_shown_as_a_model(path: str, code: str) -> None:
    async with running(config_for({"a": "http://127.0.0.1:1"})) as router:
        response = await router.client.get(path)
        assert (response.status_code, response.json()["error"]["code"]) == (404, code)
        assert (await router.client.post("/v1/models/jane", json={})).status_code == 405
