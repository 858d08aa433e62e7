"""What a changed file does to the door of a running router: keys, limits, names, paths; and what waits for the next start."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.reloading import Desk, desk_on
from tests.running import config_for
from tests.upstream import Upstream, answer, chat_answer, says, sends

ENV = {"FIRST": "one", "SECOND": "two", "TESTERS": "tester"}


def doors(a: Upstream, server: str) -> str:
    return config_for({"a": a.url}, server=server)


async def status_of(desk: Desk, key: str = "") -> int:
    headers = {"authorization": f"Bearer {key}"} if key else None
    return (await desk.router.chat(headers=headers)).status_code


async def test_other_keys_open_the_door_and_the_old_ones_do_not(tmp_path: Path) -> None:
    async with Upstream(says("a")) as a, desk_on(tmp_path, doors(a, "keys_env: FIRST"), ENV) as desk:
        assert (await status_of(desk, "one"), await status_of(desk, "two")) == (200, 401)
        await desk.change(doors(a, "keys_env: SECOND"))
        assert (await status_of(desk, "one"), await status_of(desk, "two")) == (401, 200)
        await desk.change(doors(a, "keys_env: SECOND\nallow_from: [127.0.0.0/8]"))
        assert await status_of(desk) == 200


async def test_a_group_that_stays_the_same_has_begun_what_it_has_begun(tmp_path: Path) -> None:
    group = "clients: [{key_env: TESTERS, calls_per_min: 1}]"
    async with Upstream(says("a")) as a, desk_on(tmp_path, doors(a, group), ENV) as desk:
        assert (await status_of(desk, "tester"), await status_of(desk, "tester")) == (200, 429)
        await desk.change(doors(a, f"{group}\nqueue_size: 7"))
        assert await status_of(desk, "tester") == 429
        await desk.change(doors(a, "clients: [{key_env: TESTERS, calls_per_min: 2}]"))
        assert await status_of(desk, "tester") == 200


async def test_the_size_of_bodies_and_the_number_of_calls_are_limited_anew(tmp_path: Path) -> None:
    async with Upstream(says("a")) as a, desk_on(tmp_path, doors(a, "max_in_flight: 1"), ENV) as desk:
        gate = desk.parts.admission.gate
        await desk.change(doors(a, "max_in_flight: 3\nmax_body_bytes: 20"))
        assert desk.parts.admission.gate is gate and gate.limit == 3
        assert await status_of(desk) == 413


async def test_more_places_let_in_who_waits(tmp_path: Path) -> None:
    async with Upstream(says("a")) as a, desk_on(tmp_path, doors(a, "max_in_flight: 1"), ENV) as desk:
        assert desk.parts.admission.gate.try_enter()
        waiting = asyncio.create_task(status_of(desk))
        await desk.until(lambda: desk.parts.admission.gate.waiting)
        await desk.change(doors(a, "max_in_flight: 2"))
        assert await waiting == 200
        desk.parts.admission.gate.leave()


async def test_another_name_is_known_to_clients_and_operators(tmp_path: Path) -> None:
    async with Upstream(says("a")) as a, desk_on(tmp_path, doors(a, ""), ENV) as desk:

        async def asked(path: str) -> int:
            return (await desk.router.client.get(path, headers={"host": "llm.example.org"})).status_code

        assert (await asked("/v1/models"), await asked("/admin/api/status")) == (421, 421)
        await desk.change(doors(a, "hosts: [llm.example.org]"))
        assert (await asked("/v1/models"), await asked("/admin/api/status")) == (200, 401)


async def test_paths_come_and_go_on_connections_that_stay(tmp_path: Path) -> None:
    async with Upstream(sends(answer(chat_answer()))) as a, desk_on(tmp_path, doors(a, ""), ENV) as desk:

        async def posted(path: str) -> int:
            return (await desk.router.client.post(path, json={"model": "jane"})).status_code

        assert (await posted("/v1/rerank"), await posted("/v1/mine")) == (200, 404)
        await desk.change(doors(a, "pass_paths: [/v1/mine]"))
        assert (await posted("/v1/rerank"), await posted("/v1/mine")) == (404, 200)
        assert await status_of(desk) == 200


async def test_what_only_a_start_can_change_is_said_and_the_rest_is_in_effect(tmp_path: Path) -> None:
    async with Upstream(says("a")) as a, desk_on(tmp_path, doors(a, ""), ENV) as desk:
        port = desk.parts.config.server.port
        await desk.change(doors(a, "drain_s: 3\nworkers: 2\nmax_in_flight: 9").replace("port: 8000", "port: 8001"))
        assert desk.parts.admission.gate.limit == 9 and desk.parts.config.server.port == port
        said = [f"server.{key}: takes effect at the next start" for key in ("port", "workers", "drain_s")]
        assert (await desk.ready())["file"] == {"at_next_start": said}
        await desk.change(doors(a, "max_in_flight: 9\nqueue_size: 5"))
        assert "file" not in await desk.ready()


async def test_where_the_store_is_to_be_another_it_is_not_named(tmp_path: Path) -> None:
    async with Upstream(says("a")) as a, desk_on(tmp_path, doors(a, ""), ENV) as desk:
        await desk.write(f"{doors(a, '')}\nstore: {{url: 'postgresql://me:secret@127.0.0.1/x'}}")
        await desk.until(lambda: desk.parts.file.at_next_start)
        assert (await desk.ready())["file"] == {"at_next_start": ["store.url: takes effect at the next start"]}
        assert "secret" not in str(desk.parts.file.report())
