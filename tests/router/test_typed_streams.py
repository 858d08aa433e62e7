"""Streams of responses and messages through the whole router: what comes, what moves before content, how they end after it."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from backends.sse import SseDecoder
from tests.backends.captured import captured
from tests.rawclient import connected, request
from tests.running import Router, config_for, running
from tests.upstream import (
    END,
    STREAM_HEAD,
    Connection,
    Received,
    Upstream,
    answer,
    chunked,
    hangs,
    hangs_up_after,
    sends,
)

PATHS = ["/v1/responses", "/v1/messages"]
ASKED: dict[str, dict[str, Any]] = {
    "/v1/responses": {"model": "jane", "input": "hi", "stream": True},
    "/v1/messages": {"model": "jane", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "stream": True},
}
CAPTURES = {"/v1/responses": "responses_stream", "/v1/messages": "messages_stream"}
LAST = {"/v1/responses": "response.completed", "/v1/messages": "message_stop"}
PIECES = {
    "/v1/responses": ("response.reasoning_text.delta", "response.output_text.delta"),
    "/v1/messages": ("content_block_delta",),
}
ONCE = "split: {a: 1.0}\nretry: {attempts_per_backend: 1}"


def events_of(path: str) -> list[bytes]:
    """The captured stream's events as they came, each with its empty line."""
    body = captured(f"vllm-0.33-gpt-oss/{CAPTURES[path]}")[2]
    return [event + b"\n\n" for event in body.split(b"\n\n") if event.strip()]


def until_content(path: str) -> list[bytes]:
    """The packets of a stream up to its first event with content."""
    events = events_of(path)
    first = next(index for index, event in enumerate(events) if any(name.encode() in event for name in PIECES[path]))
    return [STREAM_HEAD, *(chunked(event) for event in events[: first + 1])]


def whole(path: str) -> list[bytes]:
    return [STREAM_HEAD, *(chunked(event) for event in events_of(path)), END]


async def ask(router: Router, path: str) -> tuple[list[tuple[str, dict[str, Any]]], Any]:
    """The events that a client gets, and its response."""
    response = await router.client.post(path, json=ASKED[path])
    events = SseDecoder().feed(response.content)
    return [(event.type.decode(), json.loads(event.data)) for event in events], response


def text_of(path: str, events: list[tuple[str, dict[str, Any]]]) -> str:
    """All that was said, thoughts included."""
    deltas = [data["delta"] for kind, data in events if kind in PIECES[path]]
    said = [d if isinstance(d, str) else d.get("text") or d.get("thinking") or "" for d in deltas]
    return "".join(said)


@pytest.mark.parametrize("path", PATHS)
async def test_a_stream_comes_as_it_was_said_under_the_public_name(path: str) -> None:
    async with Upstream(sends(*whole(path))) as a, running(config_for({"a": a.url})) as router:
        events, response = await ask(router, path)
        metrics = (await router.client.get("/metrics")).text
    assert re.search(r'crossfade_tokens_total{.*"completion".*} 20', metrics)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert text_of(path, events) == "User says hi. Reply briefly.Hello there!"
    assert events[-1][0] == LAST[path]
    assert '"model":"jane"' in response.text and "gpt-oss" not in response.text and "[DONE]" not in response.text
    assert a.received[0].json == {**ASKED[path], "model": "real-a"}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_however_the_bytes_are_cut_the_client_gets_the_same(path: str, size: int) -> None:
    body = b"".join(events_of(path)).replace(b"\n", b"\r\n")
    cut = [chunked(body[start : start + size]) for start in range(0, len(body), size)]
    async with (
        Upstream(sends(STREAM_HEAD, b"".join(cut), END)) as a,
        Upstream(sends(*whole(path))) as b,
        running(config_for({"a": a.url})) as router,
        running(config_for({"a": b.url})) as other,
    ):
        events, _ = await ask(router, path)
        whole_events, _ = await ask(other, path)
    for _, data in (*events, *whole_events):
        for inner in (data.get("response", {}), data.get("message", {})):
            inner.pop("id", None)  # made for each answer anew
    assert events == whole_events


