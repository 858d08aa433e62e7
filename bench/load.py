"""Clients of every sort for a soak: each makes one call and says how it ended."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tests.faults.stage import told
from tests.rawclient import RawClient, connected, request

CHAT: dict[str, Any] = {"model": "jane", "messages": [{"role": "user", "content": "tell me a story " * 20}]}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who calls the router at `port`."""

    port: int
    rng: random.Random

    async def ask(self, path: str = "/v1/chat/completions", **fields: Any) -> str:
        """A call that is heard out: "ok", "broken off with an error event", "failed: ..." or "truncated"."""
        async with connected(self.port) as client:
            await client.send(request(json.dumps(fields).encode(), "connection: close", line=f"POST {path} HTTP/1.1"))
            return await self._hear(client, path)

    async def _hear(self, client: RawClient, path: str) -> str:
        try:
            answer = await client.answer()
            if answer.status != 200:
                return f"failed: {answer.status} {answer.json['error']['code']}"
            if path == "/v1/embeddings":
                return "ok" if answer.json["data"] else "truncated"
            heard = told(answer)
        except (AssertionError, asyncio.IncompleteReadError, ConnectionError, ValueError) as exc:
            return f"truncated: {exc!r}"[:80]
        return "broken off with an error event" if heard.code else "ok"

    async def leave(self) -> str:
        """A stream whose client leaves, at any moment."""
        async with connected(self.port) as client:
            await client.send(request(json.dumps({**CHAT, "stream": True}).encode()))
            await asyncio.sleep(self.rng.uniform(0, 0.02))
        return "left"

    async def read_slowly(self) -> str:
        """A stream whose client takes its time, behind a small window."""
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=raw, limit=4096)
        client = _Slow(reader, writer)
        try:
            await client.send(request(json.dumps({**CHAT, "stream": True}).encode(), "connection: close"))
            return await self._hear(client, "")
        finally:
            writer.transport.abort()

    async def in_flight(self) -> float:
        """How many attempts run, by the router's own count, once it has had a moment."""
        for _ in range(50):
            async with connected(self.port) as client:
                await client.send(request(line="GET /metrics HTTP/1.1", content_type=None, length=False))
                text = (await client.answer("GET")).body.decode()
            running = sum(map(float, re.findall(r"^crossfade_in_flight\{.*\} (\S+)$", text, re.MULTILINE)))
            if not running:
                break
            await asyncio.sleep(0.1)
        return running


class _Slow(RawClient):
    """Rests before each chunk."""

    async def _chunks(self) -> tuple[bytes, bytes]:
        body = b""
        while piece := await self.chunk():
            body += piece
            await asyncio.sleep(0.005)
        return body, b""


KINDS: dict[str, Callable[[Caller], Awaitable[str]]] = {
    "streams": lambda caller: caller.ask(**CHAT, stream=True),
    "more streams": lambda caller: caller.ask(**CHAT, stream=True),
    "whole answers": lambda caller: caller.ask(**CHAT),
    "tool calls": lambda caller: caller.ask(**CHAT, tools=TOOLS, stream=True),
    "embeddings": lambda caller: caller.ask("/v1/embeddings", model="jane", input=["a", "b"]),
    "clients that leave": Caller.leave,
    "slow readers": Caller.read_slowly,
}
