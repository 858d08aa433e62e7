"""The client's side of a connection, byte by byte: framing, pipelining, leaving, idling, and clients that send half of something."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import pytest
import uvicorn

from router.client import Client
from router.edge import EdgeProtocol, turn_of
from tests.rawclient import chat_body, connected, request
from tests.running import Router, config_for, running
from tests.upstream import (
    Connection,
    Received,
    Script,
    Upstream,
    hangs,
    hangs_up_after,
    says,
    stream,
)

STREAM = chat_body(stream=True)
OLD = "POST /v1/chat/completions HTTP/1.0"


class Gated:
    """A backend that streams one word and waits for leave before it goes on."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, _request: Received, connection: Connection) -> None:
        pieces = stream("one ", "two ")
        await connection.write(*pieces[:3])
        left = asyncio.create_task(connection.until_gone())
        told = asyncio.create_task(self.go_on.wait())
        await asyncio.wait((left, told), return_when=asyncio.FIRST_COMPLETED)
        left.cancel()
        told.cancel()
        await connection.write(*pieces[3:])


async def test_a_client_of_http_1_0_gets_its_stream_bare_and_then_the_connection_ends() -> None:
    words = "one two three four five six seven eight nine ten eleven twelve"
    async with (
        Upstream(says(words)) as a,
        running(config_for({"a": a.url})) as router,
        connected(router.port) as client,
    ):
        await client.send(request(STREAM, line=OLD))
        status, _, headers = await client.head()
        body = await client.ended()
    assert status == 200 and "transfer-encoding" not in headers and "content-length" not in headers
    lines = body.decode().split("\n\n")
    assert all(line.startswith("data: ") for line in lines[:-1]) and lines[-2:] == ["data: [DONE]", ""]
    assert sum('"content":"' in line for line in lines) == 1 + len(words.split())


async def test_a_client_of_http_1_0_gets_a_whole_answer_with_its_length() -> None:
    async with Upstream(says("x")) as a, running(config_for({"a": a.url})) as router, connected(router.port) as client:
        await client.send(request(chat_body(), line=OLD))
        assert (await client.answer()).json["model"] == "jane"
        assert await client.ended() == b""


async def test_a_stream_that_breaks_ends_for_a_client_of_http_1_0_with_an_error_event_too() -> None:
    script = hangs_up_after(*stream("one ", "two ")[:4])
    async with Upstream(script) as a, running(config_for({"a": a.url})) as router, connected(router.port) as client:
        await client.send(request(STREAM, line=OLD))
        await client.head()
        body = await client.ended()
    assert b'data: {"error"' in body and b"[DONE]" not in body and body.endswith(b"\n\n")


@pytest.mark.parametrize("streams", [True, False], ids=["a stream", "a whole answer"])
async def test_connection_close_is_obeyed_after_the_answer(streams: bool) -> None:
    async with (
        Upstream(says("one two")) as a,
        running(config_for({"a": a.url})) as router,
        connected(router.port) as client,
    ):
        await client.send(request(chat_body(stream=streams), "connection: close"))
        got = await client.answer()
        assert got.headers["connection"] == "close"
        assert got.raw_body.endswith(b"0\r\n\r\n") is streams
        assert await client.ended() == b""


async def test_one_connection_carries_streams_and_whole_answers_one_after_the_other() -> None:
    async with (
        Upstream(says("one two")) as a,
        running(config_for({"a": a.url})) as router,
        connected(router.port) as client,
    ):
        for streams in (True, False, True, True):
            await client.send(request(chat_body(stream=streams)))
            got = await client.answer()
            assert got.status == 200 and (b"[DONE]" in got.body) is streams


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    async with (
        Upstream(says("one two")) as a,
        running(config_for({"a": a.url})) as router,
        connected(router.port) as client,
    ):
        await client.send(request(STREAM) + request(b"[]") + request(chat_body()) + request(STREAM))
        answers = [await client.answer() for _ in range(4)]
    assert [got.status for got in answers] == [200, 400, 200, 200]
    assert b"[DONE]" in answers[0].body and answers[2].json["model"] == "jane" and b"[DONE]" in answers[3].body


async def test_a_request_too_long_behind_a_running_one_closes_only_after_its_own_answer() -> None:
    backend = Gated()
    config = "max_body_bytes: 1000"
    async with (
        Upstream(backend) as a,
        running(config_for({"a": a.url}, server=config)) as router,
        connected(router.port) as client,
    ):
        await client.send(request(STREAM) + request(b"", "content-length: 5000", length=False))
        await client.head()
        backend.go_on.set()
        while await client.chunk():
            pass
        assert (await client.answer()).status == 413
        assert await client.ended() == b""


