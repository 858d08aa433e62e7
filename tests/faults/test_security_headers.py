"""What passes in either direction is a list of ours (facts C3; B5, 21, 37, 57): nothing else of a client or a backend gets through."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.rawclient import Answer, chat_body, connected, request
from tests.running import Router, config_for, running
from tests.upstream import (
    END,
    Backend,
    Script,
    Upstream,
    answer,
    chat_answer,
    chunked,
    event,
    says,
    sends,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENV = {"CLIENTS": "client-key", "BACKEND": "backend-key"}


@dataclass(frozen=True, slots=True)
class Stage:
    router: Router
    at_a: Upstream
    backend: Backend

    async def ask(self, sent: bytes) -> Answer:
        """One answer, over a connection of its own."""
        self.at_a.received.clear()
        async with connected(self.router.port) as client:
            await client.send(sent)
            return await client.answer()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    backend = Backend()
    async with Upstream(backend) as a:
        config = config_for({"a": a.url}, server="keys_env: CLIENTS").replace("url: ", "key_env: BACKEND, url: ")
        async with running(config, ENV) as router:
            yield Stage(router, a, backend)


KEY = "authorization: Bearer client-key"
CLIENTS_HEADERS = [
    "cookie: session=1", "proxy-authorization: Basic eDp5", "x-forwarded-for: 10.0.0.1", "x-forwarded-host: evil.example",
    "x-forwarded-proto: https", "forwarded: for=10.0.0.1;host=evil.example", "x-real-ip: 10.0.0.1", "via: 1.1 evil", "te: trailers",
    "connection: keep-alive, x-listed", "x-listed: hop", "keep-alive: timeout=9", "upgrade-insecure-requests: 1", "x-api-key: k",
    "openai-organization: org", "openai-project: p", "accept-encoding: gzip, br", "accept: text/html", "user-agent: evil/1",
    "origin: http://localhost", "referer: http://localhost/x", "x-portkey-custom-host: http://127.0.0.1:1", "x-crossfade-backend_: a",
    "range: bytes=0-1", "if-none-match: x", "x-request-id: mine-1", "content-language: de", "trailer: x", "max-forwards: 1",
    "x-http-method-override: DELETE", "x-original-url: /admin", "x-user-id: u", "traceparent: 00-1-2-00", "expect-ct: x",
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_backend_gets_exactly_these_lines(stage: Stage, stream: bool) -> None:
    stage.backend.script = says("x")
    got = await stage.ask(request(chat_body(stream=stream), KEY, *CLIENTS_HEADERS))
    assert got.status == 200
    (received,) = stage.at_a.received
    assert received.headers == {
        "host": f"127.0.0.1:{stage.at_a.port}",
        "accept-encoding": "identity",
        "authorization": "Bearer backend-key",
        "content-type": "application/json",
        "x-request-id": "mine-1",
        "content-length": str(len(received.body)),
    }
    assert received.path == "/v1/chat/completions" and received.method == "POST"


async def test_a_backends_path_has_nothing_of_the_query(stage: Stage) -> None:
    stage.backend.script = says("x")
    line = "POST /v1/chat/completions?api_base=http://evil.example&api-version=1 HTTP/1.1"
    assert (await stage.ask(request(chat_body(), KEY, line=line))).status == 200
    assert stage.at_a.received[0].path == "/v1/chat/completions"


BACKENDS_HEADERS = [
    "server: uvicorn", "date: Mon, 01 Jan 2024 00:00:00 GMT", "x-powered-by: evil", "set-cookie: session=1", "via: 1.1 evil",
    "connection: x-listed",
    "x-listed: hop", "keep-alive: timeout=9", "location: http://evil.example/", "www-authenticate: Basic", "access-control-allow-origin: *",
    "access-control-allow-credentials: true", "strict-transport-security: max-age=1", "content-security-policy: x", "x-request-id: theirs",
    "x-crossfade-backend: evil", "x-crossfade-attempts: 9", "server-timing: evil;dur=1", "retry-after: 0", "x-should-retry: true",
    "openai-organization: org", "refresh: 0; url=http://evil.example", "link: <x>; rel=preload", "alt-svc: h2",
    "content-disposition: attachment",
    "cache-control: public", "etag: x", "content-language: de", "upgrade: h2c", "proxy-authenticate: Basic", "content-location: /x",
]  # fmt: skip


def streamed() -> bytes:
    """A whole stream under those headers."""
    lines = ["HTTP/1.1 200 OK", "content-type: text/event-stream", "transfer-encoding: chunked", *BACKENDS_HEADERS]
    events = [event({"content": "x"}), event({}, "stop"), b"data: [DONE]\n\n"]
    return "\r\n".join([*lines, "", ""]).encode() + b"".join(map(chunked, events)) + END


OURS = {"content-type", "x-request-id", "x-crossfade-attempts", "x-crossfade-revision", "x-crossfade-backend"}
SPEECH = "POST /v1/audio/speech HTTP/1.1"
ERROR = {"error": {"message": "no", "type": "invalid_request_error", "code": "x"}}
WAYS: list[tuple[str, Script, bytes, int, set[str]]] = [
    ("an answer", sends(answer(chat_answer(), "200 OK", *BACKENDS_HEADERS)), request(chat_body(), KEY), 200,
     {"content-length", "server-timing"}),
    ("a stream", sends(streamed()), request(chat_body(stream=True), KEY), 200, {"transfer-encoding", "server-timing"}),
    ("audio", sends(answer(b"song", "200 OK", *BACKENDS_HEADERS, content_type="audio/mpeg")), request(chat_body(), KEY, line=SPEECH), 200,
     {"transfer-encoding", "server-timing"}),
    ("a rejection", sends(answer(ERROR, "422 No", *BACKENDS_HEADERS)), request(chat_body(), KEY), 422, {"content-length"}),
    ("a refusal", sends(answer(ERROR, "429 No", *BACKENDS_HEADERS)), request(chat_body(), KEY), 429,
     {"content-length", "retry-after", "x-should-retry"}),
    ("a failure", sends(answer(ERROR, "500 No", *BACKENDS_HEADERS)), request(chat_body(), KEY), 503,
     {"content-length", "retry-after", "x-should-retry"}),
    ("a wrong key there", sends(answer(ERROR, "401 No", *BACKENDS_HEADERS)), request(chat_body(), KEY), 502,
     {"content-length", "x-should-retry"}),
    ("a redirect", sends(answer(b"", "307 There", *BACKENDS_HEADERS)), request(chat_body(), KEY), 503,
     {"content-length", "retry-after", "x-should-retry"}),
]  # fmt: skip


@pytest.mark.parametrize(("script", "sent", "status", "also"), [row[1:] for row in WAYS], ids=[row[0] for row in WAYS])
async def test_a_client_gets_exactly_our_headers(
    stage: Stage, script: Script, sent: bytes, status: int, also: set[str]
) -> None:
    stage.backend.script = script
    got = await stage.ask(sent)
    assert got.status == status and set(got.headers) == OURS | also
    assert got.headers["x-crossfade-backend"] == "a" and "evil" not in str(got.headers)
    assert got.headers["x-request-id"] != "theirs"


@pytest.mark.parametrize("headers", [[], ["content-type: application/json"]], ids=["bare", "with a type"])
async def test_an_answer_without_content_has_no_length(stage: Stage, headers: list[str]) -> None:
    stage.backend.script = sends("\r\n".join(["HTTP/1.1 204 No Content", *headers, "", ""]).encode())
    body, key = {"model": "jane"}, {"authorization": "Bearer client-key"}
    for _ in range(2):  # the connection is in step
        got = await stage.router.client.post("/v1/audio/speech", json=body, headers=key)
        assert got.status_code == 204 and not {"content-length", "transfer-encoding"} & set(got.headers)


SITES = ["https://evil.example", "null", "http://127.0.0.1.evil.example"]
BOUNDARY = "multipart/form-data; boundary=XyZ"
FORM = b'--XyZ\r\nContent-Disposition: form-data; name="model"\r\n\r\njane\r\n--XyZ--\r\n'
AUDIO = "POST /v1/audio/transcriptions HTTP/1.1"


@pytest.mark.parametrize("site", SITES)
async def test_a_page_of_another_site_reaches_no_backend_and_may_read_nothing(site: str) -> None:
    """Without keys, where a browser's call would need none: whatever a page can send without being asked first is refused."""
    async with Upstream(says("x")) as a, running(config_for({"a": a.url})) as router:
        for sent, status in [
            (request(FORM, f"origin: {site}", line=AUDIO, content_type=BOUNDARY), 403),
            (request(chat_body(), f"origin: {site}", content_type="text/plain"), 415),
            (request(chat_body(), f"origin: {site}", content_type="application/x-www-form-urlencoded"), 415),
            (request(chat_body(), f"origin: {site}", content_type="text/plain; application/json"), 415),
            (request(chat_body(), f"origin: {site}", content_type=None), 415),
            (request(b"", f"origin: {site}", PREFLIGHT, line="OPTIONS /v1/chat/completions HTTP/1.1"), 405),
            (request(b"", f"origin: {site}", PREFLIGHT, line="OPTIONS /v1/models HTTP/1.1"), 405),
        ]:
            async with connected(router.port) as client:
                await client.send(sent)
                got = await client.answer()
                assert got.status == status, got
                assert not [name for name in got.headers if name.startswith("access-control")]
        assert not a.received


PREFLIGHT = "access-control-request-method: POST"
OWN: list[tuple[str, list[str]]] = [
    ("no page", []),
    ("a page of this machine", ["origin: http://localhost:3000"]),
    ("a page of a listed name", ["origin: https://llm.example.org"]),
    ("a page of another site, with a key", ["origin: https://evil.example", "authorization: Bearer x"]),
]


@pytest.mark.parametrize("headers", [row[1] for row in OWN], ids=[row[0] for row in OWN])
async def test_a_form_of_ours_is_served(headers: list[str]) -> None:
    config = "hosts: [llm.example.org]"
    async with (
        Upstream(sends(answer({"text": "hi"}))) as a,
        running(config_for({"a": a.url}, server=config)) as router,
        connected(router.port) as client,
    ):
        await client.send(request(FORM, *headers, line=AUDIO, content_type=BOUNDARY))
        assert (await client.answer()).status == 200
