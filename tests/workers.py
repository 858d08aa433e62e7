"""A router of several workers beside the test's loop: real processes, and an upstream that knows how many calls it has at once."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.serving import RunningRouter
from tests.upstream import Connection, Received, answer, chat_answer

QUESTION = {"model": "jane", "messages": [{"role": "user", "content": "hi"}]}
SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


@dataclass
class Crowd:
    """The script of an upstream: each call stays until it is let go; how many are there, and how many ever were at once."""

    here: int = 0
    most: int = 0
    came: int = 0
    stays_s: float | None = None  # None: until `let_go`
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    one: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def reset(self) -> None:
        """As before the first call."""
        assert self.here == 0, "somebody is still here"
        self.most = self.came = 0
        self.stays_s = None
        self.let_go.clear()

    def let_one_go(self) -> None:
        """Whoever came first."""
        self.one.release()

    async def __call__(self, request: Received, connection: Connection) -> None:
        self.came += 1
        await self._count(1)
        try:
            await self._stay(connection)
        finally:
            await self._count(-1)  # before the answer: whoever reads it may be followed by the next at once
        await connection.write(answer(chat_answer("x", request.json["model"])))

    async def until(self, here: int) -> None:
        """Wait until so many calls are here."""
        async with self.changed, asyncio.timeout(15):
            await self.changed.wait_for(lambda: self.here == here)

    async def until_came(self, came: int) -> None:
        """Wait until so many calls have come in all."""
        async with self.changed, asyncio.timeout(30):
            await self.changed.wait_for(lambda: self.came >= came)

    async def _count(self, more: int) -> None:
        self.here += more
        self.most = max(self.most, self.here)
        async with self.changed:
            self.changed.notify_all()

    async def _stay(self, connection: Connection) -> None:
        """Until the time is over, or this one or all are let go. Raises ConnectionError where the caller leaves before."""
        ends = [asyncio.create_task(each) for each in (connection.until_gone(), self.let_go.wait(), self.one.acquire())]
        try:
            await asyncio.wait(ends, timeout=self.stays_s, return_when=asyncio.FIRST_COMPLETED)
            if ends[0].done():
                raise ConnectionError
        finally:
            for each in ends:
                each.cancel()
            await asyncio.gather(*ends, return_exceptions=True)


@asynccontextmanager
async def workers(config: Mapping[str, Any], **options: Any) -> AsyncIterator[RunningRouter]:
    """The router of this configuration, all of its workers there; four, if the configuration names no number."""
    config = {**config, "server": {"workers": 4, **config.get("server", {})}}
    router = RunningRouter(config, **options)
    await asyncio.to_thread(router.__enter__)
    try:
        await all_up(router)
        yield router
    finally:
        await asyncio.to_thread(router.__exit__, None, None, None)


async def all_up(router: RunningRouter) -> None:
    """Wait until every worker answers."""
    async with asyncio.timeout(30):
        while set((await metrics(router))["crossfade_worker_up"].values()) != {1.0}:
            await asyncio.sleep(0.05)


async def metrics(router: RunningRouter, timeout_s: float = 10) -> dict[str, dict[str, float]]:
    """By name, and then by labels as they are written."""
    async with httpx.AsyncClient(timeout=timeout_s) as client:
        return parsed((await client.get(f"{router.url}/metrics")).text)


def parsed(text: str) -> dict[str, dict[str, float]]:
    """Prometheus' text."""
    found: dict[str, dict[str, float]] = {}
    for name, labels, value in SAMPLE.findall(text):
        found.setdefault(name, {})[labels] = float(value)
    return found


async def pids(router: RunningRouter) -> list[int]:
    """The processes of the workers, by their number."""
    found = (await metrics(router))["crossfade_worker_pid"]
    return [int(found[f'worker="{number}"']) for number in range(len(found))]


async def chat(client: httpx.AsyncClient, key: str = "", **fields: object) -> httpx.Response:
    """One call on a connection of its own, so that any worker may get it."""
    headers = {"connection": "close"} | ({"authorization": f"Bearer {key}"} if key else {})
    return await client.post("/v1/chat/completions", json={**QUESTION, **fields}, headers=headers)


def is_there(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