def failing(path: str) -> list[tuple[str, list[bytes]]]:
    """What is no answer, though it may begin like one."""
    begun = [chunked(event) for event in events_of(path)[:2]]
    error = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n'
    unnamed = b'data: {"error":{"message":"busy","code":503}}\n\n'
    last = chunked(events_of(path)[-1].replace(b'"completed"', b'"cancelled"'))
    return [
        ("an error event at once", [STREAM_HEAD, chunked(error), END]),
        ("an error event after the beginning", [STREAM_HEAD, *begun, chunked(error), END]),
        ("an error without its name", [STREAM_HEAD, *begun, chunked(unnamed), END]),
        ("an empty stream", [STREAM_HEAD, END]),
        ("an end after the beginning", [STREAM_HEAD, *begun, END]),
        ("only [DONE]", [STREAM_HEAD, chunked(b"data: [DONE]\n\n"), END]),
        ("an abort without content", [STREAM_HEAD, *begun, last, END]),
        ("no JSON", [STREAM_HEAD, *begun, chunked(b"event: x\ndata: {\n\n"), END]),
        ("HTML", [answer(b"<html>", content_type="text/html")]),
        ("an error in a 200", [answer({"error": "Unexpected endpoint or method. (POST /v1/x)"})]),
        ("an answer that is not streamed", [answer({"id": "x"})]),
    ]


BEFORE = [(path, what, pieces) for path in PATHS for what, pieces in failing(path)]


@pytest.mark.parametrize(("path", "what", "pieces"), BEFORE, ids=[f"{path}: {what}" for path, what, _ in BEFORE])
async def test_before_content_the_call_moves_with_nothing_said(path: str, what: str, pieces: list[bytes]) -> None:
    async with (
        Upstream(sends(*pieces)) as a,
        Upstream(sends(*whole(path))) as b,
        running(config_for({"a": a.url, "b": b.url}, ONCE)) as router,
    ):
        events, response = await ask(router, path)
    assert (response.headers["x-crossfade-backend"], response.headers["x-crossfade-attempts"]) == ("b", "2")
    assert text_of(path, events) == "User says hi. Reply briefly.Hello there!"
    kinds = [kind for kind, _ in events]
    assert len(kinds) == len(events_of(path)) and kinds[-1] == LAST[path]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("how", ["reset", "silent"])
async def test_a_backend_that_dies_or_says_nothing_before_content_is_left(path: str, how: str) -> None:
    begun = [STREAM_HEAD, *(chunked(event) for event in events_of(path)[:2])]
    limits = "\ntimeouts: {first_token_s: 0.3, first_token_per_kib_s: 0}"
    async with (
        Upstream(hangs_up_after(*begun) if how == "reset" else hangs) as a,
        Upstream(sends(*whole(path))) as b,
        running(config_for({"a": a.url, "b": b.url}, ONCE + limits)) as router,
    ):
        events, response = await ask(router, path)
    assert response.headers["x-crossfade-backend"] == "b" and events[-1][0] == LAST[path]


def stands_still(*pieces: bytes) -> Any:
    async def script(_request: Received, connection: Connection) -> None:
        await connection.write(*pieces)
        await connection.until_gone()

    return script


AFTER = [
    (path, how) for path in PATHS for how in ("reset", "end", "still", "error", "pings", "done", "abort", "garbage")
]
AFTER.append(("/v1/responses", "failed"))


@pytest.mark.parametrize(("path", "how"), AFTER)
async def test_after_content_a_break_is_one_error_event_and_never_an_end(path: str, how: str) -> None:
    begun = until_content(path)
    failed = b'event: response.failed\ndata: {"type":"response.failed","response":{"status":"failed","error":null}}\n\n'
    aborted = events_of(path)[-1].replace(b'"status":"completed"', b'"status":"cancelled"')
    script = {
        "reset": hangs_up_after(*begun),
        "end": sends(*begun, END),
        "still": stands_still(*begun),
        "error": sends(*begun, chunked(b'event: error\ndata: {"type":"error","error":{"message":"x"}}\n\n'), END),
        "pings": stands_still(*begun, *[chunked(b": x\n\n"), chunked(b'event: ping\ndata: {"type":"ping"}\n\n')] * 3),
        "done": sends(*begun, chunked(b"data: [DONE]\n\n"), END),
        "abort": sends(*begun, chunked(aborted), END),
        "failed": sends(*begun, chunked(failed), END),
        "garbage": sends(*begun, chunked(b"data: {\n\n"), END),
    }[how]
    limits = "split: {a: 1.0}\ntimeouts: {between_tokens_s: 0.3}"
    async with (
        Upstream(script) as a,
        Upstream(sends(*whole(path))) as b,
        running(config_for({"a": a.url, "b": b.url}, limits)) as router,
    ):
        events, response = await ask(router, path)
        metrics = (await router.client.get("/metrics")).text
    assert response.status_code == 200 and not b.received
    *said, (kind, told) = events
    assert (kind, told["type"]) == ("error", "error") and all(each != LAST[path] for each, _ in said)
    assert said[-1][0] in PIECES[path]
    expected = "server_error" if path == "/v1/responses" else "api_error"
    assert (told["error"]["type"], told["error"]["code"]) == (expected, "stream_broken")
    assert set(told["error"]) == {"message", "type", "param", "code"}
    assert 'outcome="stream_broken"' in metrics
    if path == "/v1/responses":
        assert (told["code"], told["message"]) == ("stream_broken", told["error"]["message"])


