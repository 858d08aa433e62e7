"""Every way in which a SQLite file breaks: serving needs none of it, one sentence says so, and nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from router.journal.sqlite import SqliteFile
from router.journal.store import Lost, Store, StoreFailed
from tests.router.journal.keeping import kept, opened

HELD = [kept(n) for n in range(1, 41)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "100%-odd" / "crossfade.db"


@pytest.fixture
async def filled(path: Path) -> Path:
    path.parent.mkdir()
    async with opened(f"sqlite:///{path}", HELD):
        pass
    return path


def overwrite_the_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"this is no database, as a disk that fails may have it. " * 3)


def cut_in_the_middle(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def garble_a_page_in_the_middle(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096 * 2)
        file.write(os.urandom(4096 * 2))


def garble_a_revision(path: Path) -> None:
    with path.open("r+b") as file:
        content = file.read()
        at = content.rindex(b'{"models"')
        file.seek(at)
        file.write(b"\x80")


def garble_the_index_of_keys(path: Path) -> None:
    """Which readers of revisions never come to see."""
    with closing(sqlite3.connect(path)) as connection:
        name = "sqlite_autoindex_crossfade_revisions_2"
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", [name]).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(os.urandom(size))


DAMAGES = [
    garble_the_index_of_keys,
    overwrite_the_header,
    cut_in_the_middle,
    garble_a_page_in_the_middle,
    garble_a_revision,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
async def test_a_damaged_file_is_set_aside_and_a_new_one_goes_on_with_what_is_known(
    filled: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    damage(filled)
    damaged = filled.read_bytes()
    async with opened(f"sqlite:///{filled}", HELD) as store:
        assert await store.after(0) == HELD
        await store.append(kept(41))
    (aside,) = filled.parent.glob("crossfade.db.corrupt-*")
    assert aside.read_bytes() == damaged
    assert [record.message for record in caplog.records] == [
        f"the store sqlite:///{filled} was damaged; it is set aside as {aside}, a new one goes on from revision 40"
    ]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
async def test_damage_while_the_file_is_in_use_is_noticed_at_the_latest_when_it_is_opened_again(
    filled: Path, damage: Callable[[Path], None]
) -> None:
    async with opened(f"sqlite:///{filled}") as store:
        damage(filled)
        for use in (lambda: store.after(39), lambda: store.append(kept(41))):
            try:
                await use()
            except StoreFailed as failed:
                assert str(filled) in str(failed) or "garbled" in str(failed)
        found = await store.open([*HELD, kept(41)])
        assert found == [*HELD, kept(41)] and await store.after(0) == found


async def test_a_log_of_garbage_beside_the_file_costs_only_what_is_known(filled: Path) -> None:
    filled.with_name("crossfade.db-wal").write_bytes(os.urandom(40_000))
    async with opened(f"sqlite:///{filled}", [*HELD, kept(41)]) as store:
        assert await store.after(0) == [*HELD, kept(41)]


async def test_a_log_that_outlived_its_file_is_not_played_into_the_new_one(filled: Path) -> None:
    async with opened(f"sqlite:///{filled}") as store:
        await store.append(kept(41))
        shutil.copy(filled.with_name("crossfade.db-wal"), filled.with_name("copy"))
    filled.unlink()
    filled.with_name("copy").rename(filled.with_name("crossfade.db-wal"))
    async with opened(f"sqlite:///{filled}", HELD[:1]) as store:
        assert await store.after(0) == HELD[:1]
        await store.append(kept(2, 0.1))
        assert await store.open() == [kept(1), kept(2, 0.1)]


async def test_a_file_deleted_while_in_use_is_noticed_within_a_second_and_nothing_written_into_it_is_acknowledged(
    filled: Path,
) -> None:
    async with opened(f"sqlite:///{filled}") as store:
        waiting = asyncio.create_task(store.wait())
        await asyncio.sleep(0)
        filled.unlink()
        async with asyncio.timeout(1):
            await waiting
        with pytest.raises(Lost, match="was deleted or replaced while it was in use"):
            await store.append(kept(41))
        with pytest.raises(Lost, match="was deleted or replaced while it was in use"):
            await store.after(40)
        assert not filled.exists()
        assert await store.open([*HELD, kept(41)]) == [*HELD, kept(41)]
        await store.append(kept(42))


async def test_a_revision_that_went_into_a_file_deleted_in_that_moment_is_not_acknowledged(filled: Path) -> None:
    class DeletedMeanwhile(SqliteFile):
        async def announce(self, connection: object, number: int) -> None:
            self.path.unlink()

    url = f"sqlite:///{filled}"
    async with opened(url) as store:
        store._place = DeletedMeanwhile(store.url)
        await store.open()
        with pytest.raises(Lost, match="was deleted or replaced"):
            await store.append(kept(41))
        await store.close()


async def test_an_older_copy_put_in_the_place_of_the_file_gets_what_it_lacks(filled: Path) -> None:
    shutil.copy(filled, filled.with_name("copy"))
    async with opened(f"sqlite:///{filled}") as store:
        await store.append(kept(41))
        filled.with_name("copy").rename(filled)
        with pytest.raises(Lost):
            await store.after(41)
        assert await store.open([*HELD, kept(41)]) == [*HELD, kept(41)]


async def test_what_a_process_left_that_died_while_it_made_a_file_is_in_nobodys_way(path: Path) -> None:
    path.parent.mkdir()
    for name in ("crossfade.db.new", "crossfade.db.new-wal", "crossfade.db.new-shm"):
        (path.parent / name).write_bytes(os.urandom(10_000))
    async with opened(f"sqlite:///{path}", HELD) as store:
        assert await store.after(0) == HELD
    assert [left.name for left in path.parent.iterdir()] == ["crossfade.db"]


async def test_what_is_committed_is_on_the_disk_and_readers_do_not_wait_for_it(filled: Path) -> None:
    place = SqliteFile(Store(f"sqlite:///{filled}").url)
    async with place.engine.connect() as connection:
        asked = [await connection.exec_driver_sql(f"PRAGMA {name}") for name in ("synchronous", "journal_mode")]
        assert [each.scalar() for each in asked] == [2, "wal"]
    await place.close()


async def test_a_store_that_is_opened_several_times_at_once_lets_its_file_go_when_it_is_closed(filled: Path) -> None:
    def held() -> list[Path]:
        descriptors = list(Path("/proc/self/fd").iterdir())  # that of the folder itself is gone by then
        return [each.readlink() for each in descriptors if each.is_symlink() and each.readlink() == filled]

    async with opened(f"sqlite:///{filled}") as store:
        assert await asyncio.gather(*(store.open() for _ in range(4))) == [HELD] * 4
        assert held()
    assert held() == []


async def test_many_processes_that_notice_at_once_set_the_file_aside_once(filled: Path) -> None:
    stores = [Store(f"sqlite:///{filled}") for _ in range(6)]
    overwrite_the_header(filled)
    found = await asyncio.gather(*(store.open(HELD) for store in stores))
    assert found == [HELD] * 6
    for store in stores:
        await store.close()
    assert len(list(filled.parent.glob("crossfade.db.corrupt-*"))) == 1


async def test_a_file_locked_by_another_program_can_be_read_and_refuses_writers_after_five_seconds(
    filled: Path,
) -> None:
    async with opened(f"sqlite:///{filled}") as store:
        with closing(sqlite3.connect(filled, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            writing = asyncio.create_task(store.append(kept(41)))
            assert await store.after(39) == HELD[39:]
            with pytest.raises(StoreFailed, match="it is locked by another program, which has not ended in 5 s"):
                await writing
        await store.append(kept(41))


async def test_a_missing_folder_is_named_and_the_store_works_once_it_is_there(path: Path) -> None:
    store = Store(f"sqlite:///{path}")
    with pytest.raises(StoreFailed) as failed:
        await store.open(HELD)
    assert str(failed.value) == f"the store sqlite:///{path} cannot be used: there is no folder {path.parent}"
    path.parent.mkdir()
    assert await store.open(HELD) == HELD
    await store.close()
