"""Answers that nobody waits for any more are read to their end where the engine asks for it, and hold their place until then."""

from __future__ import annotations

import asyncio

import pytest

from backends.exchange import Exchange
from backends.http import Replica
from backends.leftovers import Leftovers
from tests.backends.wire import CALL, body_of, limits, request_of, serving
from tests.upstream import END, STREAM_HEAD, Connection, chunked, event


class Caller:
    """One call that is given up while the server is at work, and what becomes of it."""

    def __init__(self, replica: Replica):
        self.replica = replica
        self.leftovers = Leftovers()
        self.freed = asyncio.Event()
        self.kept: list[Exchange] = []

    async def call(self) -> None:
        async with self.replica.open(CALL, limits(), self.kept.append) as reply:
            await reply.pump(lambda _: None)

    async def give_up(self, until: asyncio.Event) -> None:
        task = asyncio.create_task(self.call())
        await asyncio.wait_for(until.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    def read_on(self, wait_s: float) -> None:
        until_s = asyncio.get_running_loop().time() + wait_s
        self.leftovers.take(self.kept[0], self.replica.pool, until_s, self.freed.set)


@pytest.mark.parametrize("has_begun", [False, True], ids=["before its head", "in mid-answer"])
async def test_an_answer_is_read_to_its_end_and_its_connection_serves_the_next_call(has_begun: bool) -> None:
    is_at_work, may_end = asyncio.Event(), asyncio.Event()

    async def handle(connection: Connection) -> None:
        await request_of(connection)
        if has_begun:
            await connection.write(STREAM_HEAD, chunked(event({"content": "one "})))
        is_at_work.set()
        await may_end.wait()
        await connection.write(*([] if has_begun else [STREAM_HEAD]), chunked(event({"content": "two"})), END)
        await request_of(connection)
        await connection.write(STREAM_HEAD, chunked(b"data: next\n\n"), END)

    async with serving(handle) as wire:
        caller = Caller(wire.replica())
        await caller.give_up(is_at_work)
        caller.read_on(5)
        assert not caller.freed.is_set() and len(caller.leftovers) == 1
        may_end.set()
        await asyncio.wait_for(caller.freed.wait(), 5)
        assert await body_of(caller.replica) == b"data: next\n\n"
        assert wire.connections == 1 and not len(caller.leftovers)


@pytest.mark.parametrize("stops", [False, True], ids=["when its time is over", "when the router stops"])
async def test_an_answer_that_does_not_end_is_cut_off(stops: bool) -> None:
    is_at_work = asyncio.Event()

    async def handle(connection: Connection) -> None:
        await request_of(connection)
        is_at_work.set()
        await connection.until_gone()

    async with serving(handle) as wire:
        caller = Caller(wire.replica())
        await caller.give_up(is_at_work)
        caller.read_on(60 if stops else 0.05)
        if stops:
            await caller.leftovers.close()
        await wire.until_one_is_gone()
        await asyncio.wait_for(caller.freed.wait(), 5)
