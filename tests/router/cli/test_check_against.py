"""`crossfade check --against`: what a changed file would do to a running router, and what it would leave as commands left it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from policies.revisions import ModelState, RoutingState
from router.admin.plain_config import plain_config
from router.cli.against import compared
from router.config import Config, loads
from tests.router.cli.commands import SPLIT, Desk, desk_beside_a_router, document

WHERE = ("http://r:8000", 7)


def config(split: str = "{lmstudio: 0.95, vllm: 0.05}", model: str = "", more: str = "", server: str = "{}") -> Config:
    text = f"""\
server: {server}
backends:
  lmstudio: {{kind: lmstudio, url: http://127.0.0.1:1234}}
  vllm: {{kind: vllm, url: http://127.0.0.1:8001}}
{more}
models:
  jane:
    on: {{lmstudio: a, vllm: b}}
    split: {split}
    {model}
"""
    return loads(text, {}).config


def found(file: Config, lmstudio: float = 0.95, there: Config | None = None) -> list[str]:
    running = RoutingState({"jane": ModelState({"lmstudio": lmstudio, "vllm": round(1 - lmstudio, 9)})})
    return list(compared(file, plain_config(there or config()), running, WHERE).lines())


def test_the_same_file_changes_nothing() -> None:
    assert found(config()) == ["It changes nothing at http://r:8000 (revision 7)."]


def test_shares_are_told_by_the_callers_that_move() -> None:
    assert found(config("{lmstudio: 0.75, vllm: 0.25}")) == [
        "At http://r:8000 (revision 7) it changes:",
        "  jane: lmstudio 95 % -> 75 %, vllm 5 % -> 25 %; about 20 % of callers move, none back",
    ]


def test_shares_that_the_file_leaves_stay_as_commands_left_them() -> None:
    assert found(config(), lmstudio=0.5) == [
        "It changes nothing at http://r:8000 (revision 7).",
        "jane stays as commands left it (lmstudio 50 %, vllm 50 %): its split in the file has not changed.",
    ]


def test_shares_that_the_file_changes_are_compared_with_those_in_force() -> None:
    assert found(config("{lmstudio: 0.25, vllm: 0.75}"), lmstudio=0.5)[1:] == [
        "  jane: lmstudio 50 % -> 25 %, vllm 50 % -> 75 %; about 25 % of callers move, none back"
    ]


def test_a_file_that_catches_up_with_a_command_changes_nothing() -> None:
    assert found(config("{lmstudio: 0.5, vllm: 0.5}"), lmstudio=0.5) == [
        "It changes nothing at http://r:8000 (revision 7)."
    ]


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        pytest.param(
            {"model": "timeouts: {first_token_s: 30}"},
            "models.jane.timeouts.first_token_s: 60 -> 30",
            id="a key of a model",
        ),
        pytest.param(
            {"model": "fallback: [vllm]"}, 'models.jane.fallback: ["lmstudio", "vllm"] -> ["vllm"]', id="a list"
        ),
        pytest.param({"model": "hedge: {after_s: 2}"}, "models.jane.hedge.after_s: unset -> 2", id="a new section"),
        pytest.param({"model": "sampling: {top_p: 0.5}"}, "models.jane.sampling.top_p: unset -> 0.5", id="free form"),
        pytest.param({"server": "{port: 8001}"}, "server.port: 8000 -> 8001 (with a restart only)", id="a restart"),
        pytest.param({"server": "{queue_size: 9}"}, "server.queue_size: 1024 -> 9", id="a key of the door"),
        pytest.param(
            {"more": "  cloud: {kind: openai, url: http://127.0.0.1:9}"}, "backends.cloud is new", id="a new backend"
        ),
    ],
)
def test_everything_else_is_told_by_its_key(changed: dict[str, Any], line: str) -> None:
    assert found(config(**changed))[1:] == [f"  {line}"]


def test_a_backend_and_a_model_that_go_are_said_to() -> None:
    there = config(more="  cloud: {kind: openai, url: http://127.0.0.1:9}")
    assert found(config(), there=there)[1:] == ["  backends.cloud is gone"]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk_beside_a_router(tmp_path) as given:
        given.file.write_text(re.sub(r"port: \d+", "port: 8000", given.file.read_text()))  # as the router was told
        yield given


def check(desk: Desk, *words: str) -> Any:
    return asyncio.to_thread(desk.run, "check", "--against", desk.url, *words)


async def test_the_running_router_is_asked_and_nothing_is_changed(desk: Desk) -> None:
    desk.file.write_text(desk.file.read_text().replace(SPLIT, "{a: 0.75, b: 0.25}"))
    result = await check(desk)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-3:] == [
        f"{desk.file} is valid: 2 backends, 1 model.",
        f"At {desk.url} (revision 1) it changes:",
        "  jane: a 95 % → 75 %, b 5 % → 25 %; about 20 % of callers move, none back",
    ]
    found = document(await check(desk, "--json"))
    assert found["valid"] and found["against"]["revision"] == 1
    assert found["against"]["changes"] == ["jane: a 95 % -> 75 %, b 5 % -> 25 %; about 20 % of callers move, none back"]


async def test_what_commands_did_stays_and_is_said(desk: Desk) -> None:
    await desk.ask("shift", "jane", "b=0.25", "--reason", "canary")
    assert (await check(desk)).stdout.splitlines()[-2:] == [
        f"It changes nothing at {desk.url} (revision 2).",
        "jane stays as commands left it (a 75 %, b 25 %): its split in the file has not changed.",
    ]


async def test_a_file_with_problems_is_not_compared(desk: Desk) -> None:
    desk.file.write_text(desk.file.read_text().replace(SPLIT, "{a: 0.5}"))
    result = await check(desk)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1] == f"{desk.file} is not valid: 1 problem."


async def test_a_router_that_does_not_answer_or_lets_nobody_in_is_one_sentence(desk: Desk) -> None:
    nobody = await desk.ask("check", "--against", "http://127.0.0.1:9")
    assert (nobody.exit_code, nobody.stdout) == (1, "")
    assert nobody.stderr == "The router at http://127.0.0.1:9 does not answer (Connection refused).\n"
    refused = await desk.ask("check", "--against", desk.url, key="wrong")
    assert (refused.exit_code, refused.stderr.startswith("The admin API needs an admin key: ")) == (1, True)
