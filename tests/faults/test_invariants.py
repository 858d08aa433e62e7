"""The invariants are no ornament: whatever is broken on purpose, the check after a case sees it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable

import pytest

from tests.faults.invariants import Held, Watch, fresh_log
from tests.faults.scripts import silent_after
from tests.faults.stage import BACKEND_KEY, INTERNALS, Stage
from tests.upstream import answer, chat_answer, sends

pytestmark = pytest.mark.asyncio(loop_scope="module")
Harm = Callable[[Watch], Awaitable[Callable[[], object]]]  # returns what undoes it


async def leaks_a_descriptor(_: Watch) -> Callable[[], object]:
    one = os.open("/dev/null", os.O_RDONLY)
    return lambda: os.close(one)


async def leaks_a_task(_: Watch) -> Callable[[], object]:
    return asyncio.create_task(asyncio.Event().wait()).cancel


async def leaves_an_attempt_in_flight(watch: Watch) -> Callable[[], object]:
    replica = watch.stage.endpoint.fleet.backends["b"].replicas[0]
    replica.in_flight += 1
    return lambda: setattr(replica, "in_flight", replica.in_flight - 1)


async def keeps_a_place_inside(watch: Watch) -> Callable[[], object]:
    gate = watch.stage.endpoint.admission.gate
    assert gate.try_enter()
    return gate.leave


async def closes_a_call_twice(watch: Watch) -> Callable[[], object]:
    calls = watch.stage.endpoint.recorder.metrics.calls
    calls["a", "a", "ok"] += 1
    return lambda: None


async def forgets_to_close_a_call(watch: Watch) -> Callable[[], object]:
    watch.calls += 1
    return lambda: None


async def sends_one_call_many_times(watch: Watch) -> Callable[[], object]:
    await watch.ask()
    received = watch.stage.at_a.received
    received.extend(received[-1:] * 10)
    return received.clear


async def logs_a_key(_: Watch) -> Callable[[], object]:
    logging.getLogger("crossfade").warning("sent Bearer %s", BACKEND_KEY)
    return lambda: None


async def answers_with_a_key(watch: Watch) -> Callable[[], object]:
    watch.stage.a.script = sends(answer(chat_answer(f"my key is {BACKEND_KEY}")))
    await watch.ask()
    return lambda: None


async def answers_with_a_backends_words(watch: Watch) -> Callable[[], object]:
    watch.stage.a.script = sends(answer(chat_answer(INTERNALS)))
    await watch.ask()
    return lambda: None


async def grows(watch: Watch) -> Callable[[], object]:
    kept = [b"x" * 400_000_000]  # far more than the kernel may take back from a long run of tests meanwhile
    return kept.clear


HARMS: list[tuple[Harm, str]] = [
    (leaks_a_descriptor, "given back"),
    (leaks_a_task, "given back"),
    (leaves_an_attempt_in_flight, "given back"),
    (keeps_a_place_inside, "given back"),
    (closes_a_call_twice, "terminal record"),
    (forgets_to_close_a_call, "terminal record"),
    (sends_one_call_many_times, "multiplied"),
    (logs_a_key, "a key is in the log"),
    (answers_with_a_key, "a key is in an answer"),
    (answers_with_a_backends_words, "says of itself"),
    (grows, "memory"),
]


@pytest.mark.parametrize(("harm", "words"), HARMS, ids=[harm.__name__.replace("_", " ") for harm, _ in HARMS])
async def test_a_case_is_red_where_it(
    harm: Harm,
    words: str,
    running_stage: tuple[Stage, Held],
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage, before = running_stage
    with fresh_log(caplog):
        watch = Watch(stage, caplog, before, settle_s=0.3)
        undo = await harm(watch)
        try:
            with pytest.raises(AssertionError, match=words):
                await watch.check()
        finally:
            undo()


async def test_a_case_is_red_where_a_backend_that_is_well_again_is_not_used(
    running_stage: tuple[Stage, Held], caplog: pytest.LogCaptureFixture
) -> None:
    class Stuck(Watch):
        async def ask(self, model: str = "a", **options: object):  # type: ignore[no-untyped-def]
            self.stage.a.script = silent_after()
            return await super().ask(model, **options)

    stage, before = running_stage
    with pytest.raises(TimeoutError):
        await Stuck(stage, caplog, before, probe_s=0.2).check()
