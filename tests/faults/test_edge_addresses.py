"""Addresses of either family on either side (facts B5, 39-40): listeners and backends on IPv6, names that lead nowhere or to two places."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from router.config import loads
from router.serve import listeners, server_for
from tests.rawclient import chat_body
from tests.running import config_for, running
from tests.serving import free_port
from tests.upstream import HEALTHY, Upstream, answer, chat_answer, says

JSON = {"content-type": "application/json"}


@pytest.fixture
def ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")


@asynccontextmanager
async def backend_on_ipv6() -> AsyncIterator[str]:
    """Answers whatever it is asked; its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(HEALTHY if head.startswith(b"GET") else answer(chat_answer("from six")))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "::1", 0)
    try:
        yield f"http://[::1]:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@asynccontextmanager
async def listening(host: str, port: int, backend: str, folder: Path) -> AsyncIterator[None]:
    """The router on `host`, as the command starts it."""
    server_keys = f'host: "{host}"\nallow_from: ["::1/128", 127.0.0.0/8]'
    text = config_for({"a": f'"{backend}"'}, server=server_keys).replace("port: 8000", f"port: {port}")
    server = server_for(loads(f"{text}\nstore: {{url: sqlite:///{folder}/crossfade.db}}\n", {}).config, {})
    task = asyncio.create_task(server.serve(listeners(host, port)))
    while not server.started:
        if task.done():
            task.result()
        await asyncio.sleep(0.005)
    try:
        yield
    finally:
        server.should_exit = True
        await task


@pytest.mark.usefixtures("ipv6")
@pytest.mark.parametrize("host", ["::1", "::"])
async def test_a_listener_and_a_backend_on_ipv6_work_without_a_further_key(host: str, tmp_path: Path) -> None:
    port = free_port()
    async with backend_on_ipv6() as url, listening(host, port, url, tmp_path), httpx.AsyncClient() as client:
        response = await client.post(f"http://[::1]:{port}/v1/chat/completions", content=chat_body(), headers=JSON)
        assert response.status_code == 200 and "from six" in response.text


async def test_a_client_of_ipv4_is_known_by_its_network_where_all_addresses_are_listened_on(
    tmp_path: Path,
) -> None:
    port = free_port()
    async with Upstream(says("x")) as a, listening("0.0.0.0", port, a.url, tmp_path), httpx.AsyncClient() as client:
        response = await client.post(f"http://127.0.0.1:{port}/v1/chat/completions", content=chat_body(), headers=JSON)
        assert response.status_code == 200


async def test_a_name_with_several_addresses_is_tried_until_one_answers() -> None:
    """`localhost` is ::1 and 127.0.0.1 on most machines, and the backend listens on the second alone."""
    async with Upstream(says("x")) as a, running(config_for({"a": a.url.replace("127.0.0.1", "localhost")})) as router:
        assert (await router.chat()).status_code == 200


async def test_a_name_that_leads_nowhere_moves_the_call() -> None:
    async with (
        Upstream(says("x")) as b,
        running(config_for({"a": "http://nobody.invalid:1", "b": b.url})) as router,
    ):
        response = await router.chat()
    assert response.status_code == 200 and response.headers["x-crossfade-backend"] == "b"