async def test_garbage_behind_a_running_stream_ends_the_call_and_writes_nothing_into_it() -> None:
    async with Upstream(Gated()) as a, running(config_for({"a": a.url})) as router, connected(router.port) as client:
        await client.send(request(STREAM))
        await client.head()
        await client.send(b"\x00garbage\r\n\r\n")
        assert b"HTTP/1.1" not in await client.ended()
        async with asyncio.timeout(5):
            await a.gone.wait()


@pytest.mark.parametrize("padding", [10, 200_000], ids=["a short body", "a body longer than the buffer"])
@pytest.mark.parametrize("leaves", ["closes", "half-closes"])
async def test_a_client_that_leaves_stops_the_backend_whatever_the_size_of_its_body(leaves: str, padding: int) -> None:
    arrived = asyncio.Event()

    async def waits(_request: Received, connection: Connection) -> None:
        arrived.set()
        await connection.until_gone()

    async with Upstream(waits) as a, running(config_for({"a": a.url})) as router, connected(router.port) as client:
        await client.send(request(chat_body(x="y" * padding)))
        async with asyncio.timeout(5):
            await arrived.wait()
            client.writer.transport.abort() if leaves == "closes" else client.writer.write_eof()
            await a.gone.wait()


async def test_a_client_that_leaves_with_half_of_its_body_sent_leaves_nothing_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Upstream(says("x")) as a, running(config_for({"a": a.url})) as router:
        async with connected(router.port) as client:
            await client.send(request(chat_body())[:-5])
        assert (await router.chat()).status_code == 200
        assert len(a.received) == 1
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_client_that_pipelines_and_leaves_costs_no_line_of_error(caplog: pytest.LogCaptureFixture) -> None:
    async with Upstream(Gated()) as a, running(config_for({"a": a.url})) as router, connected(router.port) as client:
        await client.send(request(STREAM) + request(STREAM))
        await client.head()
        await client.send(b"x")
        client.writer.transport.abort()
        async with asyncio.timeout(5):
            await a.gone.wait()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_expect_100_continue_is_answered_before_the_body_comes() -> None:
    async with Upstream(says("x")) as a, running(config_for({"a": a.url})) as router, connected(router.port) as client:
        whole = request(chat_body(), "expect: 100-continue")
        head, body = whole[: -len(chat_body())], chat_body()
        await client.send(head)
        assert (await client.head())[0] == 100
        await client.send(body)
        assert (await client.answer()).status == 200


async def test_a_client_of_http_1_0_is_never_told_to_continue() -> None:
    async with Upstream(says("x")) as a, running(config_for({"a": a.url})) as router, connected(router.port) as client:
        whole = request(chat_body(), "expect: 100-continue", line="POST /v1/chat/completions HTTP/1.0")
        await client.send(whole[: -len(chat_body())])
        await asyncio.sleep(0.05)
        await client.send(chat_body())
        assert (await client.head())[0] == 200


async def test_a_refusal_without_100_continue_closes_because_nobody_knows_whether_the_body_follows() -> None:
    async with running(config_for({"a": "http://127.0.0.1:1"})) as router, connected(router.port) as client:
        await client.send(
            request(b"", "expect: 100-continue", "content-length: 5", line="PUT /v1/models HTTP/1.1", length=False)
        )
        assert (await client.answer()).status == 405
        assert await client.ended() == b""


async def test_head_is_answered_without_a_body_and_the_connection_stays_in_step() -> None:
    async with Upstream(says("x")) as a, running(config_for({"a": a.url})) as router, connected(router.port) as client:
        for path, status in (("/v1/models", 200), ("/v1/chat/completions", 405), ("/v1/nothing", 404)):
            await client.send(request(line=f"HEAD {path} HTTP/1.1", length=False))
            got = await client.answer("HEAD")
            assert got.status == status and int(got.headers["content-length"]) > 0
        await client.send(request(chat_body()))
        assert (await client.answer()).status == 200


async def test_javas_wish_for_http_2_is_passed_over_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    whole = request(
        chat_body(), "connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAEAAEAAAAIAAAAB"
    )
    async with Upstream(says("x")) as a, running(config_for({"a": a.url})) as router, connected(router.port) as client:
        for pieces in ([whole], [whole[:-20], whole[-20:]], [whole[:60], whole[60:]], [request(chat_body())]):
            await client.send(*pieces)
            assert (await client.answer()).status == 200
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_an_empty_piece_of_an_answer_does_not_end_it() -> None:
    """No endpoint writes one today; the next that does must not cut its answer off."""

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        client = Client(turn_of(scope))
        client.begin(200, [(b"content-type", b"text/plain")])
        for piece in (b"", b"one ", b"", b"two"):
            client.write(piece)
        await client.finish()
        client.leave()

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=EdgeProtocol, ws="none", lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    async with connected(listener.getsockname()[1]) as client:
        await client.send(request(line="GET / HTTP/1.1", length=False))
        assert (await client.answer()).body == b"one two"
    server.should_exit = True
    await serving


# -- time ------------------------------------------------------------------------------------------


