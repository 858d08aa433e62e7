"""A router whose store breaks: calls are answered in the last known state, changes are refused with the reason, until it is well."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import pytest

from router.journal.journal import By
from router.journal.store import StoreFailed
from tests.postgres import Server
from tests.postgres import running as postgres_running
from tests.running import Router, config_for, running
from tests.upstream import Upstream, says

OPS = By("ops", "the canary looks well")


@asynccontextmanager
async def two_backends(url: str, env: dict[str, str] | None = None) -> AsyncIterator[Router]:
    async with (
        Upstream(says("from a")) as a,
        Upstream(says("from b")) as b,
        running(config_for({"a": a.url, "b": b.url}) + f"\nstore: {{url: '{url}'}}\n", env) as router,
    ):
        yield router


async def answering(router: Router) -> tuple[str, int]:
    """Which backend answers a call, under which revision; and that the call is quick, whatever the store does."""
    began_s = time.monotonic()
    answer = await router.chat()
    assert answer.status_code == 200 and time.monotonic() - began_s < 2
    return answer.headers["x-crossfade-backend"], int(answer.headers["x-crossfade-revision"])


async def shift(router: Router, backend: str) -> int:
    return (await router.parts.operations.shift("jane", {backend: 1.0}, OPS)).number


async def until_well(router: Router) -> None:
    async with asyncio.timeout(2):
        while router.parts.journal.trouble:
            await asyncio.sleep(0.01)


async def test_calls_go_on_while_a_change_waits_for_a_locked_file_and_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "crossfade.db"
    async with two_backends(f"sqlite:///{path}") as router:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            changing = asyncio.create_task(shift(router, "b"))
            while not changing.done():
                assert await answering(router) == ("a", 1)
            with pytest.raises(StoreFailed, match="locked by another program"):
                await changing
        assert await shift(router, "b") == 2 and await answering(router) == ("b", 2)


@pytest.mark.parametrize(
    "break_it",
    [
        Path.unlink,
        lambda path: path.write_bytes(b"x" * 30_000),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
    ],
    ids=["deleted", "overwritten", "emptied", "cut"],
)
async def test_a_file_that_breaks_under_a_router_or_between_two_loses_no_revision(
    tmp_path: Path, break_it: Callable[[Path], None]
) -> None:
    path = tmp_path / "crossfade.db"
    async with two_backends(f"sqlite:///{path}") as router:
        assert await shift(router, "b") == 2
        break_it(path)
        assert await answering(router) == ("b", 2)
        with suppress(StoreFailed):
            await shift(router, "a")
        await until_well(router)
        assert await shift(router, "b") in (2, 4)  # 4 where the shift before it was not refused
        number = await shift(router, "a")
    break_it(path)
    async with two_backends(f"sqlite:///{path}") as router:
        assert await answering(router) == ("a", number)
        assert await shift(router, "b") == number + 1
        rolled_back = await router.parts.operations.rollback("jane", OPS)
        assert await answering(router) == ("a", rolled_back.number)


@pytest.fixture
def server() -> Iterator[Server]:
    with postgres_running(is_durable=True) as server:
        yield server


@pytest.mark.postgres
async def test_a_router_that_starts_while_its_server_is_away_serves_the_last_known_state_and_catches_up(
    server: Server, tmp_path: Path
) -> None:
    url, env = server.database(), {"XDG_STATE_HOME": str(tmp_path)}
    async with two_backends(url, env) as one:
        assert await shift(one, "b") == 2
        await asyncio.to_thread(server.stop)
        assert await answering(one) == ("b", 2)
        async with two_backends(url, env) as other:
            assert await answering(other) == ("b", 2)
            with pytest.raises(StoreFailed, match="cannot be used"):
                await shift(other, "a")
            await asyncio.to_thread(server.start)
            await until_well(other)
            assert await shift(one, "a") == 3
            async with asyncio.timeout(1):
                while await answering(other) != ("a", 3):
                    await asyncio.sleep(0.01)
