"""The configuration file is changed while the router runs: noticed, put in effect in one step, or refused with everything as it was."""

from __future__ import annotations

import asyncio
import gc
import logging
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from router.faults import CallFailed
from router.fleet import LiveBackend, LiveModel, LiveReplica
from tests.reloading import desk_on, splits
from tests.running import config_for
from tests.upstream import END, STREAM_HEAD, Connection, Received, Upstream, chunked, event, says


async def test_a_changed_file_is_noticed_by_itself_and_becomes_a_revision(tmp_path: Path) -> None:
    async with Upstream(says("a")) as a, Upstream(says("b")) as b, desk_on(tmp_path, splits(a, b, 1.0)) as desk:
        first = await desk.router.chat()
        await desk.write(splits(a, b, 0.0))
        async with asyncio.timeout(5):
            while (await desk.router.chat()).headers["x-crossfade-backend"] != "b":
                await asyncio.sleep(0.05)
        last = desk.parts.journal.last
        assert last is not None and (last.kind.value, last.number) == ("file", 2)
        answered = await desk.router.chat()
        assert [each.headers["x-crossfade-revision"] for each in (first, answered)] == ["1", "2"]


async def test_an_invalid_file_is_refused_with_its_lines_and_nothing_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Upstream(says("a")) as a, Upstream(says("b")) as b, desk_on(tmp_path, splits(a, b, 1.0)) as desk:
        before = desk.fleet.models["jane"]
        with caplog.at_level(logging.ERROR, "crossfade.config"):
            said = await desk.refused(splits(a, b, 1.0).replace("b: 0.0", "b: 0.3"))
            await asyncio.sleep(1.2)  # two further looks say nothing new
        assert len(said) == 1 and "models.jane.split" in said[0] and f"{desk.file}:9:" in said[0]
        assert [record.getMessage() for record in caplog.records].count(
            f"the file is refused, and nothing was changed: {said[0]}"
        ) == 1
        assert desk.fleet.models["jane"] is before
        ready = await desk.ready()
        assert ready["status"] == "ready" and "models.jane.split is refused" in ready["file"]["refused"][0]
        await desk.write(splits(a, b, 1.0))
        await desk.until(lambda: not desk.parts.file.refused)
        assert "file" not in await desk.ready()


@dataclass
class Story:
    """The script of a backend that streams one word, and the rest when it may."""

    may_end: asyncio.Event = field(default_factory=asyncio.Event)
    began: int = 0

    async def __call__(self, _request: Received, connection: Connection) -> None:
        words = [event({"role": "assistant", "content": ""}), event({"content": "Once "})]
        await connection.write(STREAM_HEAD, *map(chunked, words))
        self.began += 1
        await self.may_end.wait()
        rest = [event({"content": "upon a time"}), event({}, "stop"), b"data: [DONE]\n\n"]
        await connection.write(*map(chunked, rest), END)


async def test_a_stream_on_a_backend_that_is_replaced_ends_well_on_the_old_one(tmp_path: Path) -> None:
    story = Story()
    async with (
        Upstream(story) as old,
        Upstream(says("new")) as new,
        desk_on(tmp_path, config_for({"a": old.url})) as desk,
    ):
        pool = desk.fleet.backends["a"].replicas[0].server.pool
        running = asyncio.create_task(desk.router.chat(stream=True))
        await desk.until(lambda: story.began)
        await desk.change(config_for({"a": new.url}))
        assert (await desk.router.chat()).json()["choices"][0]["message"]["content"] == "new"
        story.may_end.set()
        told = (await running).text
        assert "upon a time" in told and told.rstrip().endswith("[DONE]")
        await desk.until(lambda: pool.idle == 0)
        assert len(old.received) == 1


async def test_a_model_that_is_gone_is_a_404_and_its_stream_ends_well(tmp_path: Path) -> None:
    story = Story()
    async with Upstream(story) as a, desk_on(tmp_path, config_for({"a": a.url})) as desk:
        running = asyncio.create_task(desk.router.chat(stream=True))
        await desk.until(lambda: story.began)
        await desk.change(config_for({"a": a.url}).replace("  jane:", "  kim:"))
        assert (await desk.router.chat()).status_code == 404
        assert [each["id"] for each in (await desk.router.client.get("/v1/models")).json()["data"]] == ["kim"]
        story.may_end.set()
        assert "upon a time" in (await running).text
        kim = asyncio.create_task(desk.router.chat(model="kim", stream=True))
        assert "upon a time" in (await kim).text
        metrics = (await desk.router.client.get("/metrics")).text
        assert 'crossfade_in_rotation{backend="a",model="kim"' in metrics
        assert 'crossfade_in_rotation{backend="a",model="jane"' not in metrics
        last = desk.parts.journal.last
        assert last is not None and list(last.state.models) == ["kim"]


