"""Where revisions are kept: one SQLite file, or a PostgreSQL that several machines share. The path of calls never comes here.

Appending is the only change there is. A revision's number is its primary key, so of two that are made from the same state at the same time
one is kept and the other is told what happened (`Conflict`): nothing is ever half applied, and no lock is held between reading and writing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from policies.revisions import Kind, Revision, RoutingState
from router.journal.tables import REVISIONS, migrate

BUSY_S = 5.0  # how long a writer waits for another one to end
LOCK = 0x63726F7373  # of PostgreSQL's advisory locks, the one for Crossfade's writers
_STATE = msgspec.json.Decoder(RoutingState)


class StoreFailed(Exception):
    """The store could not be read or written; nothing was changed. The message is one sentence for the operator."""


class Conflict(Exception):
    """Somebody else was faster; `last` is the revision that is in force instead."""

    def __init__(self, last: int):
        super().__init__(f"revision {last} was made meanwhile")
        self.last = last


class Kept(msgspec.Struct, frozen=True):
    """A revision as it is stored: `file` is the state that the file asked for, where a file made it.

    `key`: the idempotency key of the request that made it, `asked`: a digest of what that request asked for.
    """

    revision: Revision
    file: RoutingState | None = None
    key: str | None = None
    asked: str | None = None


class Store:
    """One store, open. Every method raises StoreFailed where it cannot be reached, read or written."""

    def __init__(self, url: str):
        self.url = sa.make_url(url)
        self.is_shared = self.url.get_backend_name() == "postgresql"
        self._engine = _engine(self.url)

    async def open(self) -> None:
        """Make what is missing, bring what is old up to date."""
        async with self._writing() as connection:
            await migrate(connection)

    async def after(self, number: int) -> list[Kept]:
        """All revisions with a larger number, oldest first."""
        query = sa.select(REVISIONS).where(REVISIONS.c.number > number).order_by(REVISIONS.c.number)
        async with self._reading() as connection:
            return [_kept(row) for row in (await connection.execute(query)).mappings()]

    async def by_key(self, key: str) -> Kept | None:
        """The revision that a request with this idempotency key has made."""
        async with self._reading() as connection:
            row = (await connection.execute(sa.select(REVISIONS).where(REVISIONS.c.key == key))).mappings().first()
            return _kept(row) if row is not None else None

    async def append(self, kept: Kept) -> None:
        """Keep one more; its number must follow the last one's. Raises Conflict where that is taken."""
        async with self._writing() as connection:
            last = (await connection.execute(sa.select(sa.func.max(REVISIONS.c.number)))).scalar() or 0
            if last != kept.revision.number - 1:
                raise Conflict(last)
            await connection.execute(REVISIONS.insert().values(_row(kept)))
            if self.is_shared:
                await connection.execute(sa.text("SELECT pg_notify('crossfade', :n)"), {"n": str(kept.revision.number)})

    async def wait(self) -> None:
        """Return when there may be something new."""
        await asyncio.sleep(0.1)

    async def close(self) -> None:
        """Give the connections back."""
        await self._engine.dispose()

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that keeps other writers out from its first statement on."""
        async with self._connected() as connection:
            if self.is_shared:
                await connection.execute(sa.text("SELECT pg_advisory_xact_lock(:k)"), {"k": LOCK})
            else:
                await connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
            await connection.commit()

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        async with self._connected() as connection:
            yield connection

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._engine.connect() as connection:
                yield connection
        except (DBAPIError, OSError, TimeoutError) as exc:
            raise StoreFailed(_said(exc, self.url)) from exc


def _engine(url: sa.URL) -> AsyncEngine:
    if url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgresql+asyncpg")
        return create_async_engine(
            url,
            pool_size=2,
            max_overflow=0,
            pool_pre_ping=True,
            connect_args={"timeout": BUSY_S, "command_timeout": BUSY_S},
        )
    engine = create_async_engine(
        url.set(drivername="sqlite+aiosqlite"), connect_args={"timeout": BUSY_S, "isolation_level": None}
    )
    sa.event.listen(engine.sync_engine, "connect", _as_wal)
    return engine


def _as_wal(connection: Any, _record: Any) -> None:
    """Readers never wait for a writer, and what is committed is on the disk."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _said(exc: Exception, url: sa.URL) -> str:
    """Why, without the statement, its parameters or a password."""
    cause = exc.orig if isinstance(exc, DBAPIError) and exc.orig is not None else exc
    return f"the store {url.render_as_string(hide_password=True)} cannot be used: {str(cause).splitlines()[0] if str(cause) else type(cause).__name__}"


def _row(kept: Kept) -> dict[str, Any]:
    revision = kept.revision
    row = {
        name: getattr(revision, name) for name in ("number", "at_s", "actor", "reason", "model", "restores", "part_of")
    }
    file = msgspec.json.encode(kept.file).decode() if kept.file is not None else None
    return {
        **row,
        "kind": revision.kind.value,
        "state": msgspec.json.encode(revision.state).decode(),
        "file": file,
        "key": kept.key,
        "asked": kept.asked,
    }


def _kept(row: Mapping[Any, Any]) -> Kept:
    revision = Revision(
        number=row["number"],
        at_s=row["at_s"],
        actor=row["actor"],
        reason=row["reason"],
        kind=Kind(row["kind"]),
        state=_STATE.decode(row["state"]),
        model=row["model"],
        restores=row["restores"],
        part_of=row["part_of"],
    )
    return Kept(revision, _STATE.decode(row["file"]) if row["file"] is not None else None, row["key"], row["asked"])
