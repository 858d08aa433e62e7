"""Revisions in one SQLite file: made in one step, watched, and set aside where it is damaged.

* The file appears whole: it is made under another name and renamed, so there is no moment at which another process finds half of it.
* Every use opens the file anew (4 ms, and seldom), and only where it exists: nobody but `prepare` makes one.
* What was written is acknowledged only if the file is then still in its place: nobody writes on into a file that was deleted.
* The folder is locked while a file is made or set aside: of several processes that notice at once, one does it.
* Our own code never opens the file itself: closing it would give up the locks that SQLite holds for this process (POSIX has it so).
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from router.journal.kept import BUSY_S, Kept, Lost, StoreFailed
from router.journal.places import Fill

log = logging.getLogger("crossfade.journal")

POLL_S = 0.1  # so that a revision reaches every worker well within a second
# That find nothing new, until the files' times alone are looked at: a look in a thread, which a busy loop has to let go of the interpreter
# for, costs about 2 ms (a twentieth of the CPU time at 10,000 chunks a second). They take longer than the coarsest times of files, 2 s.
LOOKS = 25
TRY_LOCK_S = 0.02
BESIDE = ("-wal", "-shm")  # what SQLite keeps beside the file while it is in use
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
SHORT_READ = 522  # SQLITE_IOERR_SHORT_READ: the file ends before a page that it must have
SAYING = {
    sqlite3.SQLITE_BUSY: f"it is locked by another program, which has not ended in {BUSY_S:g} s",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "the file or its folder is read-only",
    sqlite3.SQLITE_IOERR: "the disk fails (an I/O error)",
}
Identity = (
    tuple[int, int] | None
)  # device and number of a file; None where there is none, or an empty one, which a store never is

Stamp = tuple[int, int, int] | None  # which file it is, how long, and when it was written


class SqliteFile:
    """A place of revisions: the file that the URL names."""

    failures: tuple[type[Exception], ...] = (DBAPIError, sqlite3.Error, OSError)

    def __init__(self, url: sa.URL):
        self.path = Path(url.database or "").absolute()
        self.engine = _engine(self.path, "rw")
        self._watch: Watch | None = None
        self._preparing = asyncio.Lock()  # one watch at a time

    def __str__(self) -> str:
        return f"sqlite:///{self.path}"

    async def prepare(self, fill: Fill) -> list[Kept]:
        """Use the file that is there; make one where there is none, or where it is damaged: the damaged one is set aside."""
        async with self._preparing:
            try:
                return await self._use(fill)
            except Lost:
                async with self._alone():
                    try:
                        return await self._use(fill)  # somebody else may have done it meanwhile
                    except Lost:
                        await self._make(fill)
                    return await self._use(fill)

    async def begin(self, connection: AsyncConnection) -> None:
        """Keep other writers out from here on; a plain BEGIN would do so only at the first statement that writes."""
        await connection.exec_driver_sql("BEGIN IMMEDIATE")

    async def announce(self, connection: AsyncConnection, number: int) -> None:
        """Nothing to do: the others see the file change."""

    async def check(self) -> None:
        """Raise Lost where another file stands in the place of the one that was prepared, or none."""
        if self._watch is not None and await asyncio.to_thread(_identity, self.path) != self._watch.identity:
            raise Lost(f"the store {self} was deleted or replaced while it was in use")

    async def wait(self) -> None:
        """Return when another connection has written, or another file stands in the place of this one."""
        while True:
            await asyncio.sleep(POLL_S)
            watch = self._watch
            if watch is None or (watch.has_to_look() and await asyncio.to_thread(watch.sees_news)):
                return

    async def close(self) -> None:
        """Give the connections back."""
        await self._forget()
        await self.engine.dispose()

    def failed(self, exc: Exception) -> StoreFailed:
        """The sentence of a failure, and whether the file itself is lost."""
        cause = exc.orig if isinstance(exc, DBAPIError) else exc
        code = getattr(cause, "sqlite_errorcode", 0)
        # Text that is no UTF-8 is reported by Python's own part, without a code.
        if code & 0xFF in DAMAGED or code == SHORT_READ or "decode to UTF-8" in str(cause):
            return Lost(f"the store {self} is damaged")
        if code & 0xFF == sqlite3.SQLITE_CANTOPEN and self.path.parent.is_dir() and not self.path.exists():
            return Lost(f"the store {self} is gone")
        return StoreFailed(f"the store {self} cannot be used: {self._why(code & 0xFF, cause)}")

    def _why(self, code: int, cause: BaseException | None) -> str:
        if not self.path.parent.is_dir():
            return f"there is no folder {self.path.parent}"
        if isinstance(cause, OSError):
            return cause.strerror or type(cause).__name__
        if code == sqlite3.SQLITE_CANTOPEN and not (
            os.access(self.path.parent, os.W_OK) and os.access(self.path, os.W_OK)
        ):
            code = sqlite3.SQLITE_READONLY  # which needs a file beside it even to be read
        return SAYING.get(code) or str(cause).splitlines()[0]

    async def _use(self, fill: Fill) -> list[Kept]:
        """Check the file that is there, fill it, watch it from now on."""
        await self._forget()
        if await asyncio.to_thread(_identity, self.path) is None:
            raise Lost(f"the store {self} is gone")
        try:
            watch = await asyncio.to_thread(Watch, self.path)  # first of all: what happens from here on is not missed
            try:
                await self._judge()
                found = await fill(self.engine, self.begin)
            except BaseException:
                await asyncio.to_thread(watch.close)
                raise
        except self.failures as exc:
            raise self.failed(exc) from exc
        self._watch = watch
        await self.check()
        return found

    async def _judge(self) -> None:
        """Raise Lost where the file is damaged anywhere; it is small enough to be read whole at each start."""
        async with self.engine.connect() as connection:
            said = (await connection.exec_driver_sql("PRAGMA quick_check(1)")).scalar()
        if said != "ok":
            raise Lost(f"the store {self} is damaged: {str(said).splitlines()[-1]}")

    async def _make(self, fill: Fill) -> None:
        """Make a file of what is known, and put it into its place; what was there is set aside."""
        new = self.path.with_name(self.path.name + ".new")
        await asyncio.to_thread(_remove, new)
        engine = _engine(new, "rwc")
        try:
            known = await fill(engine, self.begin)
        except self.failures as exc:
            raise self.failed(exc) from exc
        finally:
            await engine.dispose()
        aside = await asyncio.to_thread(_put_in_place, new, self.path)
        last = known[-1].revision.number if known else 0
        if aside is not None:
            log.error(
                "the store %s was damaged; it is set aside as %s, a new one goes on from revision %d", self, aside, last
            )
        elif known:
            log.error("the store %s was gone; a new one goes on from revision %d", self, last)

    async def _forget(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            await asyncio.to_thread(watch.close)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """While no other process makes or sets aside a file in this folder."""
        ends_s = time.monotonic() + BUSY_S
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            while not _locked(folder):
                if time.monotonic() > ends_s:
                    raise StoreFailed(
                        f"the store {self} is being made by another process, which has not ended in {BUSY_S:g} s"
                    )
                await asyncio.sleep(TRY_LOCK_S)
            yield
        finally:
            os.close(folder)


class Watch:
    """One connection that only looks whether others have written. It holds its file, whose number no other file gets meanwhile."""

    def __init__(self, path: Path):
        self._path = path
        self._log = path.with_name(path.name + BESIDE[0])
        self._stamps: tuple[Stamp, Stamp] | None = None
        self._looks = 0  # that found nothing new, since a stamp changed
        self._mutex = threading.Lock()  # against a look that goes on in its thread while its task was cancelled
        self._connection: sqlite3.Connection | None = sqlite3.connect(
            f"file:{quote(str(path))}?mode=rw", uri=True, timeout=0, check_same_thread=False, isolation_level=None
        )
        try:
            self.identity = _identity(path)
            self._version = self._read(self._connection)
        except BaseException:
            self._connection.close()
            raise

    def has_to_look(self) -> bool:
        """Whether something may have been written since the looks that found nothing new: a commit is written to one of two files."""
        stamps = _stamp(self._path), _stamp(self._log)
        if stamps != self._stamps:
            self._stamps, self._looks = stamps, 0
        return self._looks < LOOKS

    def sees_news(self) -> bool:
        """Whether something was written, the file was replaced, or it cannot be told."""
        has_news = self._sees_news()
        self._looks = 0 if has_news else self._looks + 1
        return has_news

    def _sees_news(self) -> bool:
        with self._mutex:
            if self._connection is None or _identity(self._path) != self.identity:
                return True
            try:
                version = self._read(self._connection)
            except sqlite3.Error:
                return True
            changed, self._version = version != self._version, version
            return changed

    def close(self) -> None:
        """Let the file go."""
        with self._mutex:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    @staticmethod
    def _read(connection: sqlite3.Connection) -> int:
        with closing(connection.execute("PRAGMA data_version")) as cursor:
            return int(cursor.fetchone()[0])


def _engine(path: Path, mode: str) -> AsyncEngine:
    """`mode` is SQLite's: `rw` opens what is there, `rwc` makes it too."""
    url = sa.URL.create("sqlite+aiosqlite", database=f"file:{quote(str(path))}", query={"mode": mode, "uri": "true"})
    # isolation_level None: Python's own part would begin transactions where it likes.
    arguments = {"timeout": BUSY_S, "isolation_level": None}
    engine = create_async_engine(url, connect_args=arguments, poolclass=sa.NullPool, hide_parameters=True)
    sa.event.listen(engine.sync_engine, "connect", _as_wal)
    return engine


def _as_wal(connection: Any, _record: Any) -> None:
    """Readers never wait for a writer, and what is committed is on the disk, not only on its way to it."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _identity(path: Path) -> Identity:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found.st_size else None


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _locked(folder: int) -> bool:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(path: Path) -> None:
    """What a process left that died while it made a file."""
    for each in (path, *(path.with_name(path.name + suffix) for suffix in BESIDE)):
        each.unlink(missing_ok=True)


def _put_in_place(new: Path, path: Path) -> Path | None:
    """Rename; where the old file went, if there was one. A log that outlived its file goes too: SQLite would play it into the new one."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = path.with_name(f"{path.name}.corrupt-{stamp}")
    count = 1
    while aside.exists():
        count += 1
        aside = path.with_name(f"{path.name}.corrupt-{stamp}-{count}")
    was_there = path.exists()
    for suffix in ("", *BESIDE):  # the file first: from then on nothing that is written beside it is acknowledged
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    new.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # a rename lasts only then
    finally:
        os.close(folder)
    return aside if was_there else None
