"""How much a client may send and how long it may take (facts B5, 25, 29-32): each limit at its edge and one step beyond it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from router.edge import EdgeProtocol
from tests.rawclient import chat_body, connected, request
from tests.running import Router, config_for, running
from tests.upstream import Upstream, says

pytestmark = pytest.mark.asyncio(loop_scope="module")

URL_BYTES, HEADERS, HEAD_BYTES = 8_192, 100, 32_768  # as docs/http.md says
OWN_HEADERS = 3  # of `request`: host, content type, length


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def router() -> AsyncIterator[Router]:
    async with Upstream(says("x")) as a, running(config_for({"a": a.url})) as router:
        yield router


def called(*headers: str, query: str = "") -> bytes:
    return request(chat_body(), *headers, line=f"POST /v1/chat/completions{query} HTTP/1.1")


def with_url_of(size: int) -> bytes:
    path = "/v1/chat/completions"
    return called(query="?" + "x" * (size - len(path) - 1))


def with_head_of(size: int) -> bytes:
    """All its lines together, each with its line break; how much of it one header is makes no difference."""
    plain = [b"host: router", b"content-type: application/json", b"content-length: %d" % len(chat_body())]
    rest = size - sum(len(line) + 2 for line in plain)
    return called("x-a: " + "y" * (rest - len("x-a: ") - 2))


SIZES: list[tuple[str, bytes, int]] = [
    ("a URL at the limit", with_url_of(URL_BYTES), 200),
    ("a URL one byte over it", with_url_of(URL_BYTES + 1), 414),
    ("a URL of 30 KB", with_url_of(30_000), 414),
    ("a URL of 100 KB", with_url_of(100_000), 414),
    ("a URL of 1 MB", with_url_of(1_000_000), 414),
    ("100 headers", called(*(f"x-{n}: y" for n in range(HEADERS - OWN_HEADERS))), 200),
    ("101 headers", called(*(f"x-{n}: y" for n in range(HEADERS - OWN_HEADERS + 1))), 431),
    ("5,000 headers", called(*(f"x-{n}: y" for n in range(5_000))), 431),
    ("the same header 101 times", called(*["x-a: y"] * 101), 431),
    ("a head at the limit", with_head_of(HEAD_BYTES), 200),
    ("a head one byte over it", with_head_of(HEAD_BYTES + 1), 431),
    ("a head of 70 KB", with_head_of(70_000), 431),
    ("a head of 200 KB, in one packet", with_head_of(200_000), 431),
    ("a head of 1 MB", with_head_of(1_000_000), 431),
    ("a name of 40 KB", called("x" * 40_000 + ": y"), 431),
]


@pytest.mark.parametrize("cut", ["in one piece", "in two", "in many"])
@pytest.mark.parametrize(("sent", "status"), [row[1:] for row in SIZES], ids=[row[0] for row in SIZES])
async def test_a_head_is_measured_to_the_byte_however_it_is_cut(
    router: Router, sent: bytes, status: int, cut: str
) -> None:
    head = sent.index(b"\r\n\r\n")
    step = {"in one piece": len(sent), "in two": head - 10, "in many": 3_000}[cut]
    async with connected(router.port) as client:
        try:
            for at in range(0, len(sent), step):
                await client.send(sent[at : at + step])
                if len(sent) < 100_000:
                    await asyncio.sleep(0.001)  # so that each piece is likely to be read alone
        except ConnectionError:
            pass  # refused already
        got = await client.answer()
        assert got.status == status, got
        if status != 200:
            assert got.json["error"]["type"] == "invalid_request_error" and await client.ended() == b""


async def test_a_long_head_of_an_earlier_request_counts_for_no_later_one(router: Router) -> None:
    async with connected(router.port) as client:
        for _ in range(3):
            await client.send(with_head_of(HEAD_BYTES)[:20_000])
            await client.send(with_head_of(HEAD_BYTES)[20_000:])
            assert (await client.answer()).status == 200
        await client.send(called() * 200)  # many requests, together longer than a head may be
        for _ in range(200):
            assert (await client.answer()).status == 200


class Impatient(EdgeProtocol):
    head_timeout_s = body_timeout_s = 0.3
    linger_s = 0.1


DRIPS: list[tuple[str, bytes, bytes]] = [
    ("its request line", b"GET /v1/models", b"x"),
    ("its headers", b"GET /v1/models HTTP/1.1\r\nhost: router\r\nx-a: ", b"y"),
    ("header after header", b"GET /v1/models HTTP/1.1\r\nhost: router\r\n", b"a: b\r\n"),
    ("its body", request(b"", "content-length: 5000", length=False), b" "),
    ("chunk after chunk", request(b"", "transfer-encoding: chunked", length=False), b"1\r\n \r\n"),
    ("an extension of a chunk", request(b"", "transfer-encoding: chunked", length=False) + b"5;a=", b"b"),
    ("a trailer", request(b"", "transfer-encoding: chunked", length=False) + b"1\r\n{\r\n0\r\n", b"a: b\r\n"),
]


@pytest.mark.parametrize(("begin", "drop"), [row[1:] for row in DRIPS], ids=[row[0] for row in DRIPS])
async def test_a_client_that_drips_is_ended_by_the_clock_and_not_by_its_silence(begin: bytes, drop: bytes) -> None:
    loop = asyncio.get_running_loop()
    config = config_for({"a": "http://127.0.0.1:1"})
    async with running(config, edge=Impatient) as router, connected(router.port) as client:
        began_s = loop.time()
        reading = asyncio.create_task(client.answer())
        await client.send(begin)
        async with asyncio.timeout(5):
            while not reading.done():
                client.writer.write(drop)
                await asyncio.sleep(0.02)
        assert (await reading).status == 408
        assert loop.time() - began_s >= Impatient.head_timeout_s
        assert await client.ended() == b""


async def test_a_connection_may_not_be_kept_by_trailing_line_breaks(router: Router) -> None:
    """The parser skips empty lines before a request; they begin none, and must not put off the end of an idle connection for ever."""

    class Brief(EdgeProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            self.timeout_keep_alive = 0.3  # type: ignore[assignment]
            super().connection_made(transport)

    config = config_for({"a": "http://127.0.0.1:1"})
    async with running(config, edge=Brief) as brief, connected(brief.port) as client:
        reading = asyncio.create_task(client.ended())
        async with asyncio.timeout(5):
            while not reading.done():
                client.writer.write(b"\r\n")
                await asyncio.sleep(0.02)
        assert await reading == b""
