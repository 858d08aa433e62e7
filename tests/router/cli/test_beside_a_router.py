"""The commands beside a running router: through its admin API, in force at once, and every refusal one sentence."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.router.cli.commands import KEY, Desk, desk_beside_a_router, document, run
from tests.serving import RunningRouter, free_port
from tests.upstream import Upstream, says

MOVED = "jane: a 95 % -> 75 %, b 5 % -> 25 %; about 20 % of callers move, none back\n"


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk_beside_a_router(tmp_path) as given:
        yield given


async def revision_of(desk: Desk) -> int:
    assert desk.router is not None
    return int((await desk.router.chat()).headers["x-crossfade-revision"])


async def test_a_shift_is_said_in_sentences_and_in_force_with_the_next_call(desk: Desk) -> None:
    result = await desk.ask("shift", "jane", "b=25%", "--reason", "canary")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{MOVED}revision 2\n", "")
    assert await revision_of(desk) == 2


async def test_a_rollback_takes_it_back_and_the_history_names_who_asked(desk: Desk) -> None:
    await desk.ask("shift", "jane", "b=25%", "--reason", "canary")
    result = await desk.ask("rollback", "jane", "--reason", "vllm is slow")
    assert (result.exit_code, await revision_of(desk)) == (0, 3)
    lines = (await desk.ask("history", "jane")).stdout.splitlines()
    assert re.fullmatch(
        r"revision 3  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}  rollback to revision 1 by operator: \S+@\S+: vllm is slow",
        lines[0],
    )


async def test_json_is_one_document(desk: Desk) -> None:
    made = document(await desk.ask("shift", "jane", "b=0.25", "--reason", "canary", "--json"))
    assert (made["revision"]["number"], made["changed"], made["through"]) == (2, True, "router")
    assert made["changes"] == [MOVED.strip()]
    assert document(await desk.ask("history", "jane", "--limit", "1", "--json"))["revisions"][0]["number"] == 2


async def test_a_backend_is_drained_and_comes_back(desk: Desk) -> None:
    assert (await desk.ask("drain", "a")).stdout == "a: takes no new calls\nrevision 2\n"
    assert desk.router is not None
    assert (await desk.router.chat()).headers["x-crossfade-backend"] == "b"
    assert (await desk.ask("undrain", "a")).stdout == "a: takes calls again\nrevision 3\n"


async def test_one_replica_is_drained_by_its_url(desk: Desk) -> None:
    url = document(await desk.ask("status", "--json"))["models"]["jane"]["backends"]["a"]["replicas"][0]["url"]
    assert (await desk.ask("drain", f"a/{url}")).stdout == f"a/{url}: takes no new calls\nrevision 2\n"
    assert "draining" in (await desk.ask("status")).stdout.splitlines()[4]


async def test_a_ramp_is_paused_and_goes_on(desk: Desk) -> None:
    began = await desk.ask("shift", "jane", "b=1", "--over", "2h", "--reason", "go")
    assert began.stdout == "jane: moves in small steps over 2 h: a to 0 %, b to 100 %\nrevision 2\n"
    assert (await desk.ask("shift", "jane", "--pause", "--reason", "x")).stdout.startswith("jane: stands still")
    assert (await desk.ask("shift", "jane", "--resume", "--reason", "x")).stdout.startswith("jane: goes on\n")


REFUSALS = {
    "shares beyond 1": (("shift", "jane", "a=0.9", "b=0.9"), "the shares sum to 1.8; they may sum to 1 at most."),
    "an unknown model": (("shift", "jack", "b=1"), "there is no model jack; there are jane."),
    "a model whose name needs quoting": (("shift", "a/b ?", "b=1"), "there is no model a/b ?; there are jane."),
    "an unknown backend": (("shift", "jane", "gpu=1"), "jane is not served by gpu; it is served by a, b."),
    "a blank reason": (("rollback", "jane", "--reason", " "), "reason must not be blank."),
    "nothing to go back to": (("rollback", "jane"), "jane has no earlier state to go back to."),
    "a revision that is not there": (("rollback", "jane", "--to", "9"), "there is no revision 9; the last is 1."),
    "a backend that is not there": (("drain", "gpu"), "there is no backend gpu; there are a, b."),
    "a replica that is not draining": (("undrain", "a/http://x"), "a/http://x is not draining."),
    "a ramp that is not there": (("shift", "jane", "--pause"), "jane is not moving."),
    "a history of nobody": (("history", "jack"), "there never was a model jack."),
}


@pytest.mark.parametrize(("words", "said"), REFUSALS.values(), ids=REFUSALS)
async def test_a_refusal_is_one_sentence_and_changes_nothing(desk: Desk, words: tuple[str, ...], said: str) -> None:
    reason = ("--reason", "r") if words[0] == "shift" else ()
    result = await desk.ask(*words, *reason)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"{said}\n")
    assert document(await desk.ask(*words, *reason, "--json"))["error"]["message"] == said
    assert await revision_of(desk) == 1


async def test_a_backend_that_is_not_well_gets_callers_by_force_only(tmp_path: Path) -> None:
    async with desk_beside_a_router(tmp_path) as desk:
        text = desk.file.read_text()
    nowhere = re.sub(r"(b: \{kind: vllm, url: )\S+\}", r"\1http://127.0.0.1:9}", text)
    with RunningRouter(nowhere, env={"CROSSFADE_ADMIN_KEY": KEY}, until="live") as router:
        words = ("shift", "jane", "b=1", "--reason", "r", "--url", router.url)
        env = {"CROSSFADE_ADMIN_KEY": KEY}
        refused = await asyncio.to_thread(run, *words, env=env)
        forced = await asyncio.to_thread(run, *words, "--force", env=env)
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert refused.stderr.startswith("b is not fit for calls of jane: http://127.0.0.1:9 ")
    assert (forced.exit_code, forced.stdout.splitlines()[-1]) == (0, "revision 2")


async def test_a_wrong_key_and_no_key_are_refused_with_where_the_key_is(desk: Desk) -> None:
    wrong = await desk.ask("history", "jane", key="wrong")
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert wrong.stderr == (
        "The admin API needs an admin key: authorization: Bearer KEY. Set CROSSFADE_ADMIN_KEY, or run this as the "
        f"user who runs the router: its key is in {desk.file.parent}/crossfade.db.admin-key.\n"
    )
    alone = await asyncio.to_thread(run, "history", "jane", "--url", desk.url)
    assert alone.stderr.endswith(" Set CROSSFADE_ADMIN_KEY to the router's admin key.\n")


async def test_a_key_that_no_header_can_carry_is_not_sent(desk: Desk) -> None:
    env = {"CROSSFADE_ADMIN_KEY": "two words"}
    result = await asyncio.to_thread(run, "history", "jane", "--url", desk.url, env=env)
    assert result.exit_code == 1
    assert result.stderr.startswith("The admin key holds what no header may carry; ")


async def test_a_kept_key_that_is_none_is_said_to_be_none(desk: Desk) -> None:
    kept = desk.file.parent / "crossfade.db.admin-key"
    kept.write_text("short\n")
    result = await desk.ask("history", "jane", key="")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith(f"Bearer KEY. {kept} holds no key; remove it, and the next start makes one.\n")


async def test_a_reason_is_shown_as_far_as_the_terminal_has_letters_for_it(desk: Desk) -> None:
    await desk.ask("shift", "jane", "b=0.25", "--reason", "für heute → 25")
    env = {**os.environ, "PYTHONIOENCODING": "latin-1", "CROSSFADE_ADMIN_KEY": KEY}
    command = (sys.executable, "-c", "from router.cli import main; main()")
    for words in (("history", "jane"), ("status",), ("check", "--against", desk.url)):
        process = await asyncio.create_subprocess_exec(
            *command, *words, "-c", str(desk.file), env=env, stdout=-1, stderr=-1
        )
        said, errors = await process.communicate()
        assert (process.returncode, errors) == (0, b"")
        assert words[0] != "history" or "für heute ? 25" in said.decode("latin-1")


async def test_an_address_is_enough_with_the_key_in_the_environment(desk: Desk) -> None:
    env = {"CROSSFADE_ADMIN_KEY": KEY}
    result = await asyncio.to_thread(
        run, "shift", "jane", "b=0.25", "--reason", "r", "--url", f"{desk.url}/v1/", env=env
    )
    assert (result.exit_code, result.stdout) == (0, f"{MOVED}revision 2\n")


async def test_the_file_of_the_environment_is_the_default(desk: Desk) -> None:
    env = {"CROSSFADE_ADMIN_KEY": KEY, "CROSSFADE_CONFIG": str(desk.file)}
    assert (await asyncio.to_thread(run, "history", "jane", env=env)).exit_code == 0


async def test_the_key_that_the_router_made_is_found_beside_the_store_and_its_own_listener_by_the_file(
    tmp_path: Path,
) -> None:
    async with Upstream(says("from a")) as a:
        config = {
            "server": {"admin": {"host": "127.0.0.1", "port": free_port()}},
            "backends": {"a": {"kind": "vllm", "url": a.url}},
            "models": {"jane": {"on": {"a": "real"}, "split": {"a": 1.0}}},
            "store": {"url": "sqlite:///crossfade.db"},
        }
        with RunningRouter(config) as router:
            result = await asyncio.to_thread(run, "history", "jane", "-c", str(router.file))
            assert (router.folder / "crossfade.db.admin-key").stat().st_mode & 0o777 == 0o600
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[1] == "    jane: is new"


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda text: text.replace("{a: 0.95", "{a: 0.5"), id="shares that do not sum to 1"),
        pytest.param(
            lambda text: text.replace("kind: vllm", "kind: vllm, key_env: NOT_SET_HERE"),
            id="a variable that is not set in this shell",
        ),
        pytest.param(lambda text: text + "servr: {}\n", id="a key that is none"),
    ],
)
async def test_a_file_with_problems_keeps_nobody_from_taking_a_shift_back(
    desk: Desk, broken: Callable[[str], str]
) -> None:
    await desk.ask("shift", "jane", "b=0.25", "--reason", "canary")
    desk.file.write_text(broken(desk.file.read_text()))
    result = await desk.ask("rollback", "jane")
    assert (result.exit_code, result.stdout.splitlines()[-1], result.stderr) == (0, "revision 3", "")
    assert (await desk.ask("status")).exit_code == 0


async def test_a_file_that_does_not_say_where_its_router_is_is_told_with_its_problems(desk: Desk) -> None:
    for text, said in (
        (re.sub(r"port: \d+", "port: zero", desk.file.read_text()), "server.port"),
        ("server: {port: 1", "This is not YAML"),
    ):
        desk.file.write_text(text)
        result = await desk.ask("rollback", "jane")
        assert (result.exit_code, result.stdout) == (1, "")
        assert said in result.stderr and result.stderr.count("\n") == 1
