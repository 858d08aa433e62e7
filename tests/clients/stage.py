"""Two scripted backends and a router in front of them, with a caller of each: what the clients' tests play on."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.clients.captured import LMSTUDIO, LMSTUDIO_MODEL, VLLM, VLLM_MODEL, answers, is_second_turn
from tests.running import running
from tests.serving import RunningRouter
from tests.upstream import Connection, Received, Script, Upstream, chat_answer, stream
from tests.upstream import answer as whole

CAPTURED = {"vllm": VLLM, "lmstudio": LMSTUDIO}


@dataclass(frozen=True, slots=True)
class Stage:
    """A router at `url` (the `/v1` of it) and its two backends, half of the callers each."""

    url: str
    backends: dict[str, Upstream]
    callers: dict[str, str]

    @property
    def received(self) -> dict[str, list[Received]]:
        """The calls that came to each backend."""
        return {name: backend.received for name, backend in self.backends.items()}

    def forget(self) -> None:
        """Begin anew: both backends as captured, no call received."""
        for name, backend in self.backends.items():
            backend.script = answers(CAPTURED[name])
            backend.received.clear()

    def other(self, backend: str) -> str:
        """The backend that steps in for this one."""
        return "lmstudio" if backend == "vllm" else "vllm"

    async def calls_by_result(self) -> dict[str, float]:
        """How many calls reached the router, by how they ended."""
        return await self._summed("crossfade_calls_total", "result")

    async def until_nothing_runs(self) -> None:
        """Return once no attempt is in flight. Raises AssertionError after a second."""
        try:
            async with asyncio.timeout(1.0):
                while any((await self._summed("crossfade_in_flight", "backend")).values()):
                    pass
        except TimeoutError:
            raise AssertionError("an attempt is still in flight after a second") from None

    async def _summed(self, metric: str, label: str) -> dict[str, float]:
        async with httpx.AsyncClient() as client:
            text = (await client.get(self.url.removesuffix("/v1") + "/metrics")).text
        counted: dict[str, float] = {}
        for line in text.splitlines():
            if line.startswith(f"{metric}{{"):
                value = line.partition(f'{label}="')[2].partition('"')[0]
                counted[value] = counted.get(value, 0) + float(line.rpartition(" ")[2])
        return counted


MIDDLE = stream("one ", "two ")[:4]  # of a stream: head, role, two words


@dataclass(slots=True)
class Unfinished:
    """A backend that writes these packets of its first answer and no more; the next call is answered once the first was left."""

    pieces: Sequence[bytes] = ()
    left: asyncio.Event = field(default_factory=asyncio.Event)
    _has_begun: bool = False

    async def __call__(self, _request: Received, connection: Connection) -> None:
        if self._has_begun:
            await self.left.wait()
            await connection.write(whole(chat_answer("the first was left")))
            return
        self._has_begun = True
        await connection.write(*self.pieces)
        await connection.until_gone()
        self.left.set()

    async def is_left(self) -> None:
        """Return once the first was left. Raises TimeoutError after a second."""
        async with asyncio.timeout(1.0):
            await self.left.wait()


def cut_off_after(*pieces: bytes) -> Script:
    """A backend that writes these packets and closes. All of them arrive, where a reset overtakes what was not read yet."""

    async def script(_request: Received, connection: Connection) -> None:
        await connection.write(*pieces)
        connection.writer.close()

    return script


def dies_between_turns(backend: str) -> Script:
    """A backend that asks for its tools and is gone when their results come."""
    as_captured = answers(CAPTURED[backend])

    async def script(request: Received, connection: Connection) -> None:
        if is_second_turn(request):
            connection.reset()
        else:
            await as_captured(request, connection)

    return script


# One test's failures must not move the next one's callers.
_FORGETFUL = {"eject": {"at_most_share": 0.0}, "retry": {"budget_min_per_s": 1000}}


def _config(vllm: Upstream, lmstudio: Upstream, **model: Any) -> dict[str, Any]:
    on = {"vllm": VLLM_MODEL, "lmstudio": LMSTUDIO_MODEL}
    return {
        "backends": {
            "vllm": {"kind": "vllm", "url": vllm.url},
            "lmstudio": {"kind": "lmstudio", "url": lmstudio.url},
        },
        "models": {"jane": {"on": on, "split": {"vllm": 0.5, "lmstudio": 0.5}, **_FORGETFUL, **model}},
    }


@asynccontextmanager
async def on_stage(**model: Any) -> AsyncIterator[Stage]:
    """The stage with the router in the test's own loop; `model` are further keys of the model's configuration."""
    async with _both() as (vllm, lmstudio), running(json.dumps(_config(vllm, lmstudio, **model))) as router:
        yield await _stage(f"http://127.0.0.1:{router.port}/v1", vllm, lmstudio)


@asynccontextmanager
async def on_stage_of_its_own() -> AsyncIterator[Stage]:
    """The stage with the router as operators run it: `crossfade serve`, a process, on uvloop."""
    async with _both() as (vllm, lmstudio), serve_process(_config(vllm, lmstudio)) as url:
        yield await _stage(url, vllm, lmstudio)


@asynccontextmanager
async def serve_process(config: Mapping[str, Any]) -> AsyncIterator[str]:
    """`crossfade serve` in front of backends of this loop; yields the `/v1` of it."""
    router = RunningRouter(config)
    await asyncio.to_thread(router.__enter__)  # it waits for the backends' health, which is answered in this loop
    try:
        yield f"{router.url}/v1"
    finally:
        await asyncio.to_thread(router.__exit__, *sys.exc_info())


@asynccontextmanager
async def _both() -> AsyncIterator[tuple[Upstream, Upstream]]:
    async with Upstream(answers(VLLM)) as vllm, Upstream(answers(LMSTUDIO)) as lmstudio:
        yield vllm, lmstudio


async def _stage(url: str, vllm: Upstream, lmstudio: Upstream) -> Stage:
    stage = Stage(url, {"vllm": vllm, "lmstudio": lmstudio}, {})
    async with httpx.AsyncClient() as client:
        for number in itertools.count():  # a caller is drawn to a backend by a hash, so a few tries find both
            body = {"model": "jane", "user": f"user-{number}", "messages": [{"role": "user", "content": "hi"}]}
            answer = await client.post(f"{url}/chat/completions", json=body)
            stage.callers.setdefault(answer.headers["x-crossfade-backend"], f"user-{number}")
            if len(stage.callers) == len(stage.backends):
                break
    stage.forget()
    return stage