async def test_a_call_that_waits_for_room_while_its_model_goes_is_a_404(tmp_path: Path) -> None:
    story = Story()
    async with Upstream(story) as a:
        text = config_for({"a": a.url}, server="max_in_flight: 1")
        async with desk_on(tmp_path, text) as desk:
            first = asyncio.create_task(desk.router.chat(stream=True))
            await desk.until(lambda: story.began)
            second = asyncio.create_task(desk.router.chat())
            await desk.until(lambda: desk.parts.admission.gate.waiting)
            await desk.change(text.replace("  jane:", "  kim:"))
            story.may_end.set()
            assert (await first).status_code == 200
            assert (await second).status_code == 404


async def test_no_call_fails_while_the_file_changes_and_changes_back_under_load(tmp_path: Path) -> None:
    async with Upstream(says("a")) as a, Upstream(says("b")) as b, Upstream(says("c")) as c:
        files = [
            config_for({"a": a.url, "b": b.url}, "split: {a: 0.5, b: 0.5}"),
            config_for({"a": a.url, "b": c.url}, "split: {a: 0.5, b: 0.5}"),
            config_for({"a": a.url, "b": b.url}, "split: {a: 0.1, b: 0.9}\nretry: {attempts_per_backend: 1}"),
            config_for({"c": c.url}, server="max_in_flight: 300"),
        ]
        async with desk_on(tmp_path, files[0]) as desk:
            is_over = asyncio.Event()
            statuses: list[int] = []

            async def client() -> None:
                while not is_over.is_set():
                    statuses.append((await desk.router.chat(stream=len(statuses) % 2 == 0)).status_code)

            clients = [asyncio.create_task(client()) for _ in range(8)]
            for _ in range(3):
                for text in (*files[1:], files[0]):
                    await desk.change(text)
            is_over.set()
            await asyncio.gather(*clients)
            assert len(statuses) > 50 and set(statuses) == {200}
            assert 'result="failed"' not in (await desk.router.client.get("/metrics")).text


async def test_a_new_model_and_a_new_backend_are_served_and_watched(tmp_path: Path) -> None:
    async with Upstream(says("a")) as a, Upstream(says("b")) as b, desk_on(tmp_path, config_for({"a": a.url})) as desk:
        text = config_for({"a": a.url, "b": b.url}) + "\n  kim: {on: {b: real-kim}, split: {b: 1.0}}"
        await desk.change(text)
        assert (await desk.router.chat(model="kim")).headers["x-crossfade-backend"] == "b"
        await desk.until(lambda: desk.fleet.backends["b"].replicas[0].probed_at_s is not None)


async def test_changes_leave_no_task_no_connection_and_no_backend_behind(tmp_path: Path) -> None:
    async with Upstream(says("a")) as a, Upstream(says("b")) as b, desk_on(tmp_path, config_for({"a": a.url})) as desk:
        texts = [
            config_for({"a": url}, f"split: {{a: 1.0}}\ntimeouts: {{total_s: {n}}}")
            for n, url in ((30, b.url), (40, a.url))
        ]

        async def settled() -> tuple[int, int]:
            await desk.until(lambda: not desk.reload._errands)
            gc.collect()
            alive = [each for each in gc.get_objects() if isinstance(each, LiveBackend | LiveModel | LiveReplica)]
            return len(asyncio.all_tasks()), len(alive)

        for text in texts:
            await desk.change(text)
            await desk.router.chat()
        before = await settled()
        for number in range(8):
            for text in texts:
                await desk.change(f"{text}\n# {number}")
                if number % 2 == 0:
                    await desk.router.chat()
        tasks, alive = await settled()
        assert alive == before[1]
        assert tasks <= before[0] + 2  # connections of the last ones are read by a task each, in the scripted backends


async def test_a_stored_response_is_found_on_the_backend_that_took_the_place_and_not_on_one_that_is_gone(
    tmp_path: Path,
) -> None:
    async with Upstream(says("a")) as a, Upstream(says("b")) as b, desk_on(tmp_path, config_for({"a": a.url})) as desk:
        owners = desk.parts.owners
        shown = owners.mark("jane", "a", desk.fleet.backends["a"].replicas[0])("resp_1")
        await desk.change(config_for({"a": a.url, "b": b.url}).replace(f"url: {a.url}", f"url: {a.url}, verify: false"))
        assert owners.find(shown).replica is desk.fleet.backends["a"].replicas[0]
        await desk.change(config_for({"b": b.url}))
        with pytest.raises(CallFailed):
            owners.find(shown)


async def test_a_call_to_a_stored_response_that_waits_while_its_backend_goes_is_a_404(tmp_path: Path) -> None:
    async with Upstream(says("a")) as a, Upstream(says("b")) as b:
        text = config_for({"a": a.url, "b": b.url}, server="max_in_flight: 1")
        async with desk_on(tmp_path, text) as desk:
            shown = desk.parts.owners.mark("jane", "a", desk.fleet.backends["a"].replicas[0])("resp_1")
            assert desk.parts.admission.gate.try_enter()
            asking = asyncio.create_task(desk.router.client.get(f"/v1/responses/{shown}"))
            await desk.until(lambda: desk.parts.admission.gate.waiting)
            await desk.change(config_for({"b": b.url}, server="max_in_flight: 1"))
            desk.parts.admission.gate.leave()
            answered = await asking
            assert (answered.status_code, answered.json()["error"]["code"]) == (404, "response_not_found")
        assert a.received == []
