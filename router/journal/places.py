"""What a place must offer in which revisions are kept, and what both places do with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from router.journal.kept import Kept
from router.journal.tables import LATEST, REVISIONS, migrate, version

Begin = Callable[[AsyncConnection], Awaitable[None]]


class Fill(Protocol):
    """Brings what an engine leads to up to date, and reads it whole."""

    async def __call__(self, engine: AsyncEngine, begin: Begin) -> list[Kept]: ...


class Place(Protocol):
    """Where revisions are kept. Everything but `failed` may raise what its driver raises; `failed` makes a StoreFailed of it."""

    failures: tuple[type[Exception], ...]

    @property
    def engine(self) -> AsyncEngine: ...

    async def prepare(self, fill: Fill) -> list[Kept]:
        """Make usable what is there, or make it anew, and fill it."""

    async def begin(self, connection: AsyncConnection) -> None:
        """Begin a transaction that keeps other writers out."""

    async def announce(self, connection: AsyncConnection, number: int) -> None:
        """Tell the others that there will be a revision `number` when this transaction ends."""

    async def check(self) -> None:
        """Raise Lost where the place is not the one that was prepared."""

    async def wait(self) -> None:
        """Return when there may be something new."""

    async def close(self) -> None:
        """Give everything back."""

    def failed(self, exc: Exception) -> Exception:
        """What to raise in the place of one of `failures`."""


def filling(known: Sequence[Kept]) -> Fill:
    """Up to date is the newest schema with every revision that is in the store or `known`."""

    async def fill(engine: AsyncEngine, begin: Begin) -> list[Kept]:
        async with engine.connect() as connection:
            if await version(connection) == LATEST and not await _missing(connection, known):
                return await everything(connection)  # a store that can only be read is good enough to start from
        async with engine.connect() as connection:
            await begin(connection)
            await migrate(connection)
            for kept in await _missing(connection, known):
                await connection.execute(REVISIONS.insert().values(kept.as_row()))
            found = await everything(connection)
            await connection.commit()
            return found

    return fill


async def everything(connection: AsyncConnection, since: int = 0) -> list[Kept]:
    """All revisions from number `since` on, oldest first."""
    query = sa.select(REVISIONS).where(REVISIONS.c.number >= since).order_by(REVISIONS.c.number)
    return [Kept.from_row(row) for row in (await connection.execute(query)).mappings()]


async def _missing(connection: AsyncConnection, known: Sequence[Kept]) -> list[Kept]:
    """Of what is known, what is newer than everything in the store; keys that it knows already are left out."""
    if not known:
        return []
    last = (await connection.execute(sa.select(sa.func.max(REVISIONS.c.number)))).scalar() or 0
    newer = [kept for kept in known if kept.revision.number > last]
    if not newer:
        return []
    keys = set((await connection.execute(sa.select(REVISIONS.c.key).where(REVISIONS.c.key.is_not(None)))).scalars())
    return [kept if kept.key not in keys else Kept(kept.revision, kept.file) for kept in newer]
