"""Two readers of one request (facts B2; B5, 33-34): what another parser could read differently is refused, and what follows never runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.rawclient import chat_body, connected, request
from tests.running import Router, config_for, running
from tests.upstream import Upstream, says

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = chat_body()
SECOND = request(chat_body(user="smuggled"))


@dataclass(frozen=True, slots=True)
class Door:
    router: Router
    backend: Upstream


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_door() -> AsyncIterator[Door]:
    async with (
        Upstream(says("x")) as backend,
        running(config_for({"a": backend.url}, server="keys_env: KEYS"), {}) as router,
    ):
        yield Door(router, backend)


@pytest.fixture
def door(running_door: Door) -> Door:
    running_door.backend.received.clear()
    return running_door


def framed(*headers: str, body: bytes = BODY, line: str = "POST /v1/chat/completions HTTP/1.1") -> bytes:
    """A chat call whose framing is said by these headers alone."""
    return request(b"", *headers, line=line, length=False) + body


def chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


CHUNKED = "transfer-encoding: chunked"
SIZE = f"content-length: {len(BODY)}"

REFUSED: list[tuple[str, bytes]] = [
    ("a length and chunks", framed(SIZE, CHUNKED, body=chunks(BODY))),
    ("chunks and a length", framed(CHUNKED, "content-length: 5", body=chunks(BODY))),
    ("the same length twice", framed(SIZE, SIZE)),
    ("two lengths", framed(SIZE, "content-length: 5")),
    ("two lengths in one", framed(f"{SIZE}, {len(BODY)}")),
    ("a length with a sign", framed(f"content-length: +{len(BODY)}")),
    ("a negative length", framed("content-length: -1")),
    ("a length in hexadecimal", framed(f"content-length: {len(BODY):#x}")),
    ("a length with an underscore", framed("content-length: 6_6")),
    ("a length of 2 to the 64", framed("content-length: 18446744073709551616")),
    ("an empty length", framed("content-length: ")),
    ("a space before the colon of a length", framed(f"content-length : {len(BODY)}")),
    ("chunks folded into the next line", framed("transfer-encoding:\r\n chunked", body=chunks(BODY))),
    ("any folded line", framed(SIZE, "x-a: b\r\n c")),
    ("a line that begins with a space", framed(" x-a: b", SIZE)),
    ("an unknown coding", framed("transfer-encoding: xchunked", body=chunks(BODY))),
    ("identity after chunked", framed("transfer-encoding: chunked, identity", body=chunks(BODY))),
    ("identity before chunked", framed("transfer-encoding: identity, chunked", body=chunks(BODY))),
    ("gzip before chunked", framed("transfer-encoding: gzip, chunked", body=chunks(BODY))),
    ("identity alone", framed("transfer-encoding: identity", SIZE)),
    ("chunked twice", framed(CHUNKED, CHUNKED, body=chunks(BODY))),
    ("chunked, then identity", framed(CHUNKED, "transfer-encoding: identity", body=chunks(BODY))),
    ("a vertical tab before chunked", framed("transfer-encoding: \x0bchunked", body=chunks(BODY))),
    ("chunks in HTTP/1.0", framed(CHUNKED, body=chunks(BODY), line="POST /v1/chat/completions HTTP/1.0")),
    ("a chunk's size with an underscore", framed(CHUNKED, body=b"4_2\r\n" + BODY + b"\r\n0\r\n\r\n")),
    ("a chunk's size with a sign", framed(CHUNKED, body=b"+42\r\n" + BODY + b"\r\n0\r\n\r\n")),
    ("a chunk's size with 0x", framed(CHUNKED, body=b"0x42\r\n" + BODY + b"\r\n0\r\n\r\n")),
    ("a chunk's size without end", framed(CHUNKED, body=b"f" * 18 + b"\r\n")),
    ("a chunk that is longer than it says", framed(CHUNKED, body=b"2\r\nhiX\r\n0\r\n\r\n")),
    ("bare line feeds between chunks", framed(CHUNKED, body=chunks(BODY).replace(b"\r\n", b"\n"))),
    ("a length in the trailer", framed(CHUNKED, body=chunks(BODY)[:-2] + b"content-length: 5\r\n\r\n")),
    ("bare line feeds", framed(SIZE).replace(b"\r\n", b"\n")),
    ("a bare carriage return in a value", framed(SIZE, "x-a: b\rc")),
    ("NUL in a value", framed(SIZE, "x-a: b\0c")),
    ("NUL in a name", framed(SIZE, "x\0a: b")),
    ("a header without a name", framed(SIZE, ": b")),
    ("a header without a colon", framed(SIZE, "x-a")),
    ("brackets in a name", framed(SIZE, "x(a): b")),
    ("HTTP/1.2", framed(SIZE, line="POST /v1/chat/completions HTTP/1.2")),
    ("HTTP/2.0", framed(SIZE, line="POST /v1/chat/completions HTTP/2.0")),
    ("HTTP/2's preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("HTTP/0.9", b"GET /v1/models\r\n\r\n"),
    ("no version, with a Host", b"GET /v1/models\r\nhost: localhost\r\n\r\n"),
    ("a method in small letters", framed(SIZE, line="post /v1/chat/completions HTTP/1.1")),
    ("a space before the method", framed(SIZE, line=" POST /v1/chat/completions HTTP/1.1")),
    ("a tab behind the method", framed(SIZE, line="POST\t/v1/chat/completions HTTP/1.1")),
    ("a fragment in the path", framed(SIZE, line="POST /v1/chat/completions#x HTTP/1.1")),
    ("a tunnel", request(line="CONNECT 127.0.0.1:22 HTTP/1.1", length=False)),
]  # fmt: skip


@pytest.mark.parametrize("sent", [row[1] for row in REFUSED], ids=[row[0] for row in REFUSED])
async def test_a_request_that_two_could_read_differently_is_a_400_and_what_follows_is_never_done(
    door: Door, sent: bytes
) -> None:
    async with connected(door.router.port) as client:
        await client.send(sent + SECOND)
        got = await client.answer()
        assert got.status == 400 and got.json["error"]["code"] == "bad_request", got
        assert got.headers["connection"] == "close"
        assert await client.ended() == b""
    assert (await door.router.chat(user="afterwards")).status_code == 200
    assert [call.json["user"] for call in door.backend.received] == ["afterwards"]


@pytest.mark.parametrize("cut", [1, 5, 40], ids=lambda cut: f"{cut} bytes")
async def test_a_body_that_breaks_in_a_later_packet_is_a_400_too(door: Door, cut: int) -> None:
    sent = framed(CHUNKED, body=b"2\r\nhiX\r\n0\r\n\r\n")
    async with connected(door.router.port) as client:
        await client.send(sent[:-cut])
        await asyncio.sleep(0)
        await client.send(sent[-cut:])
        assert (await client.answer()).status == 400
        assert await client.ended() == b""
    assert not door.backend.received


PATHS = [
    "/v1/../admin", "/v1/%2e%2e/admin", "/v1/..%2fadmin", "/v1%2fmodels", "/v1/models%2f", "/v1/models/", "/v1//models", "//v1/models",
    "/v1\\models", "/v1/models%5c", "/v1/models;a=b", "/v1/models%00", "/v1/models%20", "/v1/models.", "/V1/models", "/v1/Models",
    "/v1/./models", "/v1/x/../models", "/%761/models", "/v1/model%73", "/admin", "/admin/", "/docs", "/redoc",
    "//admin/api/status", "/%61dmin/api/status", "/v1/../admin/api/status", "/ADMIN/api/status", "/admin/./api/status",
    "/openapi.json", "/metrics/", "/health", "/health/ready/", "/health/%72eady", "http://localhost/v1/models",
    "http://127.0.0.1:1/v1/models", "http://evil.example/v1/models", "https://localhost/v1/models", "*",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
async def test_only_the_exact_path_as_it_was_sent_leads_anywhere(door: Door, path: str) -> None:
    async with connected(door.router.port) as client:
        await client.send(request(line=f"GET {path} HTTP/1.1", length=False))
        assert (await client.answer()).status in (400, 404)
        await client.send(request(chat_body(), line=f"POST {path} HTTP/1.1"))
        assert (await client.answer()).status in (400, 404)
    assert not door.backend.received


async def test_a_query_is_no_part_of_the_path_and_a_key_in_it_no_key(door: Door) -> None:
    async with running(config_for({"a": door.backend.url}, server="keys_env: K"), {"K": "one"}) as router:
        for line in ("GET /v1/models?key=one HTTP/1.1", "GET /v1/models?authorization=Bearer+one HTTP/1.1"):
            async with connected(router.port) as client:
                await client.send(request(line=line, length=False))
                assert (await client.answer()).status == 401


TRAILERS = ["authorization: Bearer one", "x-crossfade-backend: b", "host: evil.example", "content-type: text/plain"]


async def test_a_trailer_is_no_header(door: Door) -> None:
    """In one packet with its body, so that it is there before anybody has read the headers."""
    config = config_for({"a": door.backend.url, "b": door.backend.url}, server="clients: [{key_env: K, may_pin: true}]")
    body = chunks(BODY)[:-2] + "\r\n".join(TRAILERS).encode() + b"\r\n\r\n"
    async with running(config, {"K": "one"}) as router, connected(router.port) as client:
        await client.send(framed(CHUNKED, body=body))
        assert (await client.answer()).status == 401
        await client.send(framed(CHUNKED, "authorization: Bearer one", body=body))
        got = await client.answer()
        assert got.status == 200 and got.headers["x-crossfade-backend"] == "a"


async def test_an_underscore_is_no_dash(door: Door) -> None:
    config = config_for({"a": door.backend.url, "b": door.backend.url}, server="clients: [{key_env: K, may_pin: true}]")
    async with running(config, {"K": "one"}) as router, connected(router.port) as client:
        for headers in (["authorization_: Bearer one"], ["x_authorization: Bearer one"]):
            await client.send(request(BODY, *headers))
            assert (await client.answer()).status == 401
        odd = ["content_length: 5", "transfer_encoding: chunked", "x_crossfade_backend: b", "content_encoding: gzip"]
        await client.send(request(BODY, "authorization: Bearer one", "x-crossfade_backend: b", *odd))
        got = await client.answer()
        assert got.status == 200 and got.headers["x-crossfade-backend"] == "a"


@pytest.mark.parametrize("keys", [("one", "x"), ("x", "one"), ("one", "one"), ("x", "x", "one")], ids=str)
async def test_several_keys_are_none_in_any_order(door: Door, keys: tuple[str, ...]) -> None:
    config = config_for({"a": door.backend.url}, server="keys_env: K")
    async with running(config, {"K": "one"}) as router, connected(router.port) as client:
        await client.send(request(BODY, *(f"authorization: Bearer {key}" for key in keys)))
        assert (await client.answer()).status == 401
    assert not door.backend.received


async def test_what_is_pipelined_behind_a_request_after_which_we_hang_up_is_never_begun(door: Door) -> None:
    """Its body may follow or not: the bytes behind the head could be that body, or another's request."""
    late = request(b"", "expect: 100-continue", "content-length: 5", line="PUT /v1/models HTTP/1.1", length=False)
    async with connected(door.router.port) as client:
        await client.send(late + b"hello" + SECOND)
        assert (await client.answer()).status == 405
        assert await client.ended() == b""
    assert (await door.router.chat(user="afterwards")).status_code == 200
    assert [call.json["user"] for call in door.backend.received] == ["afterwards"]
