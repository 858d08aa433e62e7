"""Where a server's name leads now: asked for again while the router runs, and never lost to a name server that is away for a while.

A name is looked up when a connection is made and the last answer is older than `fresh_s`; whoever connects meanwhile waits for the same
look-up, because look-ups run on few threads that all backends share. Where no answer comes, or none soon, the last one goes on being
used: a server that is there must not vanish with its name server. Addresses that refuse are looked up anew the next time.

Several addresses are tried as RFC 8305 says (happy eyeballs): the second beside the first after a quarter of a second, so that a name
with a dead IPv6 address costs that much and not the whole limit.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohappyeyeballs

FRESH_S = 10.0  # the shortest lifetime in common use for names that move; Kubernetes' own DNS says 30
NEXT_ADDRESS_AFTER_S = 0.25  # RFC 8305 section 5
# The wait for a new answer beside an old one. A name server that is down says nothing for 5 s and more (`timeout` of resolv.conf), which
# is longer than a connection may take.
SOON_S = 0.5

AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]
LookUp = Callable[[str, int], Awaitable[Sequence[AddressInfo]]]


async def look_up(host: str, port: int) -> Sequence[AddressInfo]:
    """Ask the system. Raises OSError where it knows no such name."""
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


class Addresses:
    """The addresses of one host and port."""

    __slots__ = ("_asked", "_fresh_s", "_fresh_until_s", "_host", "_known", "_look_up", "_port")

    def __init__(self, host: str, port: int, look_up: LookUp = look_up, fresh_s: float = FRESH_S):
        self._host = host
        self._port = port
        self._look_up = look_up
        self._fresh_s = fresh_s
        self._known: Sequence[AddressInfo] = ()
        self._fresh_until_s = 0.0
        self._asked: asyncio.Task[None] | None = None

    async def connect(self) -> socket.socket:
        """A connected socket. Raises OSError where there is no address, or none takes the connection; UnicodeError for no valid name."""
        if asyncio.get_running_loop().time() >= self._fresh_until_s:
            await self._ask_again()
        try:
            return await aiohappyeyeballs.start_connection(self._known, happy_eyeballs_delay=NEXT_ADDRESS_AFTER_S)
        except OSError:
            self._fresh_until_s = 0.0
            raise

    async def _ask_again(self) -> None:
        if self._asked is None:
            self._asked = asyncio.create_task(self._ask())
            self._asked.add_done_callback(self._answered)
        asked = self._asked
        if not self._known:
            await asyncio.shield(asked)
        elif not (await asyncio.wait((asked,), timeout=SOON_S))[0]:
            self._fresh_until_s = asyncio.get_running_loop().time() + self._fresh_s  # nobody else waits for this one

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._asked = None
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody may have

    async def _ask(self) -> None:
        try:
            self._known = await self._look_up(self._host, self._port)
        except OSError:
            if not self._known:
                raise
        self._fresh_until_s = asyncio.get_running_loop().time() + self._fresh_s
