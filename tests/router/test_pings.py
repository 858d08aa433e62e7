"""`ping_after_s`: a streaming client hears that it is waited for, and the call moves as freely as without."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.rawclient import RawClient, chat_body, connected, request
from tests.running import config_for, running
from tests.upstream import (
    STREAM_HEAD,
    Connection,
    Received,
    Script,
    Upstream,
    answer,
    chat_answer,
    chunked,
    event,
    says,
    stream,
)

PINGED = "split: {a: 1.0}\ntimeouts: {ping_after_s: 0.02}"
PING = b": ping\n\n"


def waits(may_go_on: asyncio.Event, *packets: bytes) -> Script:
    """A backend in a long prefill: nothing until it may go on, then these packets and the end of the connection."""

    async def script(_request: Received, connection: Connection) -> None:
        await may_go_on.wait()
        await connection.write(*packets)
        connection.writer.close()

    return script


def call(**fields: Any) -> bytes:
    """A chat call of `jane`, streamed unless it is said otherwise."""
    return request(chat_body(**{"stream": True, **fields}))


async def rest(client: RawClient) -> bytes:
    """Everything that still comes of the answer but pings, joined."""
    text = b""
    while piece := await client.chunk():
        text += piece
    return text.replace(PING, b"")


async def test_a_waiting_client_gets_the_head_and_pings_then_an_ordinary_stream() -> None:
    may_go_on = asyncio.Event()
    async with (
        Upstream(waits(may_go_on, *stream("Hello"))) as a,
        running(config_for({"a": a.url}, PINGED)) as router,
        connected(router.port) as client,
    ):
        await client.send(call())
        status, _, headers = await client.head()
        assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert headers["x-request-id"] and "x-crossfade-backend" not in headers  # nobody has answered yet
        assert [await client.chunk(), await client.chunk()] == [PING, PING]
        may_go_on.set()
        text = await rest(client)
        assert text.startswith(b"data: {") and text.endswith(b"data: [DONE]\n\n") and text.count(b'"role"') == 1


async def test_after_a_ping_the_call_still_moves_to_the_next_backend() -> None:
    may_go_on = asyncio.Event()
    async with (
        Upstream(waits(may_go_on, answer({"error": {"message": "dead"}}, "500 Internal Server Error"))) as a,
        Upstream(says("from b")) as b,
        running(config_for({"a": a.url, "b": b.url}, PINGED + "\nretry: {attempts_per_backend: 1}")) as router,
        connected(router.port) as client,
    ):
        await client.send(call())
        await client.head()
        assert await client.chunk() == PING
        may_go_on.set()
        text = await rest(client)
        assert b"from" in text and b"error" not in text and text.endswith(b"data: [DONE]\n\n")
        metrics = (await router.client.get("/metrics")).text
        assert 'crossfade_calls_total{backend="b",model="jane",result="ok"} 1.0' in metrics


async def test_where_all_fail_after_a_ping_the_client_gets_one_error_event_and_no_end() -> None:
    may_go_on = asyncio.Event()
    async with (
        Upstream(waits(may_go_on, answer({"error": {"message": "dead"}}, "500 Internal Server Error"))) as a,
        running(config_for({"a": a.url}, PINGED + "\nretry: {attempts_per_backend: 1}")) as router,
        connected(router.port) as client,
    ):
        await client.send(call())
        await client.head()
        assert await client.chunk() == PING
        may_go_on.set()
        text = await rest(client)
        assert text.count(b"data: ") == 1
        assert json.loads(text.removeprefix(b"data: "))["error"]["code"] == "backend_unavailable"
        await client.send(call(stream=False))  # the connection goes on
        assert (await client.answer()).status == 503
        metrics = (await router.client.get("/metrics")).text
        assert 'result="backend_unavailable"} 2.0' in metrics


async def test_the_callers_own_fault_is_told_in_an_event_once_the_head_is_out() -> None:
    may_go_on = asyncio.Event()
    fault = {"error": {"message": "temperature is too high", "type": "BadRequestError", "param": None, "code": 400}}
    async with (
        Upstream(waits(may_go_on, answer(fault, "400 Bad Request"))) as a,
        running(config_for({"a": a.url}, PINGED)) as router,
        connected(router.port) as client,
    ):
        await client.send(call())
        await client.head()
        assert await client.chunk() == PING
        may_go_on.set()
        error = json.loads((await rest(client)).removeprefix(b"data: "))["error"]
        assert error["type"] == "invalid_request_error" and "temperature" in error["message"]


async def test_an_answer_that_is_not_streamed_is_never_begun_with_a_ping() -> None:
    may_go_on = asyncio.Event()
    async with (
        Upstream(waits(may_go_on, answer(chat_answer()))) as a,
        running(config_for({"a": a.url}, PINGED)) as router,
        connected(router.port) as client,
        connected(router.port) as other,
    ):
        await client.send(call(stream=False))
        await other.send(call())
        await other.head()
        assert [await other.chunk(), await other.chunk()] == [PING, PING]  # more than long enough
        may_go_on.set()
        assert (await client.answer()).json["choices"][0]["message"]["content"] == "Hello"


async def test_a_backends_own_limit_stands_in_the_place_of_the_models() -> None:
    may_go_on = asyncio.Event()
    async with Upstream(waits(may_go_on, *stream("Hello"))) as a:
        config = config_for({"a": a.url}).replace(f"url: {a.url}", f"url: {a.url}, timeouts: {{ping_after_s: 0.02}}")
        async with running(config) as router, connected(router.port) as client:
            await client.send(call())
            await client.head()
            assert await client.chunk() == PING
            may_go_on.set()
            assert (await rest(client)).endswith(b"data: [DONE]\n\n")


async def test_pings_go_on_while_a_broken_stream_waits_for_its_rest() -> None:
    may_go_on = asyncio.Event()

    async def breaks(_request: Received, connection: Connection) -> None:
        await connection.write(STREAM_HEAD, chunked(event({"content": "Hel"})))
        connection.reset()

    async with (
        Upstream(breaks) as a,
        Upstream(waits(may_go_on, *stream("Hel", "lo"))) as b,
        running(config_for({"a": a.url, "b": b.url}, PINGED + "\nresume: {by: [align]}")) as router,
        connected(router.port) as client,
    ):
        await client.send(call(temperature=0))
        await client.head()
        while await client.chunk() != PING:
            pass
        may_go_on.set()
        text = await rest(client)
        assert b'"lo"' in text and text.endswith(b"data: [DONE]\n\n")


async def test_a_client_that_leaves_between_two_pings_ends_the_call() -> None:
    async def silent(_request: Received, connection: Connection) -> None:
        await connection.until_gone()

    async with (
        Upstream(silent) as a,
        running(config_for({"a": a.url}, PINGED)) as router,
    ):
        async with connected(router.port) as client:
            await client.send(call())
            await client.head()
            assert await client.chunk() == PING
        await asyncio.wait_for(a.gone.wait(), 5)


async def test_a_client_of_http_1_0_gets_pings_without_chunked_coding() -> None:
    may_go_on = asyncio.Event()
    async with (
        Upstream(waits(may_go_on, *stream("Hello"))) as a,
        running(config_for({"a": a.url}, PINGED)) as router,
        connected(router.port) as client,
    ):
        await client.send(call().replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        await client.head()
        assert await client.reader.readexactly(len(PING)) == PING
        may_go_on.set()
        assert (await client.ended()).endswith(b"data: [DONE]\n\n")
