"""Only the configuration names servers (facts B5, 36-38; C1): whatever clients, backends or the environment say, nobody else is called."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest

from tests.rawclient import chat_body, connected, request
from tests.running import config_for, running
from tests.serving import RunningRouter, free_port
from tests.upstream import Upstream, answer, says, sends

MESSAGES = [{"role": "user", "content": "hi"}]


@dataclass
class Canary:
    """A server that nobody should ever connect to."""

    port: int = 0
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def canary() -> AsyncIterator[Canary]:
    bird = Canary()

    async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bird.connections += 1
        writer.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    bird.port = server.sockets[0].getsockname()[1]
    try:
        yield bird
    finally:
        server.close()


FIELDS = [
    "api_base",
    "base_url",
    "api_host",
    "endpoint",
    "url",
    "custom_llm_provider",
    "litellm_params",
    "proxy",
    "target",
    "webhook_url",
]
HEADERS = [
    "x-portkey-custom-host", "x-forwarded-host", "x-original-url", "x-rewrite-url", "x-custom-host", "x-api-base", "x-target-url",
    "x-crossfade-url", "helicone-target-url", "forwarded", "proxy",
]  # fmt: skip


async def test_no_field_header_model_or_path_of_a_client_chooses_a_server() -> None:
    async with canary() as bird, Upstream(says("x")) as a, running(config_for({"a": a.url})) as router:
        host = f"127.0.0.1:{bird.port}"
        told = {name: bird.url for name in FIELDS}
        headers = [f"{name}: {bird.url}" for name in HEADERS]
        plain = request(chat_body(**told), *headers)
        sent = [
            (plain, 200),
            (plain.replace(b"host: router", b"host: " + host.encode()), 200),
            (request(chat_body(), line=f"POST {bird.url}/v1/chat/completions HTTP/1.1"), 404),
            (request(chat_body(), line=f"POST //{host}/v1/chat/completions HTTP/1.1"), 404),
            (request(chat_body(), line=f"POST /v1/chat/completions?api_base={bird.url} HTTP/1.1"), 200),
            (request(line=f"CONNECT {host} HTTP/1.1", length=False), 400),
            *[
                (request(chat_body(model=model)), 404)
                for model in (bird.url, f"openai/{bird.url}", f"user:x@{host}", f"@{host}/jane")
            ],
            (request(chat_body(user=f"user:x@{host}"), f"x-user-id: {bird.url}"), 200),
            (request(chat_body(), f"x-crossfade-backend: {bird.url}"), 403),
        ]
        for raw, status in sent:
            async with connected(router.port) as client:
                await client.send(raw)
                assert (await client.answer()).status == status, raw
    assert bird.connections == 0
    assert len(a.received) == sum(status == 200 for _, status in sent)


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "303 See", "307 Temporary", "308 Permanent", "300 Choices", "304 Same"]
)
async def test_a_redirect_is_not_followed(status: str) -> None:
    async with canary() as bird:
        there = sends(
            answer(
                b"", status, f"location: {bird.url}/", f"refresh: 0; url={bird.url}", f"content-location: {bird.url}"
            )
        )
        async with Upstream(there) as a, Upstream(says("from b")) as b:
            async with running(config_for({"a": a.url, "b": b.url})) as router:
                moved = await router.chat()
            assert moved.status_code == 200 and moved.headers["x-crossfade-backend"] == "b"
            async with running(config_for({"a": a.url})) as router:
                alone = await router.chat()
            assert alone.status_code == 503 and "location" not in alone.headers and str(bird.port) not in alone.text
    assert bird.connections == 0


async def test_media_that_a_prompt_names_are_the_engines_to_fetch_or_not() -> None:
    """Passed on as they came: the router reads no prompt, and fetches nothing for anybody (docs/http.md says what to set on engines)."""
    async with canary() as bird, Upstream(says("x")) as a:
        config = config_for({"a": a.url}).replace(
            "kind: vllm", "kind: openai"
        )  # of which nobody knows that it takes no media
        parts = [
            {"type": "image_url", "image_url": {"url": f"{bird.url}/a.png"}},
            {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
            {"type": "file", "file": {"file_url": f"{bird.url}/b"}},
        ]
        messages = [{"role": "user", "content": parts}]
        async with running(config) as router:
            assert (await router.chat(messages=messages)).status_code == 200
    assert bird.connections == 0 and a.received[0].json["messages"] == messages


async def test_no_proxy_of_the_environment_sees_a_call() -> None:
    async with canary() as bird, Upstream(says("x")) as a:
        names = ("http_proxy", "https_proxy", "all_proxy")
        env = {name: bird.url for known in names for name in (known, known.upper())} | {"no_proxy": "", "NO_PROXY": ""}
        config = {
            "server": {"port": free_port()},
            "backends": {"a": {"kind": "vllm", "url": a.url}},
            "models": {"jane": {"on": {"a": "real"}, "split": {"a": 1.0}}},
        }
        router = RunningRouter(config, env=env, until="live")
        await asyncio.to_thread(router.__enter__)
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                body = json.loads(chat_body())
                assert (await client.post(f"{router.url}/v1/chat/completions", json=body)).status_code == 200
        finally:
            await asyncio.to_thread(router.__exit__, None, None, None)
    assert bird.connections == 0 and len(a.received) == 1
