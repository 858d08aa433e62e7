"""The gate: never more than its limit inside, first come first served, and no place is lost however a wait ends."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.gate import Gate, GateFull

FOREVER_S = 1e9
STEPS = st.lists(
    st.one_of(
        st.just(("enter", 0)),
        st.just(("leave", 0)),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
        st.just(("leave and cancel who was let in", 0)),
    ),
    max_size=40,
)


class Line:
    """A gate and those who came to it, in their order; what must hold is checked after every step."""

    def __init__(self, limit: int, queue_size: int):
        self.gate = Gate(limit, queue_size, FOREVER_S)
        self.limit, self.queue_size = limit, queue_size
        self.inside: list[int] = []
        self.waiting: dict[int, asyncio.Task[None]] = {}
        self.came = 0

    async def take(self, step: str, number: int) -> None:
        """One step, and then let everybody run who can."""
        if step == "enter":
            await self._enter()
        elif step == "leave" and self.inside:
            self.inside.pop(0)
            self.gate.leave()
        elif step == "cancel" and self.waiting:
            self.waiting.pop(list(self.waiting)[number % len(self.waiting)]).cancel()
        elif step.startswith("leave and") and self.inside and self.waiting:
            self.inside.pop(0)
            self.gate.leave()  # lets the first in line in, who has left in the same moment
            self.waiting.pop(next(iter(self.waiting))).cancel()
        await self._settle()
        self._check()

    async def _enter(self) -> None:
        me, self.came = self.came, self.came + 1
        task = asyncio.create_task(self.gate.enter(FOREVER_S))
        await asyncio.sleep(0)
        if not task.done():
            self.waiting[me] = task
        elif task.exception() is None:
            self.inside.append(me)
        else:
            assert isinstance(task.exception(), GateFull)
            assert len(self.waiting) == self.queue_size

    async def _settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        let_in = [me for me, task in self.waiting.items() if task.done()]
        assert let_in == list(self.waiting)[: len(let_in)], "first come, first served"
        for me in let_in:
            self.waiting.pop(me).result()
            self.inside.append(me)

    def _check(self) -> None:
        assert self.gate.inside == len(self.inside) <= self.limit
        assert self.gate.waiting == len(self.waiting) <= self.queue_size
        assert not self.waiting or len(self.inside) == self.limit, "nobody waits while there is room"


@settings(max_examples=150, deadline=None)
@given(limit=st.integers(1, 3), queue_size=st.integers(0, 4), steps=STEPS)
def test_whatever_happens_the_limit_holds_and_nobody_is_forgotten(
    limit: int, queue_size: int, steps: list[tuple[str, int]]
) -> None:
    async def play() -> None:
        line = Line(limit, queue_size)
        for step, number in steps:
            await line.take(step, number)
        for task in line.waiting.values():
            task.cancel()
        await asyncio.gather(*line.waiting.values(), return_exceptions=True)
        while line.inside:
            line.inside.pop()
            line.gate.leave()
        assert (line.gate.inside, line.gate.waiting) == (0, 0)
        assert line.gate.try_enter()

    asyncio.run(play())


async def test_a_wait_that_is_too_long_ends_and_says_when_to_come_back() -> None:
    gate = Gate(1, 1, 0.02)
    now_s = asyncio.get_running_loop().time()
    await gate.enter(now_s + 10)
    with pytest.raises(GateFull) as caught:
        await gate.enter(now_s + 10)
    assert caught.value.wait_s > 0 and gate.waiting == 0


@pytest.mark.parametrize("until_s", [-1.0, 0.0], ids=["has passed", "is now"])
async def test_whose_deadline_has_passed_is_not_let_wait(until_s: float) -> None:
    gate = Gate(1, 1, 10)
    now_s = asyncio.get_running_loop().time()
    await gate.enter(now_s + 1)
    with pytest.raises(GateFull):
        await gate.enter(now_s + until_s)
    gate.leave()
    assert gate.inside == 0


async def test_a_call_waits_no_longer_than_its_own_deadline() -> None:
    gate = Gate(1, 1, FOREVER_S)
    now_s = asyncio.get_running_loop().time()
    await gate.enter(now_s + 1)
    async with asyncio.timeout(5):
        with pytest.raises(GateFull):
            await gate.enter(now_s + 0.05)
