"""Operators of several routers that share one store, while processes are killed: what was acknowledged, and what holds afterwards.

An operator sends one change after the other, each with its own idempotency key, to whoever answers, and repeats it until somebody
acknowledges it: so the last acknowledged change is the state that must be there, whoever was killed in between.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

KEY = "operator-key-of-these-tests-0123456789"
IN_STEP_S = 1.0  # within which everybody who lives has what was acknowledged
GIVES_UP_S = 60.0


@dataclass(slots=True)
class Operator:
    """Shifts `jane` between a and b, at the routers with these URLs. `acknowledged`: the last change, as (revision, share of b)."""

    urls: Sequence[str]
    rng: random.Random
    acknowledged: tuple[int, float] = (0, 0.0)
    repeats: int = 0
    client: httpx.AsyncClient = field(default_factory=lambda: httpx.AsyncClient(timeout=5))

    async def shift(self) -> None:
        """One change, repeated until it is acknowledged; told of a conflict with itself it is a failure."""
        share = round(self.rng.uniform(0.01, 0.99), 6)
        body = {"shares": {"b": share}, "reason": "a change among kills", "force": True}
        self.acknowledged = (await self._told("shift", body), share)

    async def rollback(self) -> int:
        """The number of the revision that it makes."""
        return await self._told("rollback", {"reason": "worse than before"})

    async def _told(self, what: str, body: dict[str, Any]) -> int:
        headers = {"authorization": f"Bearer {KEY}", "idempotency-key": f"{self.rng.getrandbits(128):032x}"}
        async with asyncio.timeout(GIVES_UP_S):
            while True:
                url = f"{self.rng.choice(self.urls)}/admin/api/models/jane/{what}"
                try:
                    answer = await self.client.post(url, json=body, headers=headers)
                except httpx.TransportError:
                    self.repeats += 1
                    await asyncio.sleep(0.02)
                    continue
                if answer.status_code != 503:  # which says that its store has failed
                    assert answer.status_code == 200, answer.text
                    return int(answer.json()["revision"]["number"])
                self.repeats += 1

    async def close(self) -> None:
        """Hang up."""
        await self.client.aclose()

    async def in_step(self, urls: Sequence[str]) -> None:
        """Whoever answers there has what was acknowledged last, in time; looked at from outside, by calls on connections of their own."""
        for url in urls:
            async with asyncio.timeout(IN_STEP_S):
                while await revisions_of(url) != {self.acknowledged[0]}:
                    pass
            state = await status_of(self.client, url)
            assert (state["revision"], state["models"]["jane"]["split"]["b"]) == self.acknowledged


async def revisions_of(url: str) -> set[int]:
    """The revisions under which calls are answered there, each by whichever worker takes the connection."""
    async with httpx.AsyncClient(timeout=5, limits=httpx.Limits(max_keepalive_connections=0)) as client:
        return set(await asyncio.gather(*(revision_of(client, url) for _ in range(16))))


async def revision_of(client: httpx.AsyncClient, url: str) -> int:
    """The revision under which a call is answered there."""
    body = {"model": "jane", "messages": [{"role": "user", "content": "hi"}]}
    answer = await client.post(f"{url}/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return int(answer.headers["x-crossfade-revision"])


async def status_of(client: httpx.AsyncClient, url: str) -> Any:
    """What its admin API says of the whole."""
    answer = await client.get(f"{url}/admin/api/status", headers={"authorization": f"Bearer {KEY}"})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def workers_of(operator: Operator, url: str) -> list[int]:
    """The processes of the workers that serve now, as `/metrics` names them."""
    try:
        text = (await operator.client.get(f"{url}/metrics")).text
    except httpx.TransportError:
        return []
    return [
        int(float(found[1]))
        for found in re.finditer(r"^crossfade_worker_pid\{.*\} (\S+)$", text, re.MULTILINE)
        if float(found[1])
    ]


async def killed_at_random(operator: Operator, kill: Callable[[], Awaitable[None]], rounds: int) -> None:
    """In each round a few changes, in the middle of which somebody is killed; then `kill` has to bring them back."""
    for _ in range(rounds):
        changes = asyncio.create_task(_changes(operator))
        await asyncio.sleep(operator.rng.uniform(0, 0.05))  # the moment is the experiment, not something waited for
        await kill()
        await changes


async def _changes(operator: Operator) -> None:
    for _ in range(4):
        await operator.shift()


def kill_hard(pid: int) -> None:
    """As the kernel does when memory ends."""
    os.kill(pid, signal.SIGKILL)
