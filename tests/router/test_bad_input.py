"""Bad input through the running router: an error in OpenAI's shape with the right 4xx, nothing sent on, the connection left in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.rawclient import Answer, chat_body, connected, request
from tests.running import Router, config_for, running
from tests.upstream import Upstream, answer, chat_answer, sends

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True, slots=True)
class Door:
    """One router for all rows; its backend answers anything and keeps what it received."""

    router: Router
    backend: Upstream


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_door() -> AsyncIterator[Door]:
    async with (
        Upstream(sends(answer(chat_answer()))) as backend,
        running(config_for({"a": backend.url}, server="max_body_bytes: 1000000")) as router,
    ):
        yield Door(router, backend)


@pytest.fixture
def door(running_door: Door) -> Door:
    running_door.backend.received.clear()
    return running_door


MESSAGES = b'"messages":[{"role":"user","content":"hi"}]'
CHAT = b'"model":"jane",' + MESSAGES


def chat(more: bytes) -> bytes:
    """A sound chat body with `more` in it."""
    return b"{" + CHAT + b"," + more + b"}"


def nested(depth: int) -> bytes:
    """A sound chat body that is `depth` levels deep."""
    return chat(b'"x":' + b"[" * (depth - 1) + b"]" * (depth - 1))


def check_fault(answer: Answer, status: int) -> None:
    """`answer` is an error of this status in OpenAI's envelope with a request id."""
    assert answer.status == status, answer
    error = answer.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and error["type"] == "invalid_request_error"
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    assert "server" not in answer.headers


BODIES: list[tuple[str, bytes, int]] = [
    ("no body", b"", 400),
    ("white space", b"  \n", 400),
    ("text", b"hello", 400),
    ("cut off", b"{" + CHAT, 400),
    ("a list", b"[{" + CHAT + b"}]", 400),
    ("a string", b'"jane"', 400),
    ("null", b"null", 400),
    ("two documents", b"{" + CHAT + b"}{}", 400),
    ("a comment", b"{/**/" + CHAT + b"}", 400),
    ("single quotes", b"{'model':'jane'}", 400),
    ("a trailing comma", b"{" + CHAT + b",}", 400),
    ("invalid UTF-8", chat(b'"x":"\xc3\x28"'), 400),
    ("a byte order mark", b"\xef\xbb\xbf{" + CHAT + b"}", 400),
    ("UTF-16", ("{" + CHAT.decode() + "}").encode("utf-16"), 400),
    ("NUL behind the body", b"{" + CHAT + b"}\x00", 400),
    ("NUL in a string", chat(b'"x":"\x00"'), 400),
    ("a line break in a string", chat(b'"x":"\n"'), 400),
    ("an unknown escape", chat(b'"x":"\\q"'), 400),
    ("a lone surrogate", chat(b'"x":"\\ud800"'), 400),
    ("NaN", chat(b'"temperature":NaN'), 400),
    ("Infinity", chat(b'"temperature":-Infinity'), 400),
    ("a number with a leading zero", chat(b'"n":01'), 400),
    ("65 levels", nested(65), 400),
    ("65 levels of lists and objects in turns", chat(b'"x":' + b'[{"y":' * 32 + b"1" + b"}]" * 32), 400),
    ("100,000 levels", nested(100_000), 400),
    ("100,000 levels that nobody closes", chat(b'"x":' + b'{"y":[' * 50_000), 400),
    (
        "150,000 escaped quotes in a string that nobody closes",
        chat(b'"x":[' + b"[]," * 70 + b'"' + b'\\"' * 150_000),
        400,
    ),
    ("a field twice", chat(b'"model":"other"'), 400),
    ("a field twice, once with an escape", chat(b'"\\u006dodel":"other"'), 400),
    ("no model", b"{" + MESSAGES + b"}", 400),
    ("a model of null", b'{"model":null,' + MESSAGES + b"}", 400),
    ("an empty model", b'{"model":"",' + MESSAGES + b"}", 400),
    ("a model that is a number", b'{"model":1,' + MESSAGES + b"}", 400),
    ("a model that is a list", b'{"model":["jane"],' + MESSAGES + b"}", 400),
    ("a model of 10,000 characters", b'{"model":"' + b"x" * 10_000 + b'",' + MESSAGES + b"}", 400),
    ("an unknown model", b'{"model":"other",' + MESSAGES + b"}", 404),
    ("a model that is a URL", b'{"model":"http://127.0.0.1:1/",' + MESSAGES + b"}", 404),
    ("the backend's own name for the model", b'{"model":"real-a",' + MESSAGES + b"}", 404),
    ("no messages", b'{"model":"jane"}', 400),
    ("messages of null", b'{"model":"jane","messages":null}', 400),
    ("messages that are text", b'{"model":"jane","messages":"hi"}', 400),
    ("messages that are an object", b'{"model":"jane","messages":{"role":"user"}}', 400),
    ("empty messages", b'{"model":"jane","messages":[ ]}', 400),
    ("a stream that is text", chat(b'"stream":"true"'), 400),
    ("a stream that is a number", chat(b'"stream":1'), 400),
    ("tools that are an object", chat(b'"tools":{"type":"function"}'), 400),
    ("tools that are text", chat(b'"tools":"all"'), 400),
    ("a user that is a number", chat(b'"user":7'), 400),
]


