"""`: ping` comments for a client that waits: they keep its own time limits from running out while nobody has content yet.

With the first the head goes out, so the status is 200 from then on, whatever follows; the call itself moves on as freely as before,
and what it fails of in the end is told in an event. Source: the HTML standard, "Server-sent events", section 9.2.7; Node's fetch
gives up after 300 s without a head, or without a byte of the body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

PING = b": ping\n\n"
Head = list[tuple[bytes, bytes]]


class Pings:
    """`send(head)` every `every_s` from the instant `due_s` on, until `stop`; `head` is what the answer begins with if it has not begun."""

    __slots__ = ("_every_s", "_head", "_loop", "_send", "_timer")

    def __init__(self, send: Callable[[Head], None], head: Head, every_s: float, due_s: float):
        self._send = send
        self._head = head
        self._every_s = every_s
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_at(due_s, self._due)

    def stop(self) -> None:
        """No more of them."""
        self._timer.cancel()

    def _due(self) -> None:
        self._send(self._head)
        self._timer = self._loop.call_at(self._loop.time() + self._every_s, self._due)
