"""How a file of revisions is watched: by its times, once it has been still for long enough, and by a look as soon as they move."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from router.journal.sqlite import LOOKS, POLL_S, Watch

COARSEST_TIMES_S = 2.0  # FAT's


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "kept.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE said (word TEXT)")
        yield connection


@pytest.fixture
def watch(writer: sqlite3.Connection, tmp_path: Path) -> Iterator[Watch]:
    with closing(Watch(tmp_path / "kept.db")) as watch:
        yield watch


def looks_until_still(watch: Watch) -> int:
    looks = 0
    while watch.has_to_look():
        assert not watch.sees_news()
        looks += 1
    return looks


def test_a_file_that_is_still_is_looked_into_for_longer_than_files_times_are_apart(watch: Watch) -> None:
    assert looks_until_still(watch) * POLL_S > COARSEST_TIMES_S


def test_each_write_to_a_file_that_was_still_is_seen_at_the_next_look(watch: Watch, writer: sqlite3.Connection) -> None:
    for word in ("first", "second"):
        looks_until_still(watch)
        writer.execute("INSERT INTO said VALUES (?)", (word,))
        assert watch.has_to_look() and watch.sees_news()
        assert looks_until_still(watch) == LOOKS


def test_a_write_over_what_a_checkpoint_has_freed_is_seen(watch: Watch, writer: sqlite3.Connection) -> None:
    writer.execute("INSERT INTO said VALUES ('as long')")
    assert watch.sees_news()
    writer.execute("PRAGMA wal_checkpoint(RESTART)")
    looks_until_still(watch)
    writer.execute("UPDATE said SET word = 'so long'")
    assert watch.has_to_look() and watch.sees_news()


def test_a_file_that_was_deleted_is_news_until_another_is_watched(watch: Watch, tmp_path: Path) -> None:
    looks_until_still(watch)
    (tmp_path / "kept.db").unlink()
    assert all(watch.has_to_look() and watch.sees_news() for _ in range(2 * LOOKS))
