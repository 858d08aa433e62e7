"""Calls through the whole router, in front of scripted backends: what comes back, what is sent on, what moves."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.running import config_for, running
from tests.upstream import (
    END,
    STREAM_HEAD,
    Connection,
    Received,
    Script,
    Upstream,
    answer,
    chunked,
    event,
    hangs,
    hangs_up_after,
    says,
    sends,
    stream,
)

QUICK = (
    "split: {a: 1.0}\ntimeouts: {first_token_s: 0.3, first_token_per_kib_s: 0, answer_s: 0.3, between_tokens_s: 0.3}"
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


FAILURES_BEFORE_CONTENT: list[tuple[str, Script, bool]] = [
    ("refuses at once with a reset", hangs_up_after(), False),
    ("a 500", sends(answer({"error": {"message": "boom", "code": 500}}, "500 Internal Server Error")), False),
    (
        "a 503 without retry-after",
        sends(answer({"error": {"message": "busy", "code": 503}}, "503 Service Unavailable")),
        False,
    ),
    ("a 404 for an unloaded model", sends(answer({"error": {"message": "no such model"}}, "404 Not Found")), False),
    ("a 401 for the router's key", sends(answer({"error": "Unauthorized"}, "401 Unauthorized")), False),
    (
        "LM Studio: no models loaded",
        sends(answer({"error": {"message": "No models loaded. Please load"}}, "400 Bad Request")),
        False,
    ),
    ("a 200 with an error inside", sends(answer({"error": "Unexpected endpoint or method. (POST /x)"})), False),
    ("a 200 with HTML", sends(answer(b"<html>hello</html>", content_type="text/html")), False),
    ("a 200 with nothing", sends(answer(b"")), False),
    ("a 200 without choices", sends(answer({"id": "x", "choices": []})), False),
    ("a redirect", sends(answer(b"", "307 Temporary Redirect", "location: http://127.0.0.1:9/")), False),
    ("garbage instead of HTTP", hangs_up_after(b"\x00\x01\x02 not http\r\n\r\n"), False),
    ("an answer cut off in the middle", hangs_up_after(answer(b"x" * 100)[:-50]), False),
    ("both framings", sends(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}"), False),
    ("a compressed answer", sends(answer(b"\x1f\x8b", "200 OK", "content-encoding: gzip")), False),
    ("a stream that is silent", hangs, True),
    ("a whole answer that never comes", hangs, False),
    (
        "a stream with a role and no content",
        sends(STREAM_HEAD, chunked(event({"role": "assistant", "content": ""})), END),
        True,
    ),
    (
        "a stream that aborts without content",
        sends(STREAM_HEAD, chunked(event({}, "abort")), chunked(b"data: [DONE]\n\n"), END),
        True,
    ),
    (
        "an error as the first event",
        sends(STREAM_HEAD, chunked(b'data: {"error":{"message":"busy","code":503}}\n\n'), END),
        True,
    ),
    ("an empty stream", sends(STREAM_HEAD, END), True),
    ("a stream of comments only", sends(STREAM_HEAD, chunked(b": ping\n\n"), END), True),
    ("malformed JSON in the first event", sends(STREAM_HEAD, chunked(b"data: {oops\n\n"), END), True),
    ("JSON instead of a stream", sends(answer({"error": {"message": "x", "code": 500}})), True),
]


@pytest.mark.parametrize(
    ("script", "streams"), [row[1:] for row in FAILURES_BEFORE_CONTENT], ids=[row[0] for row in FAILURES_BEFORE_CONTENT]
)
async def test_a_call_that_fails_before_content_moves_and_the_client_sees_one_clean_answer(
    script: Script, streams: bool
) -> None:
    async with (
        Upstream(script) as a,
        Upstream(says("from b")) as b,
        running(config_for({"a": a.url, "b": b.url}, QUICK)) as router,
    ):
        response = await router.chat(stream=streams)
    assert response.status_code == 200, response.text
    assert response.headers["x-crossfade-backend"] == "b"
    assert (
        texts_of(response.text) if streams else response.json()["choices"][0]["message"]["content"]
    ).strip() == "from b"
    assert len(b.received) == 1


async def test_a_refused_connection_moves_at_once() -> None:
    async with Upstream(says("x")) as a, Upstream(says("from b")) as b:
        await a.stop()
        async with running(config_for({"a": a.url, "b": b.url})) as router:
            response = await router.chat()
    assert response.headers["x-crossfade-backend"] == "b"


async def test_the_calls_own_fault_is_passed_on_once_and_goes_nowhere_else() -> None:
    rejected = sends(
        answer(
            {"error": {"message": "temperature must be at most 2", "type": "BadRequestError", "code": 400}},
            "400 Bad Request",
        )
    )
    async with (
        Upstream(rejected) as a,
        Upstream(says("x")) as b,
        running(config_for({"a": a.url, "b": b.url})) as router,
    ):
        response = await router.chat(temperature=3)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error == {
        "message": "temperature must be at most 2",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }
    assert len(a.received) == 1 and not b.received


async def test_a_prompt_that_is_too_long_moves_and_is_a_400_where_nobody_takes_it() -> None:
    too_long = sends(
        answer(
            {"error": {"message": "Input length (9) exceeds model's maximum context length (4).", "code": 400}},
            "400 Bad Request",
        )
    )
    async with (
        Upstream(too_long) as a,
        Upstream(too_long) as b,
        running(config_for({"a": a.url, "b": b.url})) as router,
    ):
        response = await router.chat()
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert len(a.received) == len(b.received) == 1


BROKEN_AFTER_CONTENT: list[tuple[str, Script]] = [
    ("cut off", hangs_up_after(*stream("one ", "two ")[:4])),
    ("ends cleanly without a finish_reason", sends(*stream("one ", "two ")[:4], END)),
    (
        "turns into an error",
        sends(*stream("one ", "two ")[:4], chunked(b'data: {"error":{"message":"dead","code":500}}\n\n'), END),
    ),
    ("aborts", sends(*stream("one ", "two ")[:4], chunked(event({}, "abort")), chunked(b"data: [DONE]\n\n"), END)),
    ("malformed JSON", sends(*stream("one ", "two ")[:4], chunked(b"data: {oops\n\n"), END)),
]


@pytest.mark.parametrize(
    "script", [row[1] for row in BROKEN_AFTER_CONTENT], ids=[row[0] for row in BROKEN_AFTER_CONTENT]
)
async def test_a_stream_that_breaks_after_content_ends_with_one_error_event_and_no_done(script: Script) -> None:
    async with (
        Upstream(script) as a,
        Upstream(says("x")) as b,
        running(config_for({"a": a.url, "b": b.url}, QUICK)) as router,
    ):
        response = await router.chat(stream=True)
    assert texts_of(response.text) == "one two "
    assert response.text.count('"error"') == 1 and "[DONE]" not in response.text and "oops" not in response.text
    assert not b.received


async def test_a_stream_that_stalls_after_content_ends_with_an_error_event() -> None:
    async def stalls(_request: Received, connection: Connection) -> None:
        await connection.write(*stream("one ", "two ")[:4])
        while not connection.reader.at_eof():
            await connection.write(chunked(b": still here\n\n"))
            await asyncio.sleep(0.02)

    async with Upstream(stalls) as a, running(config_for({"a": a.url}, QUICK)) as router:
        response = await router.chat(stream=True)
    assert texts_of(response.text) == "one two " and '"error"' in response.text


async def test_a_stream_that_ends_without_done_but_with_a_finish_reason_gets_its_done() -> None:
    async with Upstream(sends(*stream("one ")[:4], END)) as a, running(config_for({"a": a.url})) as router:
        response = await router.chat(stream=True)
    assert response.text.endswith("data: [DONE]\n\n") and '"error"' not in response.text


async def test_what_follows_done_is_dropped() -> None:
    pieces = [*stream("one ")[:5], chunked(event({"content": "ghost"})), END]
    async with Upstream(sends(*pieces)) as a, running(config_for({"a": a.url})) as router:
        response = await router.chat(stream=True)
    assert "ghost" not in response.text and response.text.endswith("data: [DONE]\n\n")


async def test_all_backends_down_is_a_503_that_says_when_to_come_back() -> None:
    async with Upstream(says("x")) as a, Upstream(says("x")) as b:
        await a.stop()
        await b.stop()
        async with running(config_for({"a": a.url, "b": b.url})) as router:
            response = await router.chat()
    assert response.status_code == 503
    assert 1 <= int(response.headers["retry-after"]) <= 60
    assert response.headers["x-should-retry"] == "false"
    assert response.json()["error"]["type"] == "server_error"


@pytest.mark.parametrize("streams", [True, False], ids=["streaming", "waiting for a whole answer"])
async def test_a_client_that_leaves_closes_the_backend_and_gives_everything_back(streams: bool) -> None:
    waits = asyncio.Event()

    async def slow(request: Received, connection: Connection) -> None:
        if request.json.get("stream"):
            await connection.write(*stream("one ")[:3])
        waits.set()
        await connection.until_gone()

    async with Upstream(slow) as a, running(config_for({"a": a.url})) as router:
        call = asyncio.create_task(router.chat(stream=streams))
        await waits.wait()
        call.cancel()
        async with asyncio.timeout(1.0):
            await a.gone.wait()
        metrics = (await router.client.get("/metrics")).text
        ready = (await router.client.get("/health/ready")).json()
    assert f'crossfade_in_flight{{backend="a",replica="{a.url}"}} 0.0' in metrics
    assert 'crossfade_calls_total{backend="a",model="jane",result="client_gone"} 1.0' in metrics
    assert ready["models"]["jane"]["a"][0]["state"] == "in_rotation"
