"""Host headers on the wire (facts B5, 35): one, valid, of a name that is ours; judged once a connection, before a key is looked at."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.rawclient import chat_body, connected, request
from tests.running import Router, config_for, running
from tests.serving import RunningRouter, free_port
from tests.upstream import Upstream, says

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENV = {"KEYS": "one"}
SERVER = "keys_env: KEYS\nhosts: [llm.example.org]"
KEY = "authorization: Bearer one"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend() -> AsyncIterator[Upstream]:
    async with Upstream(says("x")) as a:
        yield a


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def router(backend: Upstream) -> AsyncIterator[Router]:
    async with running(config_for({"a": backend.url}, server=SERVER), ENV) as router:
        yield router


def hosted(*hosts: str, line: str = "POST /v1/chat/completions HTTP/1.1", key: str = KEY) -> bytes:
    """A chat call with these Host headers in place of the usual one."""
    lines = "".join(f"host: {host}\r\n" for host in hosts)
    return request(chat_body(), key, line=line).replace(b"host: router\r\n", lines.encode("latin-1"))


CASES: list[tuple[str, bytes, int]] = [
    ("the listed name", hosted("llm.example.org"), 200),
    ("an address", hosted("192.0.2.7:8000"), 200),
    ("a service's name", hosted("crossfade:8000"), 200),
    ("no Host in HTTP/1.0", hosted(line="POST /v1/chat/completions HTTP/1.0"), 200),
    ("no Host", hosted(), 400),
    ("an empty Host", hosted(""), 400),
    ("two Hosts", hosted("localhost", "evil.example"), 400),
    ("two Hosts, the same", hosted("localhost", "localhost"), 400),
    ("two Hosts in HTTP/1.0", hosted("localhost", "localhost", line="POST /v1/chat/completions HTTP/1.0"), 400),
    ("a path in it", hosted("a/evil?"), 400),
    ("a fragment in it", hosted("a#"), 400),
    ("a user in it", hosted("user@localhost"), 400),
    ("two in one", hosted("localhost, evil.example"), 400),
    ("a stranger", hosted("evil.example"), 421),
    ("a stranger and the key", hosted("evil.example", key="x-a: b"), 421),
    ("a stranger at the health path", hosted("evil.example", line="GET /health/live HTTP/1.1"), 421),
    ("a stranger at the metrics", hosted("evil.example", line="GET /metrics HTTP/1.1"), 421),
    ("a stranger at a path that is not there", hosted("evil.example", line="GET /admin HTTP/1.1"), 421),
    ("our name and no key", hosted("localhost", key="x-a: b"), 401),
]


@pytest.mark.parametrize(("sent", "status"), [row[1:] for row in CASES], ids=[row[0] for row in CASES])
async def test_a_host_is_judged_before_anything_else(
    router: Router, backend: Upstream, sent: bytes, status: int
) -> None:
    backend.received.clear()
    async with connected(router.port) as client:
        await client.send(sent)
        got = await client.answer()
        assert got.status == status and len(backend.received) == (status == 200)
        if status in (400, 421):
            assert got.json["error"]["code"] == ("bad_request" if status == 400 else "unknown_host")
            assert got.headers["connection"] == "close" and await client.ended() == b""


async def test_a_connection_that_was_let_in_under_one_name_is_not_let_in_under_another(
    router: Router, backend: Upstream
) -> None:
    backend.received.clear()
    async with connected(router.port) as client:
        for host, status in (("localhost", 200), ("localhost", 200), ("crossfade", 200), ("evil.example", 421)):
            await client.send(hosted(host))
            assert (await client.answer()).status == status
        assert await client.ended() == b""
    assert len(backend.received) == 3


async def test_what_is_pipelined_behind_a_stranger_is_never_done(router: Router, backend: Upstream) -> None:
    backend.received.clear()
    async with connected(router.port) as client:
        await client.send(hosted("evil.example") + hosted("localhost"))
        assert (await client.answer()).status == 421
        assert await client.ended() == b""
    assert not backend.received


async def test_refusals_are_counted_and_their_reason_is_a_word_of_ours(router: Router) -> None:
    async with connected(router.port) as client:
        await client.send(hosted("evil.example"))
        await client.answer()
    text = (await router.client.get("/metrics")).text
    assert 'crossfade_turned_away_total{reason="unknown_host"}' in text and "evil" not in text


async def test_an_application_on_another_host_needs_nothing_but_the_url() -> None:
    """As it stands beside LM Studio today: no key, an address or a service's name in `LLM_API_URL`, the router on all addresses."""
    port = free_port()
    config = {
        "server": {"host": "0.0.0.0", "port": port, "allow_from": ["127.0.0.0/8"]},
        "backends": {"a": {"kind": "vllm", "url": "http://127.0.0.1:9"}},
        "models": {"jane": {"on": {"a": "m"}, "split": {"a": 1.0}}},
    }
    hosts = [f"127.0.0.1:{port}", f"192.0.2.7:{port}", f"crossfade:{port}", "crossfade", "evil.example"]

    def statuses() -> list[int]:
        with RunningRouter(config, until="live"):
            return [status_of(port, host) for host in hosts]

    assert await asyncio.to_thread(statuses) == [200, 200, 200, 200, 421]


def status_of(port: int, host: str) -> int:
    """What the list of models answers under this name."""
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        client.sendall(f"GET /v1/models HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
        return int(client.makefile("rb").readline().split()[1])
