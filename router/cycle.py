"""One request on its connection, for the raw endpoints: uvicorn's cycle without what only other ASGI applications ask of it.

uvicorn builds a cycle of eighteen attributes, an event and two headers' worth of scope for every request. A raw endpoint answers on
the transport itself (`router.client`), takes a body that has arrived whole without waiting, and asks for seven things of the scope.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle


class _Nobody:
    """The event of a body that nobody waits for."""

    def set(self) -> None: ...


_NOBODY: Any = _Nobody()


def _nothing() -> None:
    """Whom nobody waits for is told nothing."""


class CallCycle(RequestResponseCycle):
    """What is the same for every request stands on the class. `body` is the one piece it came in, or a bytearray of several."""

    logger = logging.getLogger("uvicorn.error")
    access_log = False
    default_headers: list[tuple[bytes, bytes]] = []  # noqa: RUF012
    chunked_encoding = None
    expected_content_length = 0
    disconnected = False
    more_body = True
    response_started = False
    response_complete = False
    body: Any = b""
    message_event = _NOBODY

    def __init__(self, edge: HttpToolsProtocol, version: str):
        self.scope: Any = {
            "type": "http",
            "http_version": version,
            "method": edge.parser.get_method().decode("ascii"),
            "raw_path": edge.url,
            "headers": edge.headers,
            "client": edge.client,
        }
        self.transport = edge.transport
        self.flow = edge.flow
        self.keep_alive = version != "1.0" and edge.parser.should_keep_alive()
        self.waiting_for_100_continue = edge.expect_100_continue and version != "1.0"  # which knows no such answer
        self.on_response = edge.on_response_complete
        self._tasks = edge.tasks

    def take(self, piece: bytes) -> int:
        """Take the next piece of the body; how long it is so far. One that comes whole is never copied."""
        body = self.body
        if not body:
            body = piece
        elif type(body) is bytes:
            body = bytearray(body) + piece
        else:
            body += piece
        self.body = body
        self.message_event.set()
        return len(body)

    def is_over(self, task: asyncio.Task[None]) -> None:
        """Its task has ended. Raw endpoints answer their own failures; one that leaves its client without an answer is a bug."""
        self._tasks.discard(task)
        self.on_response = _nothing  # the connection holds this cycle until its next one
        error = None if task.cancelled() else task.exception()
        if error is not None or not (self.response_complete or self.disconnected):
            self.logger.error("a request ended without an answer", exc_info=error)
            self.transport.close()

    async def receive(self) -> Any:
        """The next piece of a body that did not come whole."""
        if self.message_event is _NOBODY:
            self.message_event = asyncio.Event()
            if self.body or not self.more_body or self.disconnected:
                self.message_event.set()
        return await super().receive()


class HangsUpGently:
    """The transport of a cycle after which the connection is closed: `close` lets the client read the answer first."""

    def __init__(self, transport: asyncio.Transport, linger: Callable[[], None]):
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = linger
