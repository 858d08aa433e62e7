"""Disks that are full, read-only, or fail: one sentence, what was kept stays readable, and on it goes when they are well."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from router.journal.store import StoreFailed
from tests.router.journal.keeping import kept, opened

HELD = [kept(n) for n in range(1, 11)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a megabyte."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", tmp_path], check=False)
    if mounted.returncode != 0:
        pytest.skip("a disk of its own can only be mounted by root")
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


async def test_a_full_disk_refuses_writers_keeps_readers_and_takes_the_next_when_there_is_room(disk: Path) -> None:
    async with opened(f"sqlite:///{disk}/crossfade.db", HELD) as store:
        fill(disk / "others")
        with pytest.raises(StoreFailed, match="cannot be used: the disk is full") as failed:
            for number in range(11, 1000):  # there may be room in pages that are there already
                await store.append(kept(number))
        assert "INSERT" not in str(failed.value) and "\n" not in str(failed.value)
        there = await store.after(0)
        assert there[:10] == HELD and there == await store.open(there)
        (disk / "others").unlink()
        await store.append(kept(len(there) + 1))


async def test_a_disk_that_is_full_from_the_start_leaves_nothing_half_made(disk: Path) -> None:
    fill(disk / "others")
    with pytest.raises(StoreFailed, match="the disk is full"):
        async with opened(f"sqlite:///{disk}/crossfade.db", HELD):
            pass
    assert not (disk / "crossfade.db").exists()
    (disk / "others").unlink()
    async with opened(f"sqlite:///{disk}/crossfade.db", HELD) as store:
        assert await store.after(0) == HELD
    assert sorted(path.name for path in disk.iterdir()) == ["crossfade.db"]


async def test_a_disk_that_can_only_be_read_is_said_to_be_one_and_used_once_it_can_be_written(disk: Path) -> None:
    url = f"sqlite:///{disk}/crossfade.db"
    async with opened(url, HELD):
        pass
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(StoreFailed, match="cannot be used: the file or its folder is read-only"):
        async with opened(url):
            pass
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    async with opened(url) as store:
        await store.append(kept(11))


async def test_a_disk_that_fails_in_the_middle_of_writing_changes_nothing(tmp_path: Path) -> None:
    async with opened(f"sqlite:///{tmp_path}/crossfade.db", HELD) as store:
        await store.append(kept(11))
        with no_file_grows_beyond((tmp_path / "crossfade.db-wal").stat().st_size), pytest.raises(StoreFailed) as failed:
            await store.append(kept(12))
        assert "cannot be used: the disk" in str(failed.value)
        assert await store.after(10) == [kept(11)]
        await store.append(kept(12))


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (4096, 1):
            while True:
                try:
                    file.write(b"x" * size)
                except OSError:
                    break


@contextmanager
def no_file_grows_beyond(size_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
