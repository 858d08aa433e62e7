"""What each path answers: names, headers, forms that are passed on, and what of a backend never reaches a client."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.running import Router, config_for, running
from tests.upstream import (
    END,
    STREAM_HEAD,
    Backend,
    Connection,
    Received,
    Upstream,
    answer,
    chat_answer,
    chunked,
    hangs_up_after,
    says,
    sends,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True, slots=True)
class Stage:
    """One router for all tests of the file, in front of backends a and b."""

    router: Router
    a: Backend
    b: Backend
    at_a: Upstream
    at_b: Upstream

    async def post(self, path: str, **fields: Any) -> httpx.Response:
        return await self.router.client.post(path, json={"model": "jane", **fields})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_stage() -> AsyncIterator[Stage]:
    a, b = Backend(), Backend()
    model = (
        "split: {a: 1.0}\nretry: {backoff_s: [0.001, 0.001]}\neject: {consecutive_failures: 1000, failure_share: 1.0}"
    )
    paths = "pass_paths: [/v1/rerank, /v1/audio/speech, /v1/audio/transcriptions]"
    async with Upstream(a) as at_a, Upstream(b) as at_b:
        config = config_for({"a": at_a.url, "b": at_b.url}, model, paths)
        async with running(config) as router:
            yield Stage(router, a, b, at_a, at_b)


@pytest.fixture
def stage(running_stage: Stage) -> Stage:
    running_stage.a.script = running_stage.b.script = says("x")
    running_stage.at_a.received.clear()
    running_stage.at_b.received.clear()
    return running_stage


# -- headers ---------------------------------------------------------------------------------------

SANE = ["abc", "a-b_c.d:e/f+g=h@i", "x" * 128, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"]
HOSTILE = ["", "two words", "x" * 129, "x" * 10_000, "ümlaut", "{}", "<script>", "a;b", '"', "%0d%0a"]


@pytest.mark.parametrize("given", SANE, ids=lambda text: text[:20])
async def test_a_sane_request_id_is_kept_all_the_way(stage: Stage, given: str) -> None:
    response = await stage.router.chat(headers={"x-request-id": given})
    assert response.headers["x-request-id"] == given == stage.at_a.received[0].headers["x-request-id"]


@pytest.mark.parametrize("given", HOSTILE, ids=lambda text: repr(text[:20]))
async def test_any_other_request_id_is_replaced_by_a_new_one(stage: Stage, given: str) -> None:
    headers = {b"x-request-id": given.encode(), b"content-type": b"application/json"}
    body = b'{"model":"jane","messages":[{"role":"user","content":"hi"}]}'
    response = await stage.router.client.post("/v1/chat/completions", content=body, headers=headers)
    made = response.headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", made)
    assert stage.at_a.received[0].headers["x-request-id"] == made


async def test_nothing_of_a_backends_head_reaches_the_client(stage: Stage) -> None:
    lines = (
        "server: uvicorn",
        "set-cookie: a=b",
        "location: http://10.0.0.1/",
        "x-request-id: theirs",
        "via: x",
        "date: now",
    )
    stage.a.script = sends(answer(chat_answer(), "200 OK", *lines))
    response = await stage.router.chat()
    assert set(response.headers) == {
        "content-type",
        "content-length",
        "x-request-id",
        "x-crossfade-backend",
        "x-crossfade-attempts",
        "x-crossfade-revision",
        "server-timing",
    }


@pytest.mark.parametrize("streams", [True, False], ids=["a stream", "a whole answer"])
async def test_explain_1_tells_the_way_of_a_call_without_addresses_or_a_backends_words(
    stage: Stage, streams: bool
) -> None:
    stage.a.script = sends(answer({"error": {"message": "secret prompt at http://10.0.0.1"}}, "500 Oh"))
    response = await stage.router.chat(stream=streams, headers={"x-crossfade-explain": "1"})
    trail = response.headers["x-crossfade-trail"]
    assert re.fullmatch(r"split -> a failed after \S+ s -> a failed after \S+ s -> b", trail)
    assert response.headers["x-crossfade-attempts"] == "3"
    assert "x-crossfade-trail" not in (await stage.router.chat()).headers


async def test_an_error_that_ends_the_ladder_says_what_was_tried(stage: Stage) -> None:
    stage.a.script = stage.b.script = sends(answer({"error": {"message": "boom"}}, "500 Oh"))
    response = await stage.router.chat(headers={"x-crossfade-explain": "1", "x-request-id": "mine"})
    assert response.status_code == 503
    assert response.headers["x-crossfade-attempts"] == "4"
    assert response.headers["x-crossfade-backend"] == "b"
    assert response.headers["x-crossfade-revision"] == "1"
    assert response.headers["x-request-id"] == "mine"
    assert response.headers["x-should-retry"] == "false"
    assert response.headers["x-crossfade-trail"].count("failed") == 4


async def test_a_rejected_call_names_the_backend_that_rejected_it(stage: Stage) -> None:
    stage.a.script = sends(answer({"error": {"message": "no", "code": "made_up_by_a_backend"}}, "422 No"))
    response = await stage.router.chat()
    assert response.status_code == 422 and response.json()["error"]["code"] == "made_up_by_a_backend"
    assert response.headers["x-crossfade-backend"] == "a" and response.headers["x-crossfade-attempts"] == "1"
    assert "made_up_by_a_backend" not in (await stage.router.client.get("/metrics")).text


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/v1/nothing", "/nothing"])
async def test_every_answer_carries_a_request_id_and_the_revision(stage: Stage, path: str) -> None:
    for method in ("GET", "PUT"):
        response = await stage.router.client.request(method, path, headers={"x-request-id": "mine"})
        assert response.headers["x-request-id"] == "mine"
        assert response.headers["x-crossfade-revision"] == "1" and response.headers["x-crossfade-attempts"] == "0"


# -- models ----------------------------------------------------------------------------------------


async def test_the_models_are_the_public_ones_whoever_is_alive() -> None:
    config = (
        config_for({"a": "http://127.0.0.1:1", "b": "http://127.0.0.1:2"}) + "\n  kim: {on: {b: real-b}, split: {b: 1}}"
    )
    async with running(config) as router:
        response = await router.client.get("/v1/models")
        head = await router.client.head("/v1/models")
    entry = {"object": "model", "created": 0, "owned_by": "crossfade"}
    assert response.json() == {"object": "list", "data": [{"id": "jane", **entry}, {"id": "kim", **entry}]}
    assert head.status_code == 200 and head.headers["content-length"] == response.headers["content-length"]


# -- completions and embeddings --------------------------------------------------------------------


async def test_completions_whole_and_streamed_carry_the_public_name(stage: Stage) -> None:
    body = {
        "id": "1",
        "object": "text_completion",
        "model": "real-a",
        "choices": [{"index": 0, "text": "hi", "finish_reason": "stop"}],
    }
    stage.a.script = sends(answer(body))
    whole = (await stage.post("/v1/completions", prompt="x")).json()
    assert whole["id"].startswith("cmpl-") and whole["created"] > 0
    assert (whole["object"], whole["model"]) == ("text_completion", "jane")
    assert whole["choices"] == [{"index": 0, "text": "hi", "logprobs": None, "finish_reason": "stop"}]
    event = b'data: {"id":"1","model":"real-a","choices":[{"index":0,"text":"hi","finish_reason":%b}]}\n\n'
    stage.a.script = sends(
        STREAM_HEAD,
        *(chunked(event % b"null") for _ in range(20)),
        chunked(event % b'"stop"'),
        chunked(b"data: [DONE]\n\n"),
        END,
    )
    streamed = await stage.post("/v1/completions", prompt="x", stream=True)
    assert streamed.text.count('"text":"hi"') == 21 and streamed.text.count('"finish_reason":"stop"') == 1
    assert streamed.text.count('"model":"jane"') == 22 and "real-a" not in streamed.text
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert [request.path for request in stage.at_a.received] == ["/v1/completions"] * 2


@pytest.mark.parametrize("more", [{}, {"stream": True}], ids=["as ever", "with a stream that does not exist"])
async def test_embeddings_carry_the_public_name(stage: Stage, more: dict[str, Any]) -> None:
    vector = {"object": "embedding", "index": 0, "embedding": [0.5]}
    body = {"object": "list", "model": "real-a", "data": [vector]}
    stage.a.script = sends(answer(body))
    response = await stage.post("/v1/embeddings", input="x", **more)
    assert response.json() == {**body, "model": "jane"}


@pytest.mark.parametrize(("path", "param"), [("/v1/completions", "prompt"), ("/v1/embeddings", "input")])
async def test_what_a_call_cannot_do_without_is_asked_for(stage: Stage, path: str, param: str) -> None:
    response = await stage.post(path)
    assert response.status_code == 400 and response.json()["error"]["param"] == param
    assert not stage.at_a.received


async def test_embeddings_without_any_move_on(stage: Stage) -> None:
    stage.a.script = sends(answer({"object": "list", "data": []}))
    stage.b.script = sends(answer({"object": "list", "data": [{"embedding": [1]}]}))
    assert (await stage.post("/v1/embeddings", input="x")).headers["x-crossfade-backend"] == "b"


# -- paths that are passed on ----------------------------------------------------------------------


async def test_json_is_passed_on_with_the_name_replaced_both_ways(stage: Stage) -> None:
    stage.a.script = sends(answer({"id": "1", "model": "real-a", "results": [{"index": 0, "relevance_score": 0.9}]}))
    response = await stage.post("/v1/rerank", query="q", documents=["d"])
    assert response.json() == {"id": "1", "model": "jane", "results": [{"index": 0, "relevance_score": 0.9}]}
    assert stage.at_a.received[0].json == {"model": "real-a", "query": "q", "documents": ["d"]}
    assert stage.at_a.received[0].path == "/v1/rerank"


@pytest.mark.parametrize("body", [b"[1,2]", b'{"model":7}', b"not json", b"null"], ids=lambda body: body.decode())
async def test_json_of_an_unknown_shape_is_passed_on_as_it_is(stage: Stage, body: bytes) -> None:
    stage.a.script = sends(answer(body, "201 Created"))
    response = await stage.post("/v1/rerank")
    assert response.content == body and response.status_code == 201


async def test_an_error_inside_a_200_moves_on_from_a_passed_path_too(stage: Stage) -> None:
    stage.a.script = sends(
        answer({"error": "Compute error."})
    )  # a route that is missing would be remembered beyond this test
    stage.b.script = sends(answer({"results": []}))
    response = await stage.post("/v1/rerank")
    assert response.headers["x-crossfade-backend"] == "b", response.text


async def test_binary_answers_are_relayed_byte_for_byte(stage: Stage) -> None:
    sound = bytes(range(256)) * 2000
    stage.a.script = sends(answer(sound, content_type="audio/mpeg"))
    response = await stage.post("/v1/audio/speech", input="x")
    assert response.content == sound and response.headers["content-type"] == "audio/mpeg"


async def test_an_upload_reaches_the_backend_with_only_the_models_name_changed(stage: Stage) -> None:
    sound = (
        b"RIFF\r\n--\x00\xff"
        + b'content-disposition: form-data; name="model"\r\n\r\nother\r\n'
        + bytes(range(256)) * 200
    )
    stage.a.script = sends(answer({"text": "hello"}))
    response = await stage.router.client.post(
        "/v1/audio/transcriptions",
        data={"model": "jane", "language": "de"},
        files={"file": ("a.wav", sound, "audio/wav")},
    )
    assert response.json() == {"text": "hello"}
    sent = stage.at_a.received[0]
    assert sent.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert sound in sent.body and b'name="model"\r\n\r\nreal-a\r\n' in sent.body and b"jane" not in sent.body


async def test_an_event_stream_is_passed_on_as_it_comes(stage: Stage) -> None:
    events = [b'data: {"type":"transcript.text.delta","delta":"a"}\n\n', b"data: [DONE]\n\n"]
    stage.a.script = sends(STREAM_HEAD, *map(chunked, events), END)
    response = await stage.post("/v1/audio/speech", input="x", stream=True)
    assert response.content == b"".join(events) and response.headers["content-type"].startswith("text/event-stream")


async def test_the_head_of_a_passed_answer_does_not_wait_for_its_body(stage: Stage) -> None:
    head_is_there = asyncio.Event()

    async def pauses(_request: Received, connection: Connection) -> None:
        await connection.write(b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ncontent-length: 4\r\n\r\n")
        await head_is_there.wait()
        await connection.write(b"song")

    stage.a.script = pauses
    body = {"model": "jane", "input": "x"}
    async with asyncio.timeout(10), stage.router.client.stream("POST", "/v1/audio/speech", json=body) as response:
        head_is_there.set()
        assert await response.aread() == b"song"


async def test_an_answer_without_content_is_passed_on_without_a_body(stage: Stage) -> None:
    stage.a.script = sends(b"HTTP/1.1 204 No Content\r\n\r\n")
    response = await stage.post("/v1/rerank")
    assert response.status_code == 204 and response.content == b""
    assert "transfer-encoding" not in response.headers and "content-length" not in response.headers
    assert (await stage.post("/v1/nothing")).status_code == 404  # nothing of a body is left on the connection


@pytest.mark.parametrize(
    "piece", [b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ncontent-length: 9000\r\n\r\nhalf"], ids=["cut off"]
)
async def test_a_binary_answer_that_breaks_off_cannot_be_taken_for_a_whole_one(stage: Stage, piece: bytes) -> None:
    stage.a.script = hangs_up_after(piece)
    with pytest.raises(httpx.RemoteProtocolError):
        await stage.post("/v1/audio/speech", input="x")
    assert not stage.at_b.received


@pytest.mark.parametrize(
    "path", ["/v1/score", "/v1/conversations", "/v1/messages/batches", "/v1/files", "/detokenize", "/admin/"]
)
async def test_a_path_that_is_not_on_the_list_is_not_passed_on(stage: Stage, path: str) -> None:
    response = await stage.post(path)
    assert response.status_code == 404 and response.json()["error"]["code"] == "not_found"
    assert not stage.at_a.received