async def test_an_idle_connection_is_kept_for_75_seconds_and_no_shorter() -> None:
    """Read off the timer that would close it: a test that waits this long would be no better."""
    async with running(config_for({"a": "http://127.0.0.1:1"})) as router, connected(router.port) as client:
        (ours,) = router.server.server_state.connections
        assert isinstance(ours, EdgeProtocol)
        assert seconds_to_close(ours) >= 74, "before the first request"
        await client.send(request(line="GET /v1/models HTTP/1.1", length=False))
        await client.answer()
        assert seconds_to_close(ours) >= 74, "after an answer"
        await client.send(request(b"{}", line="POST /v1/nothing HTTP/1.1")[:-1])
        await client.answer()
        await client.send(b"}" + request(line="GET /v1/models HTTP/1.1", length=False))
        await client.answer()
        assert seconds_to_close(ours) >= 74, "after the rest of a body whose request had been answered"


def seconds_to_close(connection: EdgeProtocol) -> float:
    """How long the connection will be kept if nothing comes any more."""
    return connection.rest.until_s - asyncio.get_running_loop().time()


class Impatient(EdgeProtocol):
    """Waits hardly at all."""

    head_timeout_s = body_timeout_s = slow_client_s = linger_s = 0.05


HALVES: list[tuple[str, bytes, int]] = [
    ("half a head", b"POST /v1/chat/completions HTTP/1.1\r\nhost: ", 408),
    ("half a body", request(chat_body())[:-5], 408),
    ("a head and no body", request(chat_body())[: -len(chat_body())], 408),
    ("half a body after its answer", request(b"xx", line="POST /v1/nothing HTTP/1.1")[:-1], 404),
]


@pytest.mark.parametrize(("sent", "status"), [row[1:] for row in HALVES], ids=[row[0] for row in HALVES])
async def test_a_client_that_stops_in_the_middle_is_not_waited_for(sent: bytes, status: int) -> None:
    config = config_for({"a": "http://127.0.0.1:1"})
    async with running(config, edge=Impatient) as router, connected(router.port) as client:
        await client.send(sent)
        assert (await client.answer()).status == status
        assert await client.ended() == b""


async def test_a_client_that_never_closes_after_its_last_answer_is_closed_on() -> None:
    async with (
        running(config_for({"a": "http://127.0.0.1:1"}), edge=Impatient) as router,
        connected(router.port) as client,
    ):
        await client.send(request(b"", "content-length: 99999999999", length=False))
        assert (await client.answer()).status == 413
        async with asyncio.timeout(5):
            while router.server.server_state.connections:
                await asyncio.sleep(0.005)


async def test_a_head_in_many_packets_is_read_whole() -> None:
    whole = request(chat_body(), "x-user-id: someone")
    async with Upstream(says("x")) as a, running(config_for({"a": a.url})) as router, connected(router.port) as client:
        await client.send(*(whole[at : at + 7] for at in range(0, len(whole), 7)))
        assert (await client.answer()).status == 200
    assert a.received[0].json["messages"]


# -- stopping --------------------------------------------------------------------------------------


async def test_a_stream_that_runs_when_the_router_is_stopped_is_finished() -> None:
    backend = Gated()
    async with Upstream(backend) as a, running(config_for({"a": a.url})) as router, connected(router.port) as client:
        await client.send(request(STREAM))
        await client.head()
        reading = asyncio.create_task(client.ended())
        router.stop()
        await refused(router)
        backend.go_on.set()
        body = await reading
    assert b"two " in body and b"[DONE]" in body and body.endswith(b"0\r\n\r\n")


CUT: list[tuple[str, Script, bytes, bytes]] = [
    ("a stream", Gated(), STREAM, b'"error"'),
    ("an answer that has not come", hangs, chat_body(), b"HTTP/1.1 503"),
]


@pytest.mark.parametrize(("script", "body", "ending"), [row[1:] for row in CUT], ids=[row[0] for row in CUT])
async def test_what_is_not_done_at_the_end_of_the_drain_ends_with_an_error_and_no_traceback(
    script: Script, body: bytes, ending: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        Upstream(script) as a,
        running(config_for({"a": a.url}, server="drain_s: 0")) as router,
        connected(router.port) as client,
    ):
        await client.send(request(body))
        async with asyncio.timeout(5):
            while not a.received:
                await asyncio.sleep(0.005)
        router.stop()
        got = await client.ended()
    assert ending in got and b"[DONE]" not in got
    assert not [record for record in caplog.records if record.exc_info]


async def refused(router: Router) -> None:
    """Wait until nobody listens at the port any more.

    Not by connecting until it is refused: the server of asyncio's own loop never closes a connection that comes in the moment of closing.
    """
    async with asyncio.timeout(5):
        while any(server.is_serving() for server in router.server.servers):
            await asyncio.sleep(0.005)
    with pytest.raises(ConnectionError):
        await asyncio.open_connection("127.0.0.1", router.port)
