"""Where revisions are kept: one SQLite file, or a PostgreSQL that several machines share. The path of calls never comes here.

Appending is the only change there is. A revision's number is its primary key, so of two that are made from the same state at the same time
one is kept and the other is told what happened (`Conflict`): nothing is ever half applied, and no lock is held between reading and writing.

What was acknowledged is not lost with the store: whoever opens it brings what he knows, and what is missing in it is kept again under its
number (`Store.open`). So a file that was deleted, damaged or put back to an older copy, and a server that lost its last second, catch up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from router.journal.kept import Conflict as Conflict
from router.journal.kept import Kept as Kept
from router.journal.kept import Lost as Lost
from router.journal.kept import StoreFailed as StoreFailed
from router.journal.places import Place, everything, filling
from router.journal.postgres import Postgres
from router.journal.sqlite import SqliteFile
from router.journal.tables import REVISIONS


class Store:
    """One store. Every method raises StoreFailed where it cannot be reached, read or written, and Lost where opening it again may help."""

    def __init__(self, url: str):
        self.url = sa.make_url(url)
        self.is_shared = self.url.get_backend_name() != "sqlite"
        self._place: Place = Postgres(self.url) if self.is_shared else SqliteFile(self.url)

    async def open(self, known: Sequence[Kept] = ()) -> list[Kept]:
        """Make what is missing, bring what is old up to date, and keep what is `known` and newer than all that is kept.

        All revisions, oldest first.
        """
        try:
            return await self._place.prepare(filling(known))
        except self._place.failures as exc:
            raise self._place.failed(exc) from exc

    async def after(self, number: int) -> list[Kept]:
        """All revisions with a larger number, oldest first. Raises Lost where `number` itself is not there."""
        async with self._connected() as connection:
            found = await everything(connection, number)
        if number and (not found or found[0].revision.number != number):
            raise Lost(f"the store {self._place} has lost revision {number}")
        return found[1:] if number else found

    async def by_key(self, key: str) -> Kept | None:
        """The revision that a request with this idempotency key has made."""
        async with self._connected() as connection:
            row = (await connection.execute(sa.select(REVISIONS).where(REVISIONS.c.key == key))).mappings().first()
        return Kept.from_row(row) if row is not None else None

    async def append(self, kept: Kept) -> None:
        """Keep one more; its number must follow the last one's. Raises Conflict where that is taken."""
        number = kept.revision.number
        async with self._connected() as connection:
            await self._place.begin(connection)
            last = (await connection.execute(sa.select(sa.func.max(REVISIONS.c.number)))).scalar() or 0
            if last >= number:
                raise Conflict(last)
            if last < number - 1:
                raise Lost(f"the store {self._place} has lost revision {number - 1}")
            await connection.execute(REVISIONS.insert().values(kept.as_row()))
            await self._place.announce(connection, number)
            await connection.commit()
        await self._place.check()  # what went into a file that was deleted meanwhile is not acknowledged

    async def wait(self) -> None:
        """Return when there may be something new, or the store may be gone."""
        await self._place.wait()

    async def close(self) -> None:
        """Give the connections back. A store that was closed can be opened again."""
        await self._place.close()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection]:
        await self._place.check()
        try:
            async with self._place.engine.connect() as connection:
                yield connection
        except self._place.failures as exc:
            raise self._place.failed(exc) from exc
