"""What must be as before after every fault, whatever it was: alive, nothing left behind, each call closed once, no secret told."""

from __future__ import annotations

import asyncio
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.faults.stage import BACKEND_KEY, CLIENT_KEY, INTERNALS, Stage, told
from tests.rawclient import Answer
from tests.upstream import says

PROBE_S = 2.0  # an engine that is well again is used again at once; nothing of a fault may outlast it
SETTLE_S = 5.0
MOST_GROWTH_BYTES = 20_000_000
PAGE_BYTES = resource.getpagesize()
ATTEMPTS_PER_BACKEND = 2  # the default of `retry.attempts_per_backend`
# (facts B5, v): a single call may meet two backends twice each, many calls hardly more than one attempt each.
MOST_PER_CALL, FLOOR = 1.2, 3
AROUND = re.compile(rf".{{0,60}}(?:{CLIENT_KEY}|{BACKEND_KEY}).{{0,20}}")


@dataclass(frozen=True, slots=True)
class Held:
    """What the process holds when nothing is going on: descriptors, tasks; what is taken and not given back."""

    descriptors: int
    tasks: int
    in_flight: int = 0
    inside: int = 0
    waiting: int = 0


@dataclass
class Watch:
    """One case: what was before, how many calls it made and what they were told."""

    stage: Stage
    caplog: pytest.LogCaptureFixture
    before: Held
    probe_s: float = PROBE_S
    settle_s: float = SETTLE_S
    calls: int = 0
    answers: list[Answer] = field(default_factory=list)
    _closed: int = 0
    _attempts: int = 0
    _rss_bytes: int = 0

    def __post_init__(self) -> None:
        self._closed = closed_calls(self.stage)
        self._attempts = self.stage.attempts()
        self._rss_bytes = rss_bytes()

    async def ask(self, model: str = "a", **options: Any) -> Answer:
        """A call of the case."""
        self.calls += 1
        answer = await self.stage.ask(model, **options)
        self.answers.append(answer)
        return answer

    async def check(self) -> None:
        """Raises AssertionError, in words, where anything is not as before."""
        await self._is_alive()
        left = await settled(self.stage, self.before, self.settle_s)
        assert left == self.before, "something was not given back"
        assert closed_calls(self.stage) - self._closed == self.calls, "each call has one terminal record"
        attempts = self.stage.attempts() - self._attempts
        assert attempts <= MOST_PER_CALL * self.calls + FLOOR, "the fault was multiplied"
        assert rss_bytes() - self._rss_bytes < MOST_GROWTH_BYTES, "memory has grown"
        await self._tells_no_secret()

    async def _is_alive(self) -> None:
        self.stage.a.script = self.stage.b.script = says("well")
        async with asyncio.timeout(self.probe_s):
            assert told(await self.ask("a")).text == "well"

    async def _tells_no_secret(self) -> None:
        metrics = (await self.stage.router.client.get("/metrics", headers={"connection": "close"})).text
        records = [*self.caplog.get_records("call"), *self.caplog.records]
        log = "\n".join(record.getMessage() + str(record.exc_text or "") for record in records)
        said = "\n".join(f"{answer.headers}{answer.body.decode('latin-1')}" for answer in self.answers)
        for place, text in (("metrics", metrics), ("the log", log), ("an answer", said)):
            assert not (found := AROUND.findall(text)), f"a key is in {place}: {found}"
        assert INTERNALS not in metrics + said, "a client hears what a backend says of itself"


def closed_calls(stage: Stage) -> int:
    """How many terminal records there are, which is what `crossfade_calls` counts."""
    return sum(stage.endpoint.recorder.metrics.calls.values())


def rss_bytes() -> int:
    """Resident memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def held(stage: Stage) -> Held:
    """What is held at this moment; idle connections to backends are closed first, so that what is left has an owner."""
    fleet = stage.endpoint.fleet
    replicas = [replica for backend in fleet.backends.values() for replica in backend.replicas]
    for replica in replicas:
        replica.server.pool.close()
    gates = [stage.endpoint.admission.gate, *(backend.gate for backend in fleet.backends.values())]
    return Held(
        descriptors=len(list(Path("/proc/self/fd").iterdir())),
        tasks=len(asyncio.all_tasks()),
        in_flight=sum(replica.in_flight for replica in replicas),
        inside=sum(gate.inside for gate in gates),
        waiting=sum(gate.waiting for gate in gates),
    )


async def settled(stage: Stage, wanted: Held | None = None, settle_s: float = SETTLE_S) -> Held:
    """What is held once it is what was wanted, or (with none wanted) stands still; the last look where that takes too long."""
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + settle_s
    seen: list[Held] = []
    while loop.time() < ends_s:
        seen.append(held(stage))
        if seen[-1] == wanted or (wanted is None and len(seen) > 20 and len(set(seen[-20:])) == 1):
            break
        await asyncio.sleep(0.01)
    return seen[-1]


@contextmanager
def fresh_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Only what the block logs."""
    caplog.clear()
    with caplog.at_level("DEBUG", logger="crossfade"):
        yield
