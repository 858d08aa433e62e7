"""Callers of one model at work: each streamed call with all that its client heard, while it runs and afterwards."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

PATIENCE_S = 60.0
MODEL = "jane"


@dataclass(eq=False, slots=True)
class Heard:
    """One streamed call as its client sees it."""

    user: str
    began: int = 0  # this and the next two count what happened in the whole load, so that they tell before from after
    first_said: int = 0
    last_said: int = 0
    status: int = 0
    backend: str = ""
    said: list[str] = field(default_factory=list)
    finishes: list[str] = field(default_factory=list)
    done: int = 0
    errors: list[Any] = field(default_factory=list)
    broken: str = ""  # what was wrong with the HTTP answer itself

    @property
    def text(self) -> str:
        return "".join(self.said)

    @property
    def is_complete(self) -> bool:
        """A whole answer: content, one end, [DONE], and not a word of an error."""
        ends = (self.status, self.finishes, self.done, self.errors, self.broken)
        return bool(self.text) and ends == (200, ["length"], 1, [], "")

    @property
    def is_cleanly_broken(self) -> bool:
        """Content, then exactly one error event instead of an end."""
        ends = (self.status, self.finishes, len(self.errors), self.broken)
        return bool(self.text) and ends == (200, [], 1, "")

    def waits_behind(self, other: Heard) -> bool:
        """Whether it came while the other was being answered, and has heard nothing while the other has heard more.

        On an engine that answers all its calls in step, its first token is then still to be made.
        """
        return not self.said and 0 < other.first_said < self.began < other.last_said

    def hear(self, data: str) -> None:
        """Take one event."""
        if data == "[DONE]":
            self.done += 1
            return
        event = json.loads(data)
        if "error" in event:
            self.errors.append(event["error"])
            return
        for choice in event["choices"]:
            if text := choice["delta"].get("content"):
                self.said.append(text)
            if choice["finish_reason"]:
                self.finishes.append(choice["finish_reason"])


def body(listener: str, max_tokens: int, **fields: object) -> dict[str, object]:
    """A call whose answer has exactly `max_tokens` tokens."""
    words = [{"role": "user", "content": f"Tell {listener} a story."}]
    return {"model": MODEL, "messages": words, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True, **fields}


async def answered_by(client: httpx.AsyncClient, user: str) -> str:
    """The backend that answers a short call of this user."""
    response = await client.post("/v1/chat/completions", json=body("everybody", 1), headers={"x-user-id": user})
    assert response.status_code == 200, response.text
    return response.headers["x-crossfade-backend"]


class Load:
    """Always `in_flight` streamed calls at once, of one user after the other, from `under_load` to the end of its block.

    Answers have `max_tokens` and up to as many more, so that they don't end, and the next ones don't begin, all at the same time.
    """

    def __init__(self, client: httpx.AsyncClient, users: Sequence[str], max_tokens: int):
        self.live: list[Heard] = []
        self.over: list[Heard] = []
        self._client = client
        self._users = itertools.cycle(users)
        self._tokens = itertools.cycle(max_tokens * (4 + extra) // 4 for extra in (0, 3, 1, 4, 2))
        self._happened = 0
        self._changed = asyncio.Event()
        self._goes_on = True

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Return in the same step of the loop in which `is_so()` has become true."""
        async with asyncio.timeout(PATIENCE_S):
            while not is_so():
                self._changed.clear()
                await self._changed.wait()

    async def work(self) -> None:
        """Call, hear the answer out, call again until the load has its end; at least once."""
        while True:
            self._happened += 1
            heard = Heard(next(self._users), began=self._happened)
            self.live.append(heard)
            try:
                await self._listen(heard)
            except httpx.HTTPError as exc:
                heard.broken = repr(exc)
            self.live.remove(heard)
            self.over.append(heard)
            self._changed.set()
            if not self._goes_on:
                return

    def end(self) -> None:
        """No further calls; those that run are heard out."""
        self._goes_on = False

    async def _listen(self, heard: Heard) -> None:
        call = body(heard.user, next(self._tokens), stream=True)
        headers = {"x-user-id": heard.user}
        async with self._client.stream("POST", "/v1/chat/completions", json=call, headers=headers) as response:
            heard.status = response.status_code
            heard.backend = response.headers.get("x-crossfade-backend", "")
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    heard.hear(line[6:])
                    self._happened += 1
                    if heard.said:
                        heard.first_said = heard.first_said or self._happened
                        heard.last_said = self._happened
                    self._changed.set()


async def one_stream(client: httpx.AsyncClient, user: str, max_tokens: int = 16) -> Heard:
    """A single streamed call, heard out."""
    async with under_load(client, [user], 1, max_tokens) as load:
        load.end()
    return load.over[0]


@asynccontextmanager
async def under_load(
    client: httpx.AsyncClient, users: Sequence[str], in_flight: int, max_tokens: int
) -> AsyncIterator[Load]:
    """Run the block under load; afterwards `load.over` has every call."""
    load = Load(client, users, max_tokens)
    async with asyncio.TaskGroup() as callers:
        for _ in range(in_flight):
            callers.create_task(load.work())
        try:
            yield load
        finally:
            load.end()