@pytest.mark.parametrize(("body", "status"), [row[1:] for row in BODIES], ids=[row[0] for row in BODIES])
async def test_a_bad_body_is_the_callers_fault_and_the_connection_carries_the_next_call(
    door: Door, body: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(door.router.port) as client:
        await client.send(request(body))
        async with asyncio.timeout(5):  # generous; what it must not be is quadratic
            check_fault(await client.answer(), status)
        assert not door.backend.received
        await client.send(request(chat_body()))
        assert (await client.answer()).status == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


SOUND: list[tuple[str, bytes]] = [
    ("64 levels", nested(64)),
    ("64 levels of lists and objects in turns", chat(b'"x":[' + b'{"y":[' * 31 + b"]}" * 31 + b"]")),
    ("brackets inside a string", chat(b'"x":"' + b"[{" * 500 + b'"')),
    ("an integer of 10,000 digits", chat(b'"seed":' + b"9" * 10_000)),
    ("a number too large for a double", chat(b'"x":1e400')),
    ("much white space before the end", b"{" + CHAT + b" " * 200 + b"}\n"),
    ("names and values that are not ASCII", chat('"größe":"ä€😀","\\u0061":1'.encode())),
    ("the same name in two inner objects", chat(b'"x":{"model":"y","model":"z"}')),
]


@pytest.mark.parametrize("body", [row[1] for row in SOUND], ids=[row[0] for row in SOUND])
async def test_what_only_a_backend_can_judge_is_sent_on_as_it_came(door: Door, body: bytes) -> None:
    response = await door.router.client.post(
        "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )
    assert response.status_code == 200, response.text
    sent = door.backend.received[0].body
    assert b"real-a" in sent
    tail = body[body.index(b'"messages"') :].rstrip(b" }\n")
    assert tail.replace(b"\\u0061", b"a") in sent


OTHERS: list[tuple[str, bytes, int, str]] = [
    ("GET", request(line="GET /v1/chat/completions HTTP/1.1", length=False), 405, "method_not_allowed"),
    ("DELETE", request(line="DELETE /v1/chat/completions HTTP/1.1"), 405, "method_not_allowed"),
    ("OPTIONS", request(line="OPTIONS /v1/chat/completions HTTP/1.1"), 405, "method_not_allowed"),
    ("POST to the models", request(b"{}", line="POST /v1/models HTTP/1.1"), 405, "method_not_allowed"),
    *[
        (f"the path {path}", request(chat_body(), line=f"POST {path} HTTP/1.1"), 404, "not_found")
        for path in (
            "/",
            "/v1",
            "/v1/",
            "/v1/files",
            "/v1/chat/completions/",
            "//v1/chat/completions",
            "/v1//chat/completions",
            "/V1/chat/completions",
            "/v1/chat/../chat/completions",
            "/v1/chat/%2e%2e/chat/completions",
            "/v1/chat%2fcompletions",
            "/v1/%63hat/completions",
            "/v1/chat/completions;x",
            "/v1/chat/completions%00",
            "/v1\\chat\\completions",
            "/docs",
            "/openapi.json",
            "http://router/v1/chat/completions",
            "http://elsewhere/v1/chat/completions",
        )
    ],
    (
        "a compressed body",
        request(b"\x1f\x8b\x08\x00", "content-encoding: gzip"),
        415,
        "unsupported_media_type",
    ),
    ("no content type", request(chat_body(), content_type=None), 415, "unsupported_media_type"),
    ("a form", request(chat_body(), content_type="application/x-www-form-urlencoded"), 415, "unsupported_media_type"),
    ("plain text", request(chat_body(), content_type="text/plain"), 415, "unsupported_media_type"),
    (
        "a multipart form for a chat",
        request(chat_body(), content_type="multipart/form-data; boundary=x"),
        415,
        "unsupported_media_type",
    ),
]


@pytest.mark.parametrize(("sent", "status", "code"), [row[1:] for row in OTHERS], ids=[row[0] for row in OTHERS])
async def test_what_is_not_on_offer_is_refused_and_the_connection_carries_the_next_call(
    door: Door, sent: bytes, status: int, code: str
) -> None:
    async with connected(door.router.port) as client:
        await client.send(sent)
        answer = await client.answer()
        check_fault(answer, status)
        assert answer.json["error"]["code"] == code
        assert ("allow" in answer.headers) is (status == 405)
        assert not door.backend.received
        await client.send(request(chat_body()))
        assert (await client.answer()).status == 200


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON", "application/json; charset=utf-8"], ids=lambda text: text
)
async def test_json_is_known_by_its_type_in_any_spelling(door: Door, content_type: str) -> None:
    response = await door.router.client.post(
        "/v1/chat/completions", content=chat_body(), headers={"content-type": content_type}
    )
    assert response.status_code == 200


LONG = chat_body(x="y" * 1_000_000)


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


CHUNKED = request(b"", "transfer-encoding: chunked", length=False)
TOO_LONG: list[tuple[str, list[bytes]]] = [
    ("announced and sent", [request(LONG)]),
    ("announced, a terabyte of which nothing comes", [request(b"", "content-length: 1099511627776", length=False)]),
    ("in one chunk", [CHUNKED + chunk(LONG) + chunk(b"")]),
    ("in chunks that never end", [CHUNKED, *(chunk(b"y" * 100_000) for _ in range(20))]),
]


@pytest.mark.parametrize("pieces", [row[1] for row in TOO_LONG], ids=[row[0] for row in TOO_LONG])
async def test_a_body_over_the_limit_gets_its_413_although_the_client_still_sends_and_then_the_connection_ends(
    door: Door,
    pieces: list[bytes],
) -> None:
    async with connected(door.router.port) as client:
        await client.send(*pieces)
        answer = await client.answer()
        check_fault(answer, 413)
        assert answer.headers["connection"] == "close"
        assert await client.ended() == b""


@pytest.mark.parametrize("size", [1_000_000, 1_000_001], ids=["at the limit", "one byte over it"])
async def test_the_limit_is_exact_for_a_body_in_one_chunk(door: Door, size: int) -> None:
    body = chat_body(x="")
    body = body.replace(b'"x": ""', b'"x": "%b"' % (b"y" * (size - len(body))))
    async with connected(door.router.port) as client:
        await client.send(CHUNKED + chunk(body) + chunk(b""))
        assert (await client.answer()).status == (200 if size == 1_000_000 else 413)


async def test_a_small_limit_holds_for_a_chunked_body_that_comes_in_one_packet() -> None:
    config = config_for({"a": "http://127.0.0.1:1"}, server="max_body_bytes: 100")
    async with running(config) as router, connected(router.port) as client:
        await client.send(CHUNKED + chunk(chat_body(x="y" * 100)) + chunk(b""))
        check_fault(await client.answer(), 413)


MALFORMED: list[tuple[str, bytes, int]] = [
    ("no HTTP", b"\x16\x03\x01\x02\x00 hello\r\n\r\n", 400),
    ("a line too few words", b"POST\r\n\r\n", 400),
    ("two lengths", request(chat_body(), "content-length: 5"), 400),
    ("both framings", request(chat_body(), "transfer-encoding: chunked"), 400),
    ("a negative length", request(b"", "content-length: -1", length=False), 400),
    ("a length that is no number", request(b"", "content-length: 1_0", length=False), 400),
    ("a space before the colon", request(chat_body(), "x-a : b"), 400),
    ("NUL in a header", request(chat_body(), "x-a: b\x00c"), 400),
    ("a bare line feed", request(chat_body()).replace(b"\r\n", b"\n"), 400),
    ("a path that is not ASCII", request(chat_body(), line="POST /v1/chät HTTP/1.1"), 400),
    ("101 headers", request(chat_body(), *(f"x-{n}: y" for n in range(101))), 431),
    ("a head that never ends", b"POST /v1/models HTTP/1.1\r\nx-a: " + b"y" * 600_000, 431),
]


@pytest.mark.parametrize(("sent", "status"), [row[1:] for row in MALFORMED], ids=[row[0] for row in MALFORMED])
async def test_what_is_not_http_gets_the_same_envelope_and_the_connection_ends(
    door: Door, sent: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(door.router.port) as client:
        await client.send(sent)
        check_fault(await client.answer(), status)
        assert await client.ended() == b""
        assert not door.backend.received
    assert not [record for record in caplog.records if record.exc_info]
