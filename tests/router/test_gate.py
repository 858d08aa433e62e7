"""The gate: never more than its limit inside, first come first served, and no place is lost however a wait ends."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.admission import Priority, RefusalReason
from router.gate import Gate, GateFull

FOREVER_S = 1e9
BEST = Priority.INTERACTIVE
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), st.integers(0, 2)),
        st.tuples(st.just("enter"), st.just(0)),
        st.just(("leave", 0)),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
        st.just(("leave and cancel who was let in", 0)),
        st.tuples(st.just("cancel and leave"), st.integers(0, 9)),
        st.tuples(st.just("cancel and enter"), st.integers(0, 2)),
        st.tuples(st.just("resize"), st.integers(1, 4)),
    ),
    max_size=40,
)


class Queue:
    """A gate and those who came to it: `waiting` by (class, number); what must hold is checked after every step."""

    def __init__(self, limit: int, queue_size: int):
        self.gate = Gate(limit, queue_size, FOREVER_S)
        self.queue_size = queue_size
        self.inside = 0
        self.waiting: dict[tuple[Priority, int], asyncio.Task[None]] = {}
        self.refused = 0
        self.came = 0

    async def take(self, step: str, number: int) -> None:
        """One step, and then let everybody run who can."""
        before = self.inside
        if "cancel" in step.split(" and ")[0] and self.waiting:
            self.waiting.pop(list(self.waiting)[number % len(self.waiting)]).cancel()
        if step.endswith("enter"):
            await self._enter(Priority(number))
        elif "leave" in step and self.inside:
            self._leave(step.startswith("leave and"))
        elif step == "resize":
            self.gate.resize(number)
        await self._settle()
        self._check(before)

    def _leave(self, is_next_cancelled: bool) -> None:
        self.inside -= 1
        self.gate.leave()  # lets the next one in, who has left in the same moment
        if is_next_cancelled and self.waiting:
            self.waiting.pop(min(self.waiting)).cancel()

    async def _enter(self, priority: Priority) -> None:
        me, self.came = (priority, self.came), self.came + 1
        self.waiting[me] = asyncio.create_task(self.gate.enter(FOREVER_S, priority))

    async def _settle(self) -> None:
        for _ in range(6):
            await asyncio.sleep(0)
        ended = {me: task.exception() for me, task in self.waiting.items() if task.done()}
        let_in = sorted(me for me, error in ended.items() if error is None)
        for me, error in ended.items():
            if error is not None:
                self._was_refused(me, error)
        assert let_in == sorted(self.waiting)[: len(let_in)], "the best class first, and in it first come, first served"
        for me in let_in:
            self.waiting.pop(me)
            self.inside += 1

    def _was_refused(self, me: tuple[Priority, int], error: BaseException) -> None:
        del self.waiting[me]
        self.refused += 1
        assert isinstance(error, GateFull) and error.reason in (RefusalReason.QUEUE_FULL, RefusalReason.DISPLACED)
        assert len(self.waiting) >= self.queue_size
        if error.reason is RefusalReason.DISPLACED:
            assert not any(other > me for other in self.waiting), "the last of the worst class goes"
        else:
            assert not any(priority > me[0] for priority, _ in self.waiting), "a better one takes a worse one's place"

    def _check(self, before: int) -> None:
        gate = self.gate
        assert gate.inside == self.inside <= max(gate.limit, before)
        assert gate.waiting == len(self.waiting) <= self.queue_size
        assert sum(gate.refused.values()) == self.refused
        assert [gate.length(p) for p in Priority] == [sum(p is mine for mine, _ in self.waiting) for p in Priority]
        assert not self.waiting or self.inside >= gate.limit, "nobody waits while there is room"


@settings(max_examples=250, deadline=None)
@given(limit=st.integers(1, 3), queue_size=st.integers(0, 4), steps=STEPS)
def test_whatever_happens_the_limit_holds_and_nobody_is_forgotten(
    limit: int, queue_size: int, steps: list[tuple[str, int]]
) -> None:
    async def play() -> None:
        line = Queue(limit, queue_size)
        for step, number in steps:
            await line.take(step, number)
        for task in line.waiting.values():
            task.cancel()
        await asyncio.gather(*line.waiting.values(), return_exceptions=True)
        for _ in range(line.inside):
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


async def test_a_call_that_would_most_likely_wait_in_vain_is_refused_at_once() -> None:
    gate = Gate(1, 9, 0.2)
    now_s = asyncio.get_running_loop().time()
    assert gate.try_enter()
    with pytest.raises(GateFull) as caught:  # the first may wait, for nothing is known of the pace
        await gate.enter(now_s + 10)
    assert caught.value.reason is RefusalReason.EXPIRED
    with pytest.raises(GateFull) as caught:
        gate.enter(now_s + 10).send(None)  # one step of the coroutine: it does not wait for anything
    assert caught.value.reason is RefusalReason.WAIT_TOO_LONG and caught.value.wait_s >= 0.2


async def test_who_is_refused_hears_how_long_the_queue_takes() -> None:
    gate = Gate(1, 3, 10)
    loop = asyncio.get_running_loop()
    assert gate.try_enter()
    waiting = [asyncio.create_task(gate.enter(loop.time() + 10)) for _ in range(3)]
    for task in waiting:
        await asyncio.sleep(0.03)
        gate.leave()
        await task
    waiting = [asyncio.create_task(gate.enter(loop.time() + 10)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(GateFull) as caught:
        await gate.enter(loop.time() + 10)
    assert caught.value.reason is RefusalReason.QUEUE_FULL
    assert caught.value.wait_s >= 4 * 0.03
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def full(queue_size: int) -> tuple[Gate, asyncio.Task[None]]:
    """A gate of one, taken, and a batch call that stands in its queue."""
    gate = Gate(1, queue_size, 10)
    assert gate.try_enter()
    batch = asyncio.create_task(gate.enter(FOREVER_S, Priority.BATCH))
    await asyncio.sleep(0)
    assert gate.waiting == 1
    return gate, batch


async def test_a_call_that_is_displaced_and_leaves_in_the_same_moment_gives_back_no_place_that_it_never_had() -> None:
    gate, batch = await full(1)
    person = gate.enter(FOREVER_S, BEST)
    person.send(None)  # takes the batch call's place, which has not heard of it yet
    batch.cancel()
    await asyncio.gather(batch, return_exceptions=True)
    assert (gate.inside, gate.waiting) == (1, 1)
    person.close()


async def test_a_call_that_leaves_and_is_displaced_in_the_same_moment_harms_nobody() -> None:
    gate, batch = await full(1)
    batch.cancel()  # it still stands in the queue, and will hear of it in the next round of the loop
    person = gate.enter(FOREVER_S, BEST)
    person.send(None)
    await asyncio.gather(batch, return_exceptions=True)
    assert (gate.inside, gate.waiting) == (1, 1)
    person.close()
