"""A PostgreSQL that is slow, locked, deaf, or not there: one sentence without a password, and nobody waits for long."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Callable

import asyncpg
import pytest

from router.journal.postgres import LOCK
from router.journal.store import Store, StoreFailed
from tests.postgres import Server
from tests.router.journal.keeping import kept, opened, said

OTHERS = "datname = current_database() AND pid != pg_backend_pid()"
pytestmark = pytest.mark.postgres


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda url: re.sub(r":\d+/", ":1/", url), "Connect call failed"),
        (lambda url: url + "-none", "database .* does not exist"),
        (lambda url: url.replace("crossfade:secret@", "nobody:secret@"), 'role "nobody" does not exist'),
        (lambda url: url + "?sslmode=require", "rejected SSL upgrade"),
        (lambda url: url + "?sslmode=perhaps&password=secret", "sslmode"),
    ],
    ids=["no-server", "no-database", "no-role", "no-tls", "no-such-mode"],
)
async def test_why_a_server_cannot_be_used_is_said_in_one_sentence_without_the_password(
    postgres: Server, change: Callable[[str], str], why: str
) -> None:
    url = change(postgres.database().replace("crossfade@", "crossfade:secret@"))
    store = Store(url)
    with pytest.raises(
        StoreFailed, match=f"^the store postgresql://[a-z]+:\\*\\*\\*@.* cannot be used: .*{why}"
    ) as failed:
        await store.open()
    await store.wait()
    await store.close()
    assert not any(word in str(failed.value) for word in ("secret", "\n", "Errno"))


@pytest.mark.parametrize("parameters", ["?sslmode=disable", "?sslmode=prefer&application_name=us"])
async def test_parameters_of_the_url_are_those_of_libpq(postgres: Server, parameters: str) -> None:
    url = postgres.database().replace("postgresql://", "postgres://") + parameters
    async with opened(url, [kept(1)]) as store:
        assert await store.after(0) == [kept(1)]


async def test_a_server_that_never_answers_is_given_up_after_five_seconds(postgres: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = Store(f"postgresql://crossfade@127.0.0.1:{silent.getsockname()[1]}/crossfade")
        with pytest.raises(StoreFailed, match="cannot be used: it has not answered in time"):
            await store.open()
        await store.close()


async def test_a_writer_that_does_not_end_holds_up_other_writers_for_five_seconds_and_no_reader(
    postgres: Server,
) -> None:
    url = postgres.database()
    async with opened(url, [kept(1)]) as store:
        other = await asyncpg.connect(url)
        try:
            await other.execute("BEGIN")
            await other.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
            writing = asyncio.create_task(store.append(kept(2)))
            assert await store.after(0) == [kept(1)]
            with pytest.raises(StoreFailed, match="it is locked by another writer, which has not ended in 5 s"):
                await writing
        finally:
            await other.close()
        await store.append(kept(2))


async def test_what_nobody_announced_is_looked_for_after_two_seconds(postgres: Server) -> None:
    url = postgres.database()
    async with opened(url, [kept(1)]) as store:
        await store.wait()  # it listens from here on
        await said(
            url,
            "INSERT INTO crossfade_revisions SELECT 2, at_s, actor, reason, kind, model, restores, part_of, state"
            " FROM crossfade_revisions",
        )
        began_s = time.monotonic()
        await store.wait()
        assert 1.5 < time.monotonic() - began_s < 3 and len(await store.after(1)) == 1


async def test_connections_that_were_cut_while_nobody_used_them_fail_nobody(postgres: Server) -> None:
    url = postgres.database()
    async with opened(url) as store:
        await cut(url)
        await store.append(kept(1))
        await cut(url)
        assert await store.after(0) == [kept(1)]


async def test_whoever_listens_hears_at_once_that_he_was_cut_off(postgres: Server) -> None:
    url = postgres.database()
    async with opened(url) as store:
        await store.wait()  # it listens from here on
        waiting = asyncio.create_task(store.wait())
        await cut(url)
        async with asyncio.timeout(1):
            await waiting


async def cut(url: str) -> None:
    await said(url, f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {OTHERS}")


async def test_two_schemas_of_one_database_are_two_stores(postgres: Server) -> None:
    url = postgres.database()
    for schema in ("one", "two"):
        await said(url, f"CREATE SCHEMA {schema}")
    async with (
        opened(f"{url}?options=-csearch_path%3Done", [kept(1)]) as one,
        opened(f"{url}?options=-csearch_path%3Dtwo") as two,
    ):
        await one.append(kept(2))
        assert (len(await one.after(0)), len(await two.after(0))) == (2, 0)
