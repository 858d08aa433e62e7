"""One timer for many limits: each is told of its own, at its time, and only once."""

from __future__ import annotations

import asyncio
import gc
import weakref

from backends.alarm import Alarm


class Wait:
    """Something with a limit, `after_s` from now, that notes when it was told."""

    def __init__(self, after_s: float):
        self.limit_s = asyncio.get_running_loop().time() + after_s
        self.told_s: list[float] = []
        self.is_told = asyncio.Event()

    def is_late(self) -> None:
        self.told_s.append(asyncio.get_running_loop().time())
        self.is_told.set()


async def told(*waits: Wait) -> None:
    for wait in waits:
        await asyncio.wait_for(wait.is_told.wait(), 5)


async def test_each_is_told_at_its_own_limit_in_whatever_order_they_came() -> None:
    alarm, waits = Alarm(), [Wait(0.06), Wait(0.02), Wait(0.04)]
    for wait in waits:
        alarm.watch(wait)
    await told(*waits)
    assert all(len(wait.told_s) == 1 and wait.told_s[0] >= wait.limit_s for wait in waits)
    assert waits[1].told_s < waits[2].told_s < waits[0].told_s


async def test_a_limit_that_was_moved_on_is_kept_to_where_it_stands_when_the_old_one_passes() -> None:
    alarm, moved, other = Alarm(), Wait(0.02), Wait(0.04)
    alarm.watch(moved)
    alarm.watch(other)
    moved.limit_s += 0.04
    await told(other)
    assert not moved.told_s
    await told(moved)
    assert moved.told_s[0] >= moved.limit_s


async def test_a_limit_that_was_moved_back_is_kept_once_it_is_watched_again() -> None:
    alarm, wait = Alarm(), Wait(30)
    alarm.watch(wait)
    wait.limit_s -= 29.98
    alarm.watch(wait)
    await told(wait)
    assert len(wait.told_s) == 1


async def test_who_is_forgotten_is_told_nothing_and_not_held() -> None:
    alarm, kept, forgotten = Alarm(), Wait(0.04), Wait(0.02)
    alarm.watch(forgotten)
    alarm.watch(kept)
    alarm.forget(forgotten)
    await told(kept)
    assert not forgotten.told_s
    gone = weakref.ref(forgotten)
    del forgotten
    gc.collect()
    assert gone() is None


async def test_an_alarm_that_had_nothing_left_is_set_anew() -> None:
    alarm, first, second = Alarm(), Wait(0.01), Wait(0.03)
    alarm.watch(first)
    await told(first)
    alarm.watch(second)
    await told(second)
    assert second.told_s[0] >= second.limit_s
