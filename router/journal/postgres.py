"""Revisions in a PostgreSQL that several machines share: told to each other by NOTIFY, with a look every two seconds as a safety net."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import asyncpg
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from router.journal.kept import BUSY_S, Kept, Lost, StoreFailed
from router.journal.places import Fill

log = logging.getLogger("crossfade.journal")

CHANNEL = "crossfade"
LOCK = 0x63726F7373  # of PostgreSQL's advisory locks, the one for Crossfade's writers
POLL_S = (
    2.0  # how long a revision may take where no notification comes (a proxy in between, a connection that is half dead)
)
ANSWER_S = BUSY_S + 1  # so that a server that waits for a lock says so itself
DEAF_POLL_S = 0.5  # and where nobody can listen at all
CONNECTIONS = 3  # of the pool: readers of the admin API beside one writer; the listener has one of its own
# Set by a statement: poolers refuse them in a first message. The second lets others go on when a writer was stopped in the middle.
SETTINGS = f"SET lock_timeout = '{BUSY_S:g}s'; SET idle_in_transaction_session_timeout = '{2 * BUSY_S:g}s'"


class Postgres:
    """A place of revisions: the database that the URL names, in whatever schema its `search_path` leads to."""

    failures: tuple[type[Exception], ...] = (
        DBAPIError, PoolTimeout, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError,
    )  # fmt: skip

    def __init__(self, url: sa.URL):
        self._dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._shown = url.set(drivername="postgresql", query={}).render_as_string(hide_password=True)
        self.engine: AsyncEngine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self._connect,  # the URL goes to the driver as it is: it knows libpq's parameters
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=BUSY_S,
            pool_pre_ping=True,
            hide_parameters=True,
        )
        self._listener: Any = None
        self._news = asyncio.Event()

    def __str__(self) -> str:
        return self._shown

    async def prepare(self, fill: Fill) -> list[Kept]:
        """Bring the database up to date."""
        await self._forget()
        return await fill(self.engine, self.begin)

    async def begin(self, connection: AsyncConnection) -> None:
        """Keep other writers out until the transaction ends; readers are not held up."""
        await connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})

    async def announce(self, connection: AsyncConnection, number: int) -> None:
        """A notification, which PostgreSQL sends when the transaction is committed."""
        await connection.execute(sa.text("SELECT pg_notify(:channel, :n)"), {"channel": CHANNEL, "n": str(number)})

    async def check(self) -> None:
        """Nothing to do: a server that is not there answers nothing."""

    async def wait(self) -> None:
        """Return at a notification, at the end of the listening connection, once after each beginning to listen, and in time."""
        if self._listener is None or self._listener.is_closed():
            await self._listen()
            return  # what was made before is not announced any more
        try:
            async with asyncio.timeout(POLL_S):
                await self._news.wait()
        except TimeoutError:
            return
        self._news.clear()

    async def close(self) -> None:
        """Give the connections back."""
        await self._forget()
        await self.engine.dispose()

    def failed(self, exc: Exception) -> StoreFailed:
        """The sentence of a failure: the server's own first line."""
        cause: BaseException | None = exc.orig if isinstance(exc, DBAPIError) else exc
        while cause is not None and cause.__cause__ is not None and isinstance(exc, DBAPIError):
            cause = cause.__cause__  # SQLAlchemy's own error around the driver's
        if isinstance(cause, asyncpg.LockNotAvailableError):
            return StoreFailed(
                f"the store {self} cannot be used: it is locked by another writer, which has not ended in {BUSY_S:g} s"
            )
        if isinstance(cause, TimeoutError | PoolTimeout):
            return StoreFailed(f"the store {self} cannot be used: it has not answered in time")
        if isinstance(cause, asyncpg.UndefinedTableError):
            return Lost(f"the store {self} has lost its tables")
        lines = ((isinstance(cause, OSError) and cause.strerror) or str(cause)).splitlines()
        return StoreFailed(f"the store {self} cannot be used: {lines[0] if lines else type(cause).__name__}")

    async def _connect(self) -> Any:
        named = {"application_name": "crossfade"}
        connection = await asyncpg.connect(self._dsn, timeout=BUSY_S, command_timeout=ANSWER_S, server_settings=named)
        try:
            await connection.execute(SETTINGS)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _listen(self) -> None:
        """Begin to listen; where that fails, let a pause pass. Then the caller reads, and hears of it if it is the server."""
        await self._forget()
        try:
            connection = await self._connect()
            try:
                connection.add_termination_listener(self._heard)
                await connection.add_listener(CHANNEL, self._heard)
            except BaseException:
                connection.terminate()
                raise
        except self.failures as exc:
            log.debug("cannot listen: %s", self.failed(exc))
            await asyncio.sleep(DEAF_POLL_S)
            return
        self._news.clear()
        self._listener = connection

    def _heard(self, *_what: Any) -> None:
        self._news.set()

    async def _forget(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None and not listener.is_closed():
            listener.terminate()
