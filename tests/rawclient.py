"""A client of raw bytes: what a library would never send, and every byte that comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

WAIT_S = 10.0  # generous: an answer on loopback takes milliseconds


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as it came; `body` without its framing, `raw_body` with it."""

    status: int
    version: str
    headers: dict[str, str]
    body: bytes
    raw_body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class RawClient:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, *pieces: bytes) -> None:
        """Send each piece in a packet of its own."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)

    async def head(self) -> tuple[int, str, dict[str, str]]:
        """Status, version and headers of the next answer."""
        async with asyncio.timeout(WAIT_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").rstrip().split("\r\n")
        version, status, _ = first.split(" ", 2)
        return int(status), version, {n.lower(): v for n, _, v in (line.partition(": ") for line in lines)}

    async def answer(self, method: str = "POST") -> Answer:
        """The next whole answer."""
        status, version, headers = await self.head()
        raw = b""
        async with asyncio.timeout(WAIT_S):
            if method == "HEAD" or status < 200:
                body = b""
            elif "content-length" in headers:
                body = raw = await self.reader.readexactly(int(headers["content-length"]))
            elif headers.get("transfer-encoding") == "chunked":
                body, raw = await self._chunks()
            else:
                body = raw = await self.reader.read()
        return Answer(status, version, headers, body, raw)

    async def chunk(self) -> bytes:
        """The next chunk of a chunked body; b"" at its end."""
        async with asyncio.timeout(WAIT_S):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            return (await self.reader.readexactly(size + 2))[:-2]

    async def ended(self) -> bytes:
        """What still comes until the server closes."""
        rest = b""
        async with asyncio.timeout(WAIT_S):
            try:
                while piece := await self.reader.read(65536):
                    rest += piece
            except ConnectionError:
                pass
        return rest

    async def _chunks(self) -> tuple[bytes, bytes]:
        body, raw = b"", b""
        while True:
            size_line = await self.reader.readuntil(b"\r\n")
            piece = await self.reader.readexactly(int(size_line, 16) + 2)
            raw += size_line + piece
            if piece == b"\r\n":
                return body, raw
            body += piece[:-2]


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[RawClient]:
    """A connection to the router, closed at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.transport.abort()


def request(
    body: bytes = b"",
    *headers: str,
    line: str = "POST /v1/chat/completions HTTP/1.1",
    content_type: str | None = "application/json",
    length: bool = True,
) -> bytes:
    """One request with a Host header, a content type unless None, and a length unless told otherwise."""
    lines = [line, "host: router", *headers]
    if content_type is not None:
        lines.append(f"content-type: {content_type}")
    if length:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chat_body(**fields: object) -> bytes:
    """The body of a chat call of the model `jane`."""
    return json.dumps({"model": "jane", "messages": [{"role": "user", "content": "hi"}], **fields}).encode()
