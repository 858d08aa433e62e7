"""Calls through the whole router, in front of scripted backends: what comes back, what is sent on, what moves."""

from __future__ import annotations

import json

import pytest

from tests.running import config_for, running
from tests.upstream import (
    Upstream,
    answer,
    says,
    sends,
)


def texts_of(body: str) -> str:
    """The text of a streamed answer, put together."""
    chunks = [json.loads(line[6:]) for line in body.split("\n\n") if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", []))


async def test_an_answer_carries_the_public_name_and_the_headers_of_the_contract() -> None:
    async with Upstream(says("Paris")) as a, running(config_for({"a": a.url})) as router:
        response = await router.chat(headers={"x-request-id": "my-own-id"})
    assert response.json()["model"] == "jane"
    assert response.headers["x-crossfade-backend"] == "a"
    assert response.headers["x-crossfade-attempts"] == "1"
    assert response.headers["x-crossfade-revision"] == "1"
    assert response.headers["x-request-id"] == "my-own-id"
    assert "first;dur=" in response.headers["server-timing"]
    assert "server" not in response.headers and "date" not in response.headers
    assert a.received[0].json["model"] == "real-a"
    assert a.received[0].headers["x-request-id"] == "my-own-id"


async def test_a_stream_carries_the_public_name_in_every_chunk_and_ends_with_done() -> None:
    async with Upstream(says("one two three four five")) as a, running(config_for({"a": a.url})) as router:
        response = await router.chat(stream=True)
    assert texts_of(response.text) == "one two three four five "
    assert response.text.count('"model":"jane"') == 7 and "real-a" not in response.text
    assert response.text.endswith("data: [DONE]\n\n")


async def test_report_model_backend_keeps_the_backends_own_name() -> None:
    model = "split: {a: 1.0}\nreport_model: backend"
    async with Upstream(says("x")) as a, running(config_for({"a": a.url}, model)) as router:
        assert (await router.chat()).json()["model"] == "real-a"


async def test_nothing_of_the_client_but_the_call_reaches_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for({"a": "http://127.0.0.1:1"})
    async with Upstream(says("x")) as a:
        config = config_for({"a": a.url}).replace("kind: vllm,", "kind: vllm, key_env: BACKEND_KEY,")
        async with running(config, {"BACKEND_KEY": "backends-own"}) as router:
            secrets = {
                "authorization": "Bearer clients-own",
                "cookie": "a=b",
                "x-forwarded-for": "1.2.3.4",
                "te": "trailers",
            }
            await router.chat(headers=secrets)
    sent = a.received[0].headers
    assert sent["authorization"] == "Bearer backends-own"
    assert set(sent) == {"host", "accept-encoding", "authorization", "content-type", "x-request-id", "content-length"}


async def test_the_calls_own_fault_is_passed_on_once_and_goes_nowhere_else() -> None:
    rejected = sends(
        answer(
            {"error": {"message": "seed must be a whole number", "type": "BadRequestError", "code": 400}},
            "400 Bad Request",
        )
    )
    async with (
        Upstream(rejected) as a,
        Upstream(says("x")) as b,
        running(config_for({"a": a.url, "b": b.url})) as router,
    ):
        response = await router.chat(seed="x")
    assert response.status_code == 400
    error = response.json()["error"]
    assert error == {
        "message": "seed must be a whole number",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }
    assert len(a.received) == 1 and not b.received
