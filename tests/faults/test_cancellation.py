"""A client that leaves, at whatever moment: its backend hears of it within a second, and nobody is blamed (facts B5, 27, 28)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.faults.invariants import Watch
from tests.faults.rows_refusals import busy
from tests.faults.scripts import COMMITTED, at_first, says_error, silent_after
from tests.faults.stage import Stage, call
from tests.rawclient import RawClient, connected
from tests.running import config_for, running
from tests.upstream import Script, Upstream, hangs

pytestmark = pytest.mark.asyncio(loop_scope="module")

LEAVES_S = 1.0  # how long a backend may go on for nobody
PATIENCE_S = 5.0


async def until(is_so: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(within_s):
        while not is_so():
            await asyncio.sleep(0.005)


@dataclass(frozen=True, slots=True)
class Moment:
    """When the client leaves: what the backends do, and how it is seen that the moment has come. `busy_at`: who works for it then."""

    when: str
    a: Script
    has_come: Callable[[Stage], bool]
    busy_at: str = ""
    b: Script = hangs
    stream: bool = True


def asked(name: str, times: int = 1) -> Callable[[Stage], bool]:
    """A call has reached this backend so many times."""
    return lambda stage: len({"a": stage.at_a, "b": stage.at_b}[name].received) == times


def rests(stage: Stage) -> bool:
    """a has answered, and nobody works."""
    return len(stage.at_a.received) > 0 and stage.endpoint.fleet.backends["a"].replicas[0].in_flight == 0


MOMENTS = [
    Moment("while a stream's prompt is worked on", silent_after(), asked("a"), "a"),
    Moment("while a whole answer is worked on", silent_after(), asked("a"), "a", stream=False),
    Moment("after the head, before the first content", silent_after(COMMITTED[0]), asked("a"), "a"),
    Moment("while a retry-after is waited out", busy("0.9"), rests),
    Moment("while the fallback works on it", says_error("503 Busy"), asked("b"), "b"),
    Moment("while it is tried again", at_first(says_error("500 Oh"), silent_after()), asked("a", 2), "a"),
]


@pytest.mark.parametrize("halfway", [False, True], ids=["leaves", "ends its own side only"])
@pytest.mark.parametrize("moment", MOMENTS, ids=[moment.when for moment in MOMENTS])
async def test_a_client(moment: Moment, halfway: bool, watch: Watch) -> None:
    stage = watch.stage
    stage.a.script, stage.b.script = moment.a, moment.b
    for upstream in (stage.at_a, stage.at_b):
        upstream.received.clear()
    left = Left(watch)
    async with connected(stage.router.port) as client:
        await client.send(call("a", stream=moment.stream))
        await until(lambda: moment.has_come(stage))
        await left.begin(client, halfway)
        await left.check(moment.busy_at)


async def test_a_client_that_leaves_in_mid_stream_stops_the_backend(watch: Watch) -> None:
    watch.stage.a.script = silent_after(*COMMITTED)
    left = Left(watch)
    async with connected(watch.stage.router.port) as client:
        await client.send(call("a", stream=True))
        await client.head()
        while b"two" not in await client.chunk():
            pass
        await left.begin(client, False)
        await left.check("a")


async def test_a_client_that_leaves_in_the_queue_of_a_backend_leaves_the_queue(watch: Watch) -> None:
    stage, limit = watch.stage, 4
    stage.a.script = silent_after()
    stage.at_a.received.clear()
    gate = stage.endpoint.fleet.backends["a"].gate
    clients = [connected(stage.router.port) for _ in range(limit + 1)]
    opened = [await client.__aenter__() for client in clients]
    for client in opened:
        await client.send(call("a alone"))
    await until(lambda: gate.inside == limit and gate.waiting == 1)
    watch.calls += limit + 1
    for client in reversed(opened):
        client.writer.close()
    await until(lambda: gate.inside == gate.waiting == 0, LEAVES_S)
    assert len(stage.at_a.received) == limit
    for each in clients:
        await each.__aexit__(None, None, None)


async def test_a_client_that_leaves_in_mid_body_was_never_a_call(watch: Watch) -> None:
    asked_before = watch.stage.attempts()
    async with connected(watch.stage.router.port) as client:
        await client.send(call("a")[:-5])
        await until(lambda: len(watch.stage.router.server.server_state.connections) == 1)
    await until(lambda: not watch.stage.router.server.server_state.connections)
    assert watch.stage.attempts() == asked_before


async def test_a_client_that_leaves_in_the_routers_queue_leaves_the_queue() -> None:
    config = config_for({"a": "URL"}, server="max_in_flight: 1")
    async with Upstream(hangs) as a, running(config.replace("URL", a.url)) as router:
        stage = Stage(router, None, None, a, a)  # type: ignore[arg-type]
        gate = stage.endpoint.admission.gate
        async with connected(router.port) as first, connected(router.port) as second:
            await first.send(call("jane"))
            await until(lambda: len(a.received) == 1)
            await second.send(call("jane"))
            await until(lambda: gate.waiting == 1)
            second.writer.close()
            await until(lambda: gate.waiting == 0, LEAVES_S)
            assert gate.inside == 1
        await until(lambda: gate.inside == 0, LEAVES_S)
        assert len(a.received) == 1


class Left:
    """A client's leaving, and what must have come of it."""

    def __init__(self, watch: Watch):
        self._watch = watch
        self._health = watch.stage.endpoint.fleet.backends["a"].replicas[0].health["a"]
        self._before = self._gone()

    async def begin(self, client: RawClient, halfway: bool) -> None:
        """Leave; `halfway`: say that nothing more comes, and go on listening, which counts as leaving too."""
        self._watch.calls += 1
        for upstream in (self._watch.stage.at_a, self._watch.stage.at_b):
            upstream.gone.clear()
        if halfway:
            client.writer.write_eof()
        else:
            client.writer.close()

    async def check(self, busy_at: str) -> None:
        """The backend that was at work has heard of it in time, and the call's one record says who left."""
        stage = self._watch.stage
        if busy_at:
            async with asyncio.timeout(LEAVES_S):
                await {"a": stage.at_a, "b": stage.at_b}[busy_at].gone.wait()
        await until(lambda: self._gone() == self._before + 1, LEAVES_S)
        assert self._health.state == "in_rotation"

    def _gone(self) -> int:
        calls = self._watch.stage.endpoint.recorder.metrics.calls
        return sum(count for (_, _, result), count in calls.items() if result == "client_gone")
