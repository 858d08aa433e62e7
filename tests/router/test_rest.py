"""The time between two requests: how long it may be, with one timer for many."""

from __future__ import annotations

import asyncio
import gc
import weakref

from router.rest import Rest


class End:
    """Notes when a rest was too long."""

    def __init__(self) -> None:
        self.came_s: list[float] = []
        self.has_come = asyncio.Event()

    def come(self) -> None:
        self.came_s.append(asyncio.get_running_loop().time())
        self.has_come.set()


async def test_a_rest_that_began_anew_ends_as_long_after_its_own_beginning() -> None:
    loop, end = asyncio.get_running_loop(), End()
    rest = Rest(0.04, loop, end.come)
    rest.begin()
    await asyncio.sleep(0.02)
    rest.end()
    rest.begin()
    until_s = rest.until_s
    await asyncio.wait_for(end.has_come.wait(), 5)
    assert end.came_s[0] >= until_s


async def test_what_is_asked_ends_a_rest_and_the_next_one_is_timed_again() -> None:
    loop, end = asyncio.get_running_loop(), End()
    rest = Rest(0.02, loop, end.come)
    rest.begin()
    rest.end()
    await asyncio.sleep(0.06)
    assert not end.came_s
    rest.begin()
    await asyncio.wait_for(end.has_come.wait(), 5)
    assert len(end.came_s) == 1


async def test_a_rest_that_is_closed_ends_nothing_and_holds_nobody() -> None:
    end = End()
    rest = Rest(0.02, asyncio.get_running_loop(), end.come)
    rest.begin()
    rest.close()
    gone = weakref.ref(end)
    del end
    gc.collect()
    assert gone() is None
    await asyncio.sleep(0.04)
