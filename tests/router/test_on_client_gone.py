"""A backend with `on_client_gone: drain` is never cut off: its answer is read to the end, and its place is held until then."""

from __future__ import annotations

import asyncio

import pytest

from tests.running import Router, config_for, running
from tests.upstream import END, STREAM_HEAD, Connection, Received, Upstream, chunked, event


def configured(a: Upstream, *, drains: bool) -> str:
    text = config_for({"a": a.url})
    rest = ", max_in_flight: 1, on_client_gone: drain}" if drains else ", max_in_flight: 1}"
    return text.replace(f"{a.url}}}", f"{a.url}{rest}")


async def in_flight(router: Router) -> float:
    text = (await router.client.get("/metrics")).text
    line = next(line for line in text.splitlines() if line.startswith("crossfade_in_flight{"))
    return float(line.rpartition(" ")[2])


async def until_free(router: Router) -> None:
    async with asyncio.timeout(5):
        while await in_flight(router):
            await asyncio.sleep(0.01)


class Engine:
    """It says when it is at work, and goes on when it may; `was_cut_off` if its reader leaves before that."""

    def __init__(self, *, speaks_first: bool):
        self.speaks_first = speaks_first
        self.is_at_work = asyncio.Event()
        self.may_end = asyncio.Event()
        self.has_ended = asyncio.Event()

    async def __call__(self, _request: Received, connection: Connection) -> None:
        if self.speaks_first:
            await connection.write(STREAM_HEAD, chunked(event({"role": "assistant", "content": "one "})))
        self.is_at_work.set()
        await self.may_end.wait()
        head = [] if self.speaks_first else [STREAM_HEAD]
        await connection.write(*head, chunked(event({"content": "two"})), chunked(event({}, "stop")))
        await connection.write(chunked(b"data: [DONE]\n\n"), END)
        self.has_ended.set()


@pytest.mark.parametrize("speaks_first", [False, True], ids=["in prefill", "in mid-stream"])
async def test_the_answer_of_a_client_who_left_is_read_to_its_end_and_holds_its_place_until_then(
    speaks_first: bool,
) -> None:
    engine = Engine(speaks_first=speaks_first)
    async with Upstream(engine) as a, running(configured(a, drains=True)) as router:
        call = asyncio.create_task(router.chat(stream=True))
        await asyncio.wait_for(engine.is_at_work.wait(), 5)
        call.cancel()
        async with asyncio.timeout(5):
            while 'outcome="client_gone"' not in (await router.client.get("/metrics")).text:
                await asyncio.sleep(0.01)
        assert await in_flight(router) == 1 and not a.gone.is_set()
        waiting = asyncio.create_task(router.chat(stream=True))
        engine.may_end.set()
        await asyncio.wait_for(engine.has_ended.wait(), 5)
        assert (await waiting).status_code == 200
        await until_free(router)


async def test_without_it_the_backend_is_hung_up_on_and_the_place_is_free_at_once() -> None:
    engine = Engine(speaks_first=True)
    async with Upstream(engine) as a, running(configured(a, drains=False)) as router:
        call = asyncio.create_task(router.chat(stream=True))
        await asyncio.wait_for(engine.is_at_work.wait(), 5)
        call.cancel()
        await until_free(router)
        engine.may_end.set()
        await asyncio.wait_for(a.gone.wait(), 1)


async def test_a_stop_does_not_wait_for_an_answer_that_nobody_reads() -> None:
    engine = Engine(speaks_first=True)
    async with Upstream(engine) as a:
        async with running(configured(a, drains=True)) as router:
            call = asyncio.create_task(router.chat(stream=True))
            await asyncio.wait_for(engine.is_at_work.wait(), 5)
            call.cancel()
            async with asyncio.timeout(5):
                while 'outcome="client_gone"' not in (await router.client.get("/metrics")).text:
                    await asyncio.sleep(0.01)
        engine.may_end.set()
        await asyncio.wait_for(a.gone.wait(), 1)
