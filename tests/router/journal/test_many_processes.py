"""Processes that append at once, and that are killed while they do: what was acknowledged is there, and nothing is there in part."""

from __future__ import annotations

import asyncio
import random
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import pytest

from router.journal.store import Kept
from tests.router.journal.keeping import kept, opened

ROOT = Path(__file__).parents[3]


async def appender(url: str, count: int) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.router.journal.appending", url, str(count), stdout=PIPE, cwd=ROOT
    )


def acknowledged(printed: bytes) -> dict[int, str]:
    """By number, the key of what was appended; a line that a killed process did not end is none."""
    lines = [line.split() for line in printed.decode().splitlines(keepends=True) if line.endswith("\n")]
    return {int(number): key for number, key in lines}


def are_whole(found: list[Kept]) -> bool:
    """One after another without a gap, each as it was appended."""
    return found == [kept(n, key=each.key) for n, each in enumerate(found, 1)]


async def test_eight_processes_that_append_at_once_all_find_their_place_in_one_row(url: str) -> None:
    processes = [await appender(url, 6) for _ in range(8)]
    printed = [(await process.communicate())[0] for process in processes]
    acked = [acknowledged(each) for each in printed]
    assert [len(each) for each in acked] == [6] * 8
    async with opened(url) as store:
        found = await store.after(0)
    assert are_whole(found)
    assert {each.revision.number: each.key for each in found} == {n: key for each in acked for n, key in each.items()}


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_what_processes_killed_in_the_middle_had_been_acknowledged_is_there_and_the_others_go_on(
    url: str, seed: int
) -> None:
    rng = random.Random(seed)
    killed = [await appender(url, 1_000_000) for _ in range(3)]
    printed = [await until_lines(process, rng.randint(1, 12)) for process in killed]
    for process in killed:
        await asyncio.sleep(rng.random() / 50)  # anywhere in an append
        process.kill()
    rest = [(await process.communicate())[0] for process in killed]
    acked = [acknowledged(before + after) for before, after in zip(printed, rest, strict=True)]
    after = await appender(url, 1)
    last = acknowledged((await after.communicate())[0])
    async with opened(url) as store:
        found = await store.after(0)
    keys = {each.revision.number: each.key for each in found}
    assert are_whole(found) and list(last) == [found[-1].revision.number]
    for each in (*acked, last):
        assert each and each.items() <= keys.items()
    assert (
        len(found) <= sum(map(len, acked)) + len(killed) + 1
    )  # of each at most one more: kept, and not yet said to be


async def until_lines(process: Process, count: int) -> bytes:
    assert process.stdout is not None
    return b"".join([await process.stdout.readline() for _ in range(count)])
