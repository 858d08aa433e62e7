"""How a changed file is noticed: by rename, by link, whole and not half, by signal; and what becomes of it where the store is away."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import httpx
import pytest

from policies.revisions import Kind
from router.journal.journal import By
from tests.reloading import desk_on, splits
from tests.running import config_for, running_on
from tests.serving import RunningRouter
from tests.upstream import Upstream, says


async def test_a_mounted_map_whose_link_moves_is_a_change(tmp_path: Path) -> None:
    async with Upstream(says("a")) as a, Upstream(says("b")) as b:
        for name, share in (("1", 1.0), ("2", 0.0)):
            (tmp_path / name).mkdir()
            (tmp_path / name / "crossfade.yaml").write_text(splits(a, b, share))
        (tmp_path / "data").symlink_to("1")
        file = tmp_path / "crossfade.yaml"
        file.symlink_to("data/crossfade.yaml")
        async with running_on(file) as router:
            assert (await router.chat()).headers["x-crossfade-backend"] == "a"
            (tmp_path / "new").symlink_to("2")
            (tmp_path / "new").replace(tmp_path / "data")
            async with asyncio.timeout(5):
                while (await router.chat()).headers["x-crossfade-backend"] != "b":
                    await asyncio.sleep(0.05)
            parts = router.parts
            assert not parts.file.at_next_start, "the store lies where it was"


async def test_a_file_that_is_being_written_is_left_alone_until_it_is_whole(tmp_path: Path) -> None:
    async with Upstream(says("a")) as a, Upstream(says("b")) as b, desk_on(tmp_path, splits(a, b, 1.0)) as desk:
        text = splits(a, b, 0.0) + "\n  kim: {on: {a: x}, split: {a: 1.0}}"
        half = splits(a, b, 0.0)  # which is valid, too
        desk.file.write_text(half)
        with desk.file.open("a") as rest:
            for _ in range(20):
                rest.write("\n#")
                rest.flush()
                desk.reload.soon()
                await asyncio.sleep(0.02)
            assert desk.parts.file.taken_at_s is None
            rest.write(text[len(half) :])
        await desk.until(lambda: desk.parts.file.taken_at_s)
        assert set(desk.fleet.models) == {"jane", "kim"}


async def test_a_file_that_is_gone_is_said_and_served_from_until_it_is_back(tmp_path: Path) -> None:
    async with Upstream(says("a")) as a, Upstream(says("b")) as b, desk_on(tmp_path, splits(a, b, 1.0)) as desk:
        text = desk.file.read_text()
        desk.file.unlink()
        await desk.until(lambda: desk.parts.file.refused)
        assert "cannot be read" in desk.parts.file.refused[0]
        assert (await desk.router.chat()).status_code == 200
        await desk.write(text)
        await desk.until(lambda: not desk.parts.file.refused)


async def test_a_valid_file_takes_the_place_of_a_refused_one(tmp_path: Path) -> None:
    async with Upstream(says("a")) as a, Upstream(says("b")) as b, desk_on(tmp_path, splits(a, b, 1.0)) as desk:
        await desk.refused("backends: [")
        await desk.change(splits(a, b, 0.0))
        assert not desk.parts.file.refused and (await desk.router.chat()).headers["x-crossfade-backend"] == "b"


async def test_the_later_of_file_and_command_wins_and_the_difference_is_shown(tmp_path: Path) -> None:
    async with Upstream(says("a")) as a, Upstream(says("b")) as b, desk_on(tmp_path, splits(a, b, 0.75)) as desk:
        shift = desk.parts.operations.shift
        await shift("jane", {"b": 0.5}, By("ann", "more"))
        await desk.change(splits(a, b, 0.75, "timeouts: {total_s: 9}"))
        assert desk.fleet.models["jane"].split == {"a": 0.5, "b": 0.5}, "of the shares the file says nothing new"
        drift = "jane: a 50 %, b 50 %; the file asks for a 75 %, b 25 %"
        assert (await desk.ready())["file"] == {"drift": [drift]}
        assert desk.reload.report()["drift"] == [drift]
        await desk.change(splits(a, b, 0.25))
        assert desk.fleet.models["jane"].split == {"a": 0.25, "b": 0.75}
        assert "file" not in await desk.ready()
        kinds = [revision.kind for revision in desk.parts.journal.revisions]
        assert kinds == [Kind.START, Kind.SHIFT, Kind.FILE]


async def test_while_the_store_is_away_new_shares_are_refused_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Upstream(says("a")) as a, Upstream(says("b")) as b, desk_on(tmp_path, splits(a, b, 1.0)) as desk:
        jane = desk.fleet.models["jane"]
        store = tmp_path / "crossfade.db"
        kept = store.read_bytes()
        for each in tmp_path.glob("crossfade.db*"):
            each.unlink()
        store.mkdir()
        await desk.write(splits(a, b, 0.0, "timeouts: {total_s: 9}"))
        await desk.until(lambda: desk.parts.file.refused)
        assert "store" in (await desk.ready())["file"]["refused"][0]
        assert desk.fleet.models["jane"] is jane and jane.split == {"a": 1.0, "b": 0.0}
        store.rmdir()
        store.write_bytes(kept)
        await desk.until(lambda: not desk.parts.file.refused)
        assert desk.fleet.models["jane"].total_s == 9 and desk.fleet.models["jane"].split["b"] == 1.0
        assert caplog.text.count("is tried again until its shares can be kept") == 1


async def test_a_thousand_hangups_a_second_end_in_the_last_file() -> None:
    async with Upstream(says("a")) as a, Upstream(says("b")) as b:
        router = RunningRouter(splits(a, b, 1.0))
        await asyncio.to_thread(router.__enter__)
        try:
            for number in range(1000):
                if number % 100 == 0:
                    router.file.write_text(_at(router, splits(a, b, 0.0, f"timeouts: {{total_s: {number + 1}}}")))
                os.kill(router.pid, signal.SIGHUP)
                await asyncio.sleep(0.001)
            async with asyncio.timeout(5):
                while "revision 2" not in router.log():
                    await asyncio.sleep(0.02)
            assert router.log().count("SIGHUP") < 50
            assert "refused" not in router.log() and "Traceback" not in router.log()
        finally:
            await asyncio.to_thread(router.__exit__, None, None, None)


async def test_each_of_two_workers_takes_the_file_and_one_revision_is_made() -> None:
    async with Upstream(says("a")) as a, Upstream(says("b")) as b:
        router = RunningRouter(config_for({"a": a.url, "b": b.url}, server="workers: 2"))
        await asyncio.to_thread(router.__enter__)
        try:
            await both_up(router)  # one that starts now reads the changed file as its first
            text = config_for({"a": a.url, "b": b.url}, "split: {b: 1.0}\ntimeouts: {total_s: 9}", "workers: 2")
            router.file.write_text(_at(router, text))
            async with asyncio.timeout(10):
                while router.log().count("is in effect: models.jane; revision 2") < 2:
                    await asyncio.sleep(0.02)
            assert "revision 3" not in router.log()
        finally:
            await asyncio.to_thread(router.__exit__, None, None, None)


async def both_up(router: RunningRouter) -> None:
    """Return when each of the two workers answers for itself."""
    async with httpx.AsyncClient() as client, asyncio.timeout(20):
        up = [f'crossfade_worker_up{{worker="{number}"}} 1.0' for number in range(2)]
        said = ""
        while not all(each in said for each in up):
            said = (await client.get(f"{router.url}/metrics")).text


def _at(router: RunningRouter, text: str) -> str:
    """The text with the router's own port."""
    return text.replace("port: 8000", f"port: {router.config['server']['port']}")
