"""A reference, no product: the leanest pass-through in Python with common parts, raw ASGI under uvicorn and aiohttp's client.

It relays bytes as they come, reads nothing of them, retries nothing, counts nothing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import aiohttp

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Passthrough:
    """The application; its client is made with the first call, because it needs the running loop."""

    def __init__(self, upstream: str):
        self._upstream = upstream
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One ASGI conversation; the lifespan is not taken part in."""
        if scope["type"] != "http":
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {"content-type": "application/json"}
        async with self._client().post(self._upstream + scope["path"], data=body, headers=headers) as answer:
            content_type = answer.headers.get("content-type", "application/json").encode()
            if content_type.startswith(b"text/event-stream"):
                await send(_start(answer.status, (b"content-type", content_type)))
                await _relay(answer, receive, send)
                return
            whole = await answer.read()
            length = (b"content-length", str(len(whole)).encode())
            await send(_start(answer.status, (b"content-type", content_type), length))
            await send({"type": "http.response.body", "body": whole})

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        return self._session


async def _relay(answer: aiohttp.ClientResponse, receive: Receive, send: Send) -> None:
    watch = asyncio.ensure_future(_until_gone(receive))
    try:
        async for piece in answer.content.iter_any():
            if watch.done():
                answer.close()
                return
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        watch.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _start(status: int, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


app = Passthrough(os.environ.get("UPSTREAM", ""))
