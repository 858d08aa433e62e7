"""Journals that follow one store: what one changes is in force at the others within a second, whatever happens to the store in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from policies.revisions import Desired, Kind, ModelState, Revision, RoutingState, shifted
from router.journal.journal import By, Draft, Journal
from router.journal.sidecar import Sidecar, sidecar_for
from router.journal.store import Store, StoreFailed
from tests.postgres import Server, running

BACKENDS = ("lmstudio", "vllm")
OPS = By("ops", "canary")


class Router:
    """What a router has of all this: its journal, and the revision that is in force in it."""

    def __init__(self, url: str, sidecar: Sidecar | None = None):
        self.in_force: list[Revision] = []
        self._moved = asyncio.Event()
        self.journal = Journal(Store(url), self._put_in_force, sidecar=sidecar)

    def _put_in_force(self, revision: Revision) -> None:
        self.in_force.append(revision)
        self._moved.set()

    async def shift(self, vllm: float) -> Revision:
        return await self.journal.change(
            lambda all_so_far: Draft(
                Kind.SHIFT, shifted(all_so_far[-1].state, "jane", {"vllm": vllm}, BACKENDS), "jane"
            ),
            OPS,
        )

    async def until(self, number: int) -> Revision:
        """The revision in force when this one is, which takes a second at most."""
        async with asyncio.timeout(1):
            while not self.in_force or self.in_force[-1].number < number:
                self._moved.clear()
                await self._moved.wait()
        return self.in_force[-1]


@asynccontextmanager
async def following(url: str, sidecar: Sidecar | None = None) -> AsyncIterator[Router]:
    router = Router(url, sidecar)
    state = RoutingState({"jane": ModelState({"lmstudio": 1.0, "vllm": 0.0})})
    with suppress(StoreFailed):  # as the application does
        await router.journal.file_changed(Desired(state, {"jane": BACKENDS}), "the start of the router")
    task = asyncio.create_task(router.journal.run())
    try:
        yield router
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await router.journal.close()


async def test_what_one_changes_is_in_force_at_the_others_within_a_second(url: str) -> None:
    async with following(url) as one, following(url) as other:
        for share in (0.1, 0.5, 0.9):
            made = await one.shift(share)
            assert await other.until(made.number) == made
        made = await other.shift(0.0)
        assert await one.until(made.number) == made
        assert one.journal.revisions == other.journal.revisions


async def test_journals_that_change_the_same_model_all_at_once_end_in_one_state(url: str) -> None:
    async with following(url) as one, following(url) as two, following(url) as three:
        routers = (one, two, three)
        results = await asyncio.gather(
            *(router.shift(n / 10) for n in range(1, 4) for router in routers), return_exceptions=True
        )
        made = [result for result in results if isinstance(result, Revision)]
        last = max(made, key=lambda revision: revision.number)
        for router in routers:
            assert await router.until(last.number) == last
        assert one.journal.revisions == two.journal.revisions == three.journal.revisions


@pytest.mark.parametrize("how", ["deleted", "damaged", "emptied"])
async def test_a_file_lost_under_running_routers_is_made_again_with_all_that_is_known(tmp_path: Path, how: str) -> None:
    path = tmp_path / "crossfade.db"
    async with following(f"sqlite:///{path}") as one, following(f"sqlite:///{path}") as other:
        made = await one.shift(0.5)
        await other.until(made.number)
        if how == "deleted":
            path.unlink()
        else:
            path.write_bytes(b"x" * 20_000 if how == "damaged" else b"")
        after = await one.shift(0.75)  # which makes the file itself, if nobody else was faster
        assert after.number == made.number + 1
        assert await other.until(after.number) == after
        assert one.journal.trouble == other.journal.trouble == ""
    async with following(f"sqlite:///{path}") as anew:
        assert anew.journal.revisions == one.journal.revisions


async def test_a_router_that_starts_without_its_store_serves_the_last_known_state_and_catches_up(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    url, elsewhere = f"sqlite:///{folder}/crossfade.db", tmp_path / "last.json"
    async with following(url, Sidecar(elsewhere)) as router:
        made = await router.shift(0.5)
    folder.rename(tmp_path / "gone")
    async with following(url, Sidecar(elsewhere)) as router:
        assert router.in_force == [made]
        assert router.journal.trouble == f"the store {url} cannot be used: there is no folder {folder}"
        with pytest.raises(StoreFailed, match="there is no folder"):
            await router.shift(0.75)
        assert router.in_force[-1] == made
        (tmp_path / "gone").rename(folder)
        async with following(url) as other:
            after = await other.shift(0.75)
        assert await router.until(after.number) == after
        assert router.journal.trouble == ""


async def test_a_file_lost_while_no_router_ran_is_made_again_from_the_last_known_state(tmp_path: Path) -> None:
    path = tmp_path / "crossfade.db"
    url = f"sqlite:///{path}"
    async with following(url, sidecar_for(url, {})) as router:
        made = await router.shift(0.5)
    path.unlink()
    async with following(url, sidecar_for(url, {})) as router:
        assert router.in_force == [made] and len(router.journal.revisions) == 2
        assert (await router.shift(0.6)).number == made.number + 1


@pytest.mark.postgres
async def test_a_server_that_was_stopped_costs_no_state_and_is_caught_up_with_within_a_second_of_its_return(
    server: Server,
) -> None:
    url = server.database()
    async with following(url) as one, following(url) as other:
        made = await one.shift(0.5)
        await other.until(made.number)
        await asyncio.to_thread(server.kill)
        with pytest.raises(StoreFailed) as failed:
            await one.shift(0.75)
        assert str(failed.value).startswith(f"the store {url} cannot be used: ") and "\n" not in str(failed.value)
        assert one.in_force[-1] == other.in_force[-1] == made
        await asyncio.to_thread(server.start)
        began_s = time.monotonic()
        after = await shifted_in_the_end(one, 0.75)
        await other.until(after.number)
        assert time.monotonic() - began_s < 1.5 and after.number == made.number + 1


@pytest.mark.postgres
async def test_where_the_server_comes_back_with_other_revisions_under_the_same_numbers_it_is_right(
    postgres: Server,
) -> None:
    url, elsewhere = postgres.database(), postgres.database()
    name, other_name = url.rpartition("/")[2], elsewhere.rpartition("/")[2]
    async with following(elsewhere) as router:
        for share in (0.2, 0.4, 0.6):
            made = await router.shift(share)
    theirs = router.journal.revisions
    async with following(url) as router:
        await router.shift(0.5)
        system = f"{url.rpartition('/')[0]}/postgres"
        postgres.said(system, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        postgres.said(system, f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'")
        with pytest.raises(StoreFailed, match="not currently accepting connections"):
            await router.shift(0.7)
        postgres.said(system, f"ALTER DATABASE {name} RENAME TO {name}_before")
        postgres.said(system, f"ALTER DATABASE {other_name} RENAME TO {name}")
        assert await router.until(made.number) == made
        assert router.journal.revisions == theirs


@pytest.mark.postgres
async def test_a_router_whose_connections_are_cut_hears_the_next_change_within_a_second(postgres: Server) -> None:
    url = postgres.database()
    async with following(url) as one, following(url) as other:
        for share in (0.25, 0.5):
            postgres.said(
                url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid != pg_backend_pid()",
            )
            made = await shifted_in_the_end(one, share)
            assert await other.until(made.number) == made


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(is_durable=True) as server:
        yield server


async def shifted_in_the_end(router: Router, share: float) -> Revision:
    """As an operator would: again, where the store fails in this moment."""
    async with asyncio.timeout(1.5):
        while True:
            try:
                return await router.shift(share)
            except StoreFailed:
                await asyncio.sleep(0.05)
