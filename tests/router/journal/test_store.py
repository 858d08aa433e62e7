"""The store: what is appended is there for everybody who shares it, in one order, or nothing has happened. On both kinds alike."""

from __future__ import annotations

import asyncio
import time

import pytest

from router.journal.store import Conflict, Lost, Store, StoreFailed
from router.journal.tables import LATEST, STEPS
from tests.router.journal.keeping import kept, opened, said


async def test_what_is_appended_is_read_again_as_it_was_by_whoever_opens_it(url: str) -> None:
    async with opened(url) as one, opened(url) as other:
        await one.append(kept(1))
        await other.append(kept(2, 0.25, "k"))
        assert await one.after(0) == [kept(1), kept(2, 0.25, "k")] and await other.after(1) == [kept(2, 0.25, "k")]
        assert await one.by_key("k") == kept(2, 0.25, "k") and await one.by_key("none") is None
        assert await other.open() == [kept(1), kept(2, 0.25, "k")]


async def test_of_many_that_change_the_same_state_at_once_one_wins_and_the_others_are_told(url: str) -> None:
    stores = [Store(url) for _ in range(8)]
    await asyncio.gather(*(store.open() for store in stores))
    results = await asyncio.gather(
        *(store.append(kept(1, n / 10)) for n, store in enumerate(stores)), return_exceptions=True
    )
    assert results.count(None) == 1
    assert [result.last for result in results if isinstance(result, Conflict)] == [1] * 7
    assert len(await stores[0].after(0)) == 1
    for store in stores:
        await store.close()


async def test_whoever_waits_hears_of_a_revision_within_a_second(url: str) -> None:
    async with opened(url) as one, opened(url) as other:
        await until_it_listens(other)
        waiting = asyncio.create_task(other.wait())
        began_s = time.monotonic()
        await one.append(kept(1))
        await waiting
        assert time.monotonic() - began_s < 1 and await other.after(0) == [kept(1)]


async def test_what_is_known_and_missing_in_the_store_is_kept_again_under_its_number(url: str) -> None:
    async with opened(url, [kept(7, 0.5, "k"), kept(8)]) as store:
        assert await store.after(0) == [kept(7, 0.5, "k"), kept(8)]
        assert await store.open([kept(8, 0.9), kept(9, 0.1, "k")]) == [kept(7, 0.5, "k"), kept(8), kept(9, 0.1)]
        await store.append(kept(10))


async def test_a_store_that_has_forgotten_what_is_known_is_noticed_by_readers_and_writers(url: str) -> None:
    async with opened(url, [kept(1)]) as store:
        with pytest.raises(Lost, match="has lost revision 2"):
            await store.after(2)
        with pytest.raises(Lost, match="has lost revision 2"):
            await store.append(kept(3))
        assert await store.after(0) == [kept(1)]


@pytest.mark.parametrize(
    "statement", ["UPDATE crossfade_revisions SET actor = 'nobody'", "DELETE FROM crossfade_revisions"]
)
async def test_the_database_itself_refuses_to_change_what_is_kept(url: str, statement: str) -> None:
    async with opened(url, [kept(1)]) as store:
        with pytest.raises(Exception, match="revisions are never changed"):
            await said(url, statement)
        assert await store.after(0) == [kept(1)]


async def test_a_store_of_the_first_schema_becomes_one_of_the_latest_and_keeps_its_revisions(url: str) -> None:
    dialect = url.partition(":")[0]
    await said(url, "CREATE TABLE crossfade_schema (version INTEGER PRIMARY KEY)")
    await said(url, "INSERT INTO crossfade_schema VALUES (1)")
    for statement in STEPS[dialect][0]:
        await said(url, statement)
    await said(
        url,
        "INSERT INTO crossfade_revisions (number, at_s, actor, reason, kind, model, state)"
        """ VALUES (1, 1, 'ops', 'why', 'start', '', '{"models":{}, "since_then": [1]}')""",
    )
    stores = [Store(url) for _ in range(4)]
    found = await asyncio.gather(*(store.open() for store in stores))
    assert [[each.revision.number for each in one] for one in found] == [[1]] * 4
    assert await said(url, "SELECT version FROM crossfade_schema ORDER BY version") == [
        (n,) for n in range(1, LATEST + 1)
    ]
    await stores[0].append(kept(2))
    for store in stores:
        await store.close()


async def test_a_store_of_a_newer_version_is_refused_in_one_sentence_and_not_touched(url: str) -> None:
    await said(url, "CREATE TABLE crossfade_schema (version INTEGER PRIMARY KEY)")
    await said(url, f"INSERT INTO crossfade_schema VALUES ({LATEST + 1})")
    with pytest.raises(StoreFailed, match=f"the store has schema {LATEST + 1}, and .* use a newer version"):
        async with opened(url, [kept(1)]):
            pass
    assert await said(url, "SELECT version FROM crossfade_schema") == [(LATEST + 1,)]
    with pytest.raises(Exception, match="crossfade_revisions"):
        await said(url, "SELECT 1 FROM crossfade_revisions")


async def test_a_revision_that_a_newer_version_wrote_is_said_to_be_one(url: str) -> None:
    async with opened(url, [kept(1)]) as store:
        await said(
            url,
            "INSERT INTO crossfade_revisions (number, at_s, actor, reason, kind, model, state)"
            " VALUES (2, 1, 'ops', 'why', 'dance', '', '{}')",
        )
        with pytest.raises(StoreFailed, match=r"revision 2 .* a newer one may have written it"):
            await store.after(1)


async def until_it_listens(store: Store) -> None:
    """PostgreSQL's listener says once that it has begun; the watch on a file stands from `open` on."""
    if store.is_shared:
        await store.wait()
