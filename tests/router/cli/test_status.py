"""`crossfade status`: what stands in it, how it ends, and that it goes on looking until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from router.cli.status_table import is_well, table
from tests.router.cli.commands import KEY, Desk, desk_alone, desk_beside_a_router, document, run

REPLICA = {"url": "http://10.0.0.1:8001", "state": "in_rotation", "reason": "", "in_flight": 3, "is_draining": False}


def status_with(**changes: Any) -> dict[str, Any]:
    """The status of one model on two backends, changed at the top or (`model`) in the model."""
    model = {
        "split": {"lmstudio": 0.75, "vllm": 0.25},
        "file_split": {"lmstudio": 0.95, "vllm": 0.05},
        "drift": False,
        "ramp": None,
        "backends": {
            "lmstudio": {"share": 0.75, "draining": False, "replicas": [REPLICA]},
            "vllm": {"share": 0.25, "draining": False, "replicas": [REPLICA, REPLICA]},
        },
        **changes.pop("model", {}),
    }
    whole: dict[str, Any] = {
        "revision": 7,
        "at_s": None,
        "draining": [],
        "store": {"url": "x", "trouble": ""},
        "file": None,
    }
    return {**whole, "models": {"jane": model}, **changes}


def drawn(status: dict[str, Any], width: int = 80) -> list[str]:
    console = Console(width=width, highlight=False, color_system=None)
    with console.capture() as captured:
        console.print(table(status, "http://r:8000"))
    lines = [line.rstrip() for line in captured.get().splitlines()]
    assert max(map(len, lines)) <= width
    return lines


def test_each_replica_is_a_row_with_its_backends_share() -> None:
    assert drawn(status_with()) == [
        "http://r:8000  revision 7",
        "",
        "jane       share   replica                state         calls",
        "─────────────────────────────────────────────────────────────",
        "lmstudio    75 %   http://10.0.0.1:8001   in rotation       3",
        "vllm        25 %   http://10.0.0.1:8001   in rotation       3",
        "                   http://10.0.0.1:8001   in rotation       3",
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param(
            {"model": {"drift": True}},
            "jane is not as the file says; `crossfade shift --write` writes shares there",
            id="drift",
        ),
        pytest.param(
            {
                "model": {
                    "ramp": {
                        "target": {"vllm": 1.0},
                        "over_s": 7200.0,
                        "done_share": 0.37,
                        "is_paused": False,
                        "next_s": 45.2,
                    }
                }
            },
            "jane moves: 37 % of the way to vllm 100 % over 2 h; the next step in 45 s",
            id="a ramp",
        ),
        pytest.param(
            {
                "model": {
                    "ramp": {
                        "target": {"vllm": 1.0},
                        "over_s": 90.0,
                        "done_share": 0.5,
                        "is_paused": True,
                        "next_s": None,
                    }
                }
            },
            "jane moves: 50 % of the way to vllm 100 % over 1 min 30 s; it stands still",
            id="a ramp that is paused",
        ),
        pytest.param(
            {"store": {"url": "x", "trouble": "the store x is full"}},
            "store: the store x is full; nothing can be changed",
            id="a store in trouble",
        ),
        pytest.param(
            {"file": {"refused": ["c.yaml:3: models is empty."], "at_next_start": []}},
            "the file is refused: c.yaml:3: models is empty.",
            id="a file that is refused",
        ),
        pytest.param(
            {"file": {"refused": [], "at_next_start": ["server.port: takes effect at the next start"]}},
            "server.port: takes effect at the next start",
            id="a key that waits for a start",
        ),
        pytest.param({"draining": ["vllm"]}, "draining: vllm", id="a backend that is draining"),
        pytest.param({"notices": ["all are let in"]}, "all are let in", id="a notice"),
    ],
)
def test_what_is_not_as_it_should_be_is_a_line_of_its_own(changes: dict[str, Any], said: str) -> None:
    assert said in drawn(status_with(**changes))
    assert said not in drawn(status_with())


def test_shares_of_the_file_stand_beside_those_in_force_only_where_they_differ() -> None:
    assert drawn(status_with(model={"drift": True}))[4].split()[:5] == ["lmstudio", "75", "%", "95", "%"]


def test_a_narrow_terminal_folds_and_what_others_wrote_steers_none() -> None:
    ejected = {**REPLICA, "state": "ejected", "reason": "\x1b[2J refused [red]the connection"}
    lines = drawn(
        status_with(model={"backends": {"vllm": {"share": 1.0, "draining": False, "replicas": [ejected]}}}), 48
    )
    assert not any("\x1b" in line for line in lines)
    assert "[red]" in "".join(line.replace(" ", "") for line in lines)


def test_a_model_without_a_replica_in_rotation_is_not_well() -> None:
    out = {**REPLICA, "state": "ejected"}
    backends = {"vllm": {"share": 1.0, "draining": False, "replicas": [out]}}
    assert is_well(status_with()) and not is_well(status_with(model={"backends": backends}))


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk_beside_a_router(tmp_path) as given:
        yield given


async def test_a_running_router_is_shown_with_its_revision(desk: Desk) -> None:
    await desk.ask("shift", "jane", "b=0.25", "--reason", "canary")
    result = await desk.ask("status")
    lines = result.stdout.splitlines()
    assert (result.exit_code, result.stderr) == (0, "")
    assert lines[0].startswith(f"{desk.url}  revision 2 since ")
    assert lines[4].split()[:5] == ["a", "75", "%", "95", "%"]
    assert document(await desk.ask("status", "--json"))["revision"] == 2


def test_a_store_alone_shows_the_shares_and_ends_with_1(tmp_path: Path) -> None:
    desk = desk_alone(tmp_path)
    desk.run("shift", "jane", "b=0.25", "--reason", "canary", "--force")
    result = desk.run("status")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0].startswith("not running  revision 2 since ")
    assert result.stdout.splitlines()[4].split()[:5] == ["a", "75", "%", "95", "%"]
    assert result.stderr == f"{desk.gone}; this is what its store {desk.store} holds.\n"
    assert document(desk.run("status", "--json"))["through"] == "store"


def test_a_router_that_never_ran_shows_the_files_shares_and_makes_no_store(tmp_path: Path) -> None:
    desk = desk_alone(tmp_path)
    result = desk.run("status")
    assert result.stdout.splitlines()[0] == "not running  no revision yet"
    assert [each.name for each in tmp_path.iterdir()] == ["crossfade.yaml"]


def test_watching_and_one_document_exclude_each_other() -> None:
    assert run("status", "--watch", "--json").exit_code == 2


async def watching(desk: Desk, key: str = KEY) -> asyncio.subprocess.Process:
    command = (sys.executable, "-c", "from router.cli import main; main()", "status", "--watch", "-c", str(desk.file))
    env = {**os.environ, "CROSSFADE_ADMIN_KEY": key}
    return await asyncio.create_subprocess_exec(*command, env=env, stdout=-1, stderr=-1)


async def until_said(process: asyncio.subprocess.Process, begin: str) -> None:
    assert process.stdout is not None
    while not (line := await process.stdout.readline()).startswith(begin.encode()):
        assert line, "it ended"


async def test_watching_goes_on_until_ctrl_c_and_ends_with_0(desk: Desk) -> None:
    process = await watching(desk)
    await until_said(process, desk.url)
    await until_said(process, desk.url)
    process.send_signal(signal.SIGINT)
    _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")


async def test_watching_waits_for_a_router_that_has_gone(desk: Desk) -> None:
    process = await watching(desk)
    await until_said(process, desk.url)
    assert desk.router is not None
    desk.router.stop()
    await until_said(process, "The router at ")
    process.send_signal(signal.SIGINT)
    _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")


async def test_watching_ends_where_nothing_will_be_told(desk: Desk) -> None:
    process = await watching(desk, "wrong")
    said, errors = await process.communicate()
    assert (process.returncode, said, errors.count(b"\n")) == (1, b"", 1)
