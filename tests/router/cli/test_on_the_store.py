"""The commands while no router answers: they change its store, say so in one line, and the next start goes on from there."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.router.cli.commands import Desk, desk_alone, desk_beside_a_router, document, run
from tests.serving import RunningRouter, free_port
from tests.upstream import Upstream, says

MOVED = "jane: a 95 % -> 75 %, b 5 % -> 25 %; about 20 % of callers move, none back\n"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return desk_alone(tmp_path)


def shift(desk: Desk, *words: str) -> object:
    return desk.run("shift", "jane", *words, "--reason", "canary", "--force")


def test_a_shift_is_made_in_the_store_and_said_to_be(desk: Desk) -> None:
    result = desk.run("shift", "jane", "b=25%", "--reason", "canary", "--force")
    assert (result.exit_code, result.stdout) == (0, f"{MOVED}revision 2\n")
    assert result.stderr == (
        f"{desk.gone}; changed in its store {desk.store}: it takes effect when the router starts.\n"
    )


def test_what_is_so_already_is_no_new_revision(desk: Desk) -> None:
    shift(desk, "b=25%")
    result = desk.run("shift", "jane", "b=0.25", "--reason", "again", "--force")
    assert (result.exit_code, result.stdout) == (0, "revision 2 has it so already\n")
    assert "; nothing was to be changed in its store " in result.stderr


def test_a_second_rollback_goes_one_further_back_and_a_third_finds_nothing(desk: Desk) -> None:
    shift(desk, "b=0.25")
    shift(desk, "b=0.5")
    first, second, third = (desk.run("rollback", "jane") for _ in range(3))
    assert first.stdout.startswith("jane: a 50 % -> 75 %, b 50 % -> 25 %; ")
    assert second.stdout.startswith("jane: a 75 % -> 95 %, b 25 % -> 5 %; ")
    assert (third.exit_code, third.stdout) == (1, "")
    assert third.stderr == (
        f"{desk.gone}; in its store {desk.store} nothing was changed: jane has no earlier state to go back to.\n"
    )


def test_a_rollback_to_a_revision_restores_it(desk: Desk) -> None:
    for share in ("b=0.25", "b=0.5", "b=0.75"):
        shift(desk, share)
    result = desk.run("rollback", "jane", "--to", "2", "--json")
    made = document(result)
    assert (made["revision"]["number"], made["revision"]["restores"], made["through"]) == (5, 2, "store")
    assert made["revision"]["after"]["split"] == {"a": 0.75, "b": 0.25}


def test_the_history_is_newest_first_and_says_who_when_why_and_what(desk: Desk) -> None:
    shift(desk, "b=0.25")
    desk.run("rollback", "jane", "--reason", "vllm is slow")
    result = desk.run("history", "jane")
    lines = result.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[::2]] == ["revision 3", "revision 2", "revision 1"]
    assert " rollback to revision 1 by operator: " in lines[0] and lines[0].endswith(": vllm is slow")
    assert lines[1] == "    jane: a 75 % -> 95 %, b 25 % -> 5 %; about 20 % of callers move, none back"
    assert lines[4].endswith(" start by crossfade: the file, read by the command line")
    assert result.stderr == f"{desk.gone}; this is what its store {desk.store} holds.\n"


def test_looking_at_the_history_makes_no_store(desk: Desk) -> None:
    result = desk.run("history", "jane")
    assert (result.exit_code, result.stdout) == (
        0,
        "jane has no history yet; it begins with the router's first start.\n",
    )
    assert [each.name for each in desk.file.parent.iterdir()] == ["crossfade.yaml"]


def test_draining_is_kept_once(desk: Desk) -> None:
    assert desk.run("drain", "b").stdout == "b: takes no new calls\nrevision 2\n"
    again = desk.run("drain", "b")
    assert (again.exit_code, again.stderr.endswith("nothing was changed: b is draining already.\n")) == (1, True)
    assert desk.run("undrain", "b").stdout == "b: takes calls again\nrevision 3\n"


def test_a_ramp_begins_stands_still_and_goes_on(desk: Desk) -> None:
    began = desk.run("shift", "jane", "b=1.0", "--over", "2h", "--reason", "go", "--force")
    paused = desk.run("shift", "jane", "--pause", "--reason", "lunch")
    resumed = desk.run("shift", "jane", "--resume", "--reason", "back")
    assert began.stdout == "jane: moves in small steps over 2 h: a to 0 %, b to 100 %\nrevision 2\n"
    assert paused.stdout == "jane: stands still on its way\nrevision 3\n"
    assert resumed.stdout == "jane: goes on\nrevision 4\n"
    assert desk.run("shift", "jane", "--resume", "--reason", "x").stderr.endswith(
        "nothing was changed: jane has no ramp that was paused.\n"
    )


REFUSALS = {
    "shares beyond 1": (("jane", "a=0.9", "b=0.9"), "the shares sum to 1.8; they may sum to 1 at most."),
    "shares that leave a rest to nobody": (
        ("jane", "a=0.5", "b=0.4"),
        "the shares sum to 0.9, and no other backend has a share to take the rest; name one.",
    ),
    "a share above 1": (("jane", "b=25"), "the share of b is 25; a share is between 0 and 1."),
    "a share below 0": (("jane", "b=-0.1"), "the share of b is -0.1; a share is between 0 and 1."),
    "an unknown model": (("jack", "b=1"), "there is no model jack; there are jane."),
    "an unknown backend": (("jane", "gpu=1"), "jane is not served by gpu; it is served by a, b."),
    "a blank reason": (("jane", "b=1", "--reason", " "), "reason must not be blank."),
    "no time to take": (("jane", "b=1", "--over", "0s"), "over_s is too small."),
}


@pytest.mark.parametrize(("words", "said"), REFUSALS.values(), ids=REFUSALS)
def test_what_makes_no_sense_is_one_sentence_and_changes_nothing(desk: Desk, words: tuple[str, ...], said: str) -> None:
    result = desk.run("shift", "--reason", "r", "--force", *words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"{desk.gone}; in its store {desk.store} nothing was changed: {said}\n"
    as_json = desk.run("shift", "--reason", "r", "--force", *words, "--json")
    assert document(as_json)["error"]["message"] == result.stderr.strip()
    assert len(document(desk.run("history", "jane", "--json"))["revisions"]) <= 1


def test_a_backend_that_does_not_answer_its_probe_gets_no_callers_without_force(desk: Desk) -> None:
    result = desk.run("shift", "jane", "b=0.5", "--reason", "r")
    assert result.exit_code == 1
    assert "nothing was changed: b is not fit for calls of jane: http://127.0.0.1:" in result.stderr
    assert result.stderr.endswith(" does not answer its health probe; --force shifts there all the same.\n")
    assert len(document(desk.run("history", "jane", "--json"))["revisions"]) == 1


async def test_a_backend_that_is_well_is_probed_and_gets_its_callers(tmp_path: Path) -> None:
    async with Upstream(says("a")) as a, Upstream(says("b")) as b:
        desk = desk_alone(tmp_path, {"a": a.url, "b": b.url})
        result = await desk.ask("shift", "jane", "b=0.25", "--reason", "canary")
    assert (result.exit_code, result.stdout) == (0, f"{MOVED}revision 2\n")


def test_a_store_that_cannot_be_used_is_one_sentence(desk: Desk) -> None:
    desk.file.write_text(desk.file.read_text().replace(f"{desk.file.parent}/crossfade.db", "/proc/nowhere/x.db"))
    result = desk.run("shift", "jane", "b=0.5", "--reason", "r", "--force")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"{desk.gone}; in its store sqlite:////proc/nowhere/x.db nothing was changed: the ")
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.output


@pytest.mark.parametrize("words", [("rollback", "jane"), ("status",), ("history", "jane")], ids=" ".join)
def test_the_store_of_a_file_with_problems_is_left_alone(desk: Desk, words: tuple[str, ...]) -> None:
    desk.file.write_text(desk.file.read_text() + "servr: {}\n")
    result = desk.run(*words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"{desk.gone}; its store is left alone: {desk.file}:11: servr is not a key of the configuration. "
        "Did you mean `server`?\n"
    )


def test_only_an_address_leaves_no_store_to_use(desk: Desk) -> None:
    result = run("shift", "jane", "b=1", "--reason", "r", "--url", desk.url)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"{desk.gone}.\n")


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("sqlite", id="another on the same SQLite file"),
        pytest.param("postgresql", marks=pytest.mark.postgres, id="another on the same PostgreSQL"),
    ],
)
async def test_other_routers_on_the_store_follow_at_once(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    store = request.getfixturevalue("postgres").database() if kind == "postgresql" else ""
    async with desk_beside_a_router(tmp_path, store=store) as desk:
        assert desk.router is not None
        text = desk.file.read_text().replace(f"port: {desk.router.port}", f"port: {free_port()}")
        desk.file.write_text(text.replace("//crossfade@", "//crossfade:s3cret@"))
        result = await Desk(desk.file).ask("shift", "jane", "b=0.25", "--reason", "canary")
        async with asyncio.timeout(2):
            while (await desk.router.chat()).headers["x-crossfade-revision"] != "2":
                await asyncio.sleep(0.01)
    assert (result.exit_code, result.stdout) == (0, f"{MOVED}revision 2\n")
    if kind == "postgresql":
        assert result.stderr.endswith(": routers that share it follow at once.\n") and "s3cret" not in result.stderr


async def test_a_router_that_starts_goes_on_from_what_was_done_without_it(tmp_path: Path) -> None:
    """The file was changed before the command, so the command is the later one, though no router has read that file."""
    async with Upstream(says("from a")) as a, Upstream(says("from b")) as b:
        backends = {"a": {"kind": "vllm", "url": a.url}, "b": {"kind": "vllm", "url": b.url}}
        jane = {"on": dict.fromkeys(backends, "real"), "split": {"a": 1.0, "b": 0.0}}
        config = {"backends": backends, "models": {"jane": jane}, "store": {"url": f"sqlite:///{tmp_path}/s.db"}}
        with RunningRouter(config) as router:
            router.stop()
            jane["split"] = {"a": 0.5, "b": 0.5}
            router.file.write_text(json.dumps(router.config))
            await asyncio.to_thread(run, "shift", "jane", "b=1", "--reason", "r", "-c", str(router.file))
            await asyncio.to_thread(router.start)
            found = document(await asyncio.to_thread(run, "history", "jane", "--json", "-c", str(router.file)))
        assert [each["kind"] for each in found["revisions"]] == ["shift", "file", "start"]
        assert (found["through"], found["revisions"][0]["after"]["split"]) == ("router", {"a": 0.0, "b": 1.0})