@pytest.mark.parametrize("path", PATHS)
async def test_a_deadline_in_mid_stream_says_so(path: str) -> None:
    async with (
        Upstream(stands_still(*until_content(path))) as a,
        running(config_for({"a": a.url}, "split: {a: 1.0}\ntimeouts: {total_s: 1.0}")) as router,
    ):
        events, _ = await ask(router, path)
    assert (events[-1][0], events[-1][1]["error"]["code"]) == ("error", "timeout")


@pytest.mark.parametrize("path", PATHS)
async def test_where_pings_have_begun_the_stream_and_all_fails_the_error_has_the_apis_form(path: str) -> None:
    limits = "split: {a: 1.0}\ntimeouts: {first_token_s: 0.5, first_token_per_kib_s: 0, ping_after_s: 0.1}"
    async with Upstream(hangs) as a, running(config_for({"a": a.url}, limits)) as router:
        events, response = await ask(router, path)
    assert response.text.startswith(": ping\n\n")
    assert [kind for kind, _ in events] == ["error"] and events[0][1]["error"]["code"] == "timeout"


@pytest.mark.parametrize("path", PATHS)
async def test_a_client_that_leaves_stops_the_backend(path: str) -> None:
    async with Upstream(stands_still(*until_content(path))) as a, running(config_for({"a": a.url})) as router:
        async with connected(router.port) as client:
            body = json.dumps(ASKED[path]).encode()
            await client.send(request(body, line=f"POST {path} HTTP/1.1"))
            assert (await client.head())[0] == 200
            assert await client.chunk()
        async with asyncio.timeout(5):
            await a.gone.wait()
        metrics = ""
        while 'outcome="client_gone"' not in metrics:
            metrics = (await router.client.get("/metrics")).text


@pytest.mark.parametrize("path", PATHS)
async def test_a_slow_client_holds_the_backend_back_and_gets_all_of_it(path: str) -> None:
    piece = next(event for event in events_of(path) if PIECES[path][-1].encode() in event)
    long = piece.replace(b'"delta":"', b'"delta":"' + b"x" * 4000).replace(
        b'"thinking":"', b'"thinking":"' + b"x" * 4000
    )
    count, written = 4000, 0

    async def script(_request: Received, connection: Connection) -> None:
        nonlocal written
        await connection.write(*until_content(path))
        for _ in range(count):
            await connection.write(chunked(long))
            written += 1
        await connection.write(*(chunked(event) for event in events_of(path)[-2:]), END)

    async with (
        Upstream(script) as a,
        running(config_for({"a": a.url}, "split: {a: 1.0}\ntimeouts: {between_tokens_s: 1}")) as router,
        connected(router.port) as client,
    ):
        await client.send(request(json.dumps(ASKED[path]).encode(), line=f"POST {path} HTTP/1.1"))
        await client.head()
        seen = -1
        while seen != written:  # until nothing moves any more
            seen = written
            await asyncio.sleep(0.3)
        assert written < count, "nobody was held back"
        await asyncio.sleep(1.2)  # longer than between two pieces: the client's slowness is not the backend's
        chunks = []
        while chunk := await client.chunk():
            chunks.append(chunk)
    got = b"".join(chunks)
    assert got.count(b'"xxxx') == count and got.count(b"x") > count * 4000 and LAST[path].encode() in got[-3000:]


@pytest.mark.parametrize("path", PATHS)
async def test_a_hedge_may_win_a_stream_of_these_too(path: str) -> None:
    model = "split: {a: 1.0}\nhedge: {after_s: 0.1}"
    async with (
        Upstream(hangs) as a,
        Upstream(sends(*whole(path))) as b,
        running(config_for({"a": a.url, "b": b.url}, model)) as router,
    ):
        events, response = await ask(router, path)
    assert response.headers["x-crossfade-backend"] == "b" and events[-1][0] == LAST[path]
