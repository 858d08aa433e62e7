"""Who listens to the answer where there is no client: keeps what would have been sent."""

from __future__ import annotations

from router.client import Client, Pausable
from router.pings import Head


class Listener(Client):
    """Stands where a call's client does; has no connection. `status` 0: the answer has not begun."""

    __slots__ = ("is_broken", "pieces", "status")

    def __init__(self) -> None:
        self.has_begun = self.is_open = False
        self.is_chunked = False  # bare bytes are wanted, as for a client of HTTP/1.0
        self.is_broken = False
        self.status = 0
        self.pieces: list[bytes] = []

    @property
    def body(self) -> bytes:
        """All that came."""
        return b"".join(self.pieces)

    def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.has_begun = True
        self.status = status

    def ping_from(self, due_s: float, every_s: float, head: Head) -> None:
        """Nobody waits."""

    def no_pings(self) -> None:
        """There are none."""

    def read_from(self, reader: Pausable | None) -> None:
        """It is never slow."""

    def write(self, data: bytes) -> None:
        self.pieces.append(data)

    def write_framed(self, chunks: bytes) -> None:
        self.pieces.append(chunks)

    async def finish(self, data: bytes = b"") -> None:
        self.pieces.append(data)

    async def finish_broken(self, event: bytes) -> None:
        self.is_broken = True
        self.pieces.append(event)

    def leave(self) -> None:
        """There is no connection to leave."""
