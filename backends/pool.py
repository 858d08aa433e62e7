"""The pool of keep-alive connections to one replica.

Rules
-----
* The connection that was used last is used next: few stay warm, the rest age and are closed.
* An idle connection is not used after `idle_s`. vLLM and llama.cpp close theirs after exactly 5 s (measured), and a
  request that crosses that close on the wire is lost; expiring ours at 4 s leaves a second for the crossing.
* Expiry is checked when a connection is taken and by a sweep that runs only while something is idle.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from backends.addresses import Addresses
from backends.alarm import Alarm
from backends.errors import ConnectFailed
from backends.http1 import Connection

IDLE_S = 4.0  # one second under the 5.0 s after which vLLM and llama.cpp close (measured)
MAX_IDLE = 256  # per replica; nginx's `keepalive 256` is the common choice for a busy upstream


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a replica listens: scheme, host and port, and what a request line needs of them."""

    url: str
    host: str
    port: int
    tls: ssl.SSLContext | None

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def origin_of(url: str, tls: ssl.SSLContext | None = None) -> Origin:
    """Parse `http://host:port`. Raises ValueError where there is no host or the scheme is not http or https."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not an http:// or https:// address")
    secure = parts.scheme == "https"
    context = (tls or ssl.create_default_context()) if secure else None
    return Origin(url, parts.hostname, parts.port or (443 if secure else 80), context)


class Pool:
    """Keep-alive connections to one origin; `take` and `give` are the two ends of an exchange."""

    def __init__(self, origin: Origin, *, idle_s: float = IDLE_S):
        self.origin = origin
        self.alarm = Alarm()  # for the limits of what runs on these connections
        self._addresses = Addresses(origin.host, origin.port)
        self._idle_s = idle_s
        self._idle: list[Connection] = []
        self._max_idle = MAX_IDLE
        self._sweep: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> int:
        """How many connections wait to be used."""
        return len(self._idle)

    def take_warm(self, now_s: float) -> Connection | None:
        """An idle connection that is fit to be used, or None."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_idle and now_s - connection.idle_since_s < self._idle_s:
                return connection
            connection.close()
        return None

    async def connect(self, timeout_s: float) -> Connection:
        """A fresh connection. Raises ConnectFailed; nothing has been sent then."""
        loop = asyncio.get_running_loop()
        origin = self.origin
        try:
            async with asyncio.timeout(timeout_s):
                sock = await self._addresses.connect()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _, connection = await loop.create_connection(
                    Connection, sock=sock, ssl=origin.tls, server_hostname=origin.host if origin.tls else None
                )
        except TimeoutError as exc:
            raise ConnectFailed(f"no connection to {origin.url} within {timeout_s:g} s") from exc
        except OSError as exc:  # ssl.SSLError is one
            raise ConnectFailed(f"cannot connect to {origin.url}: {exc.strerror or exc}") from exc
        except UnicodeError as exc:
            raise ConnectFailed(f"cannot connect to {origin.url}: its host is no valid name") from exc
        return connection

    def give(self, connection: Connection, now_s: float) -> None:
        """Put a connection back after its exchange ended; one that may not be used again is closed."""
        if not connection.is_idle or len(self._idle) >= self._max_idle:
            connection.close()
            return
        connection.idle_since_s = now_s
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(self._idle_s, self._expire)

    def close(self) -> None:
        """Close what is idle."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        while self._idle:
            self._idle.pop().close()

    def retire(self) -> None:
        """Close what is idle, and whatever is given back from now on: the replica is gone, but for the exchanges that still run."""
        self._max_idle = 0
        self.close()

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        fresh = [c for c in self._idle if c.is_idle and now_s - c.idle_since_s < self._idle_s]
        for connection in self._idle:
            if connection not in fresh:
                connection.close()
        self._idle = fresh
        self._sweep = loop.call_later(self._idle_s, self._expire) if fresh else None
