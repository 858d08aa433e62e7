"""The router inside the test's own event loop, on a real socket, in front of scripted backends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import uvicorn

from router.config import Config, load, loads
from router.edge import EdgeProtocol
from router.parts import Parts
from router.serve import server_for

MEMORY = Path("/dev/shm")  # no test of these waits for a disk


@dataclass(frozen=True, slots=True)
class Router:
    """A running router and a client of it."""

    port: int
    client: httpx.AsyncClient
    server: uvicorn.Server

    @property
    def parts(self) -> Parts:
        """What it is made of."""
        app: Any = self.server.config.loaded_app
        while not hasattr(app, "parts"):
            app = app.app
        parts: Parts = app.parts
        return parts

    def stop(self) -> None:
        """Begin to stop it, as SIGTERM does; leaving the block waits for the end."""
        self.server.should_exit = True

    async def chat(self, *, headers: Mapping[str, str] | None = None, **fields: object) -> httpx.Response:
        """One chat call of the model `jane`."""
        body = {"model": "jane", "messages": [{"role": "user", "content": "hi"}], **fields}
        return await self.client.post("/v1/chat/completions", json=body, headers=headers)


@asynccontextmanager
async def running(
    config: str, env: Mapping[str, str] | None = None, edge: type[EdgeProtocol] = EdgeProtocol
) -> AsyncIterator[Router]:
    """Run the router with this YAML, or JSON, until the block is left; a less patient `edge` is for tests of time limits.

    Without a `store` of its own it has an empty one, which goes with the block.
    """
    with TemporaryDirectory(prefix="crossfade-test-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        store = f'"store": {{"url": "sqlite:///{folder}/crossfade.db"}}'
        stored = f"{{{store}, {config[1:]}" if config.startswith("{") else f"{config}\n{store}\n"
        text = config if "\nstore:" in config else stored
        async with _running(loads(text, env or {}).config, env or {}, edge) as router:
            yield router


@asynccontextmanager
async def running_on(file: Path, env: Mapping[str, str] | None = None) -> AsyncIterator[Router]:
    """Run the router on this file, whose changes it follows, until the block is left. The store lies beside it."""
    async with _running(load(file, env or {}).config, env or {}, EdgeProtocol, file) as router:
        yield router


@asynccontextmanager
async def _running(
    config: Config, env: Mapping[str, str], edge: type[EdgeProtocol], file: Path | None = None
) -> AsyncIterator[Router]:
    listener = socket.socket(
        socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )  # asyncio sets TCP_NODELAY only on these
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = server_for(config, env, edge, file=file)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20, verify=False) as client:
            while not server.started:
                if task.done():
                    task.result()
                await asyncio.sleep(0.005)
            yield Router(port, client, server)
    finally:
        server.should_exit = True
        await task
        listener.close()


def config_for(backends: Mapping[str, str], model: str = "", server: str = "") -> str:
    """YAML with these backends (name to URL, kind vllm) behind the model `jane`; the first has the whole share."""
    first = next(iter(backends))
    lines = ["server:", "  port: 8000", *(f"  {line}" for line in server.splitlines()), "backends:"]
    lines += [f"  {name}: {{kind: vllm, url: {url}}}" for name, url in backends.items()]
    lines += ["models:", "  jane:", "    on: {" + ", ".join(f"{name}: real-{name}" for name in backends) + "}"]
    lines += ["    " + line for line in (model or f"split: {{{first}: 1.0}}").splitlines()]
    return "\n".join(lines)
