"""A running router and its journal: what is changed is kept, in force at once, named by answers, and there again after a restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from policies.revisions import Kind, NotPossible, Revision
from router.journal.journal import By, Journal, KeyReused, Overtaken
from router.journal.store import Store
from router.operations import Operations
from tests.running import Router, config_for, running
from tests.upstream import END, STREAM_HEAD, Connection, Received, Upstream, chunked, event, says

OPS = By("ops", "the canary looks well")
SPLIT = "split: {a: 0.95, b: 0.05}\nstick_by: [header:x-user-id]"


@asynccontextmanager
async def two_backends(model: str = SPLIT, store: str = "") -> AsyncIterator[Router]:
    async with (
        Upstream(says("from a")) as a,
        Upstream(says("from b")) as b,
        running(config_for({"a": a.url, "b": b.url}, model) + store) as router,
    ):
        yield router


async def who_answers(router: Router, callers: range) -> dict[int, str]:
    answers = [await router.chat(headers={"x-user-id": str(n)}) for n in callers]
    assert all(answer.status_code == 200 for answer in answers)
    return {n: answer.headers["x-crossfade-backend"] for n, answer in zip(callers, answers, strict=True)}


async def revision_of(router: Router) -> int:
    return int((await router.chat()).headers["x-crossfade-revision"])


async def test_a_shift_is_in_force_with_the_next_call_adds_callers_only_and_a_rollback_takes_exactly_them_back() -> (
    None
):
    async with two_backends() as router:
        before = await who_answers(router, range(100))
        shift = await router.parts.operations.shift("jane", {"b": 0.5}, OPS)
        assert await revision_of(router) == shift.number == 2
        during = await who_answers(router, range(100))
        assert {n for n in before if before[n] == "b"} < {n for n in during if during[n] == "b"}
        rollback = await router.parts.operations.rollback("jane", OPS)
        assert (rollback.restores, await revision_of(router)) == (1, 3)
        assert await who_answers(router, range(100)) == before


async def test_a_call_finishes_under_the_revision_that_it_started_with() -> None:
    goes_on = asyncio.Event()

    async def slow(_request: Received, connection: Connection) -> None:
        await connection.write(STREAM_HEAD, chunked(event({"role": "assistant", "content": "one"})))
        await goes_on.wait()
        await connection.write(chunked(event({"content": " two"}, "stop")), chunked(b"data: [DONE]\n\n"), END)

    async with (
        Upstream(slow) as a,
        Upstream(says("from b")) as b,
        running(config_for({"a": a.url, "b": b.url}, "split: {a: 1.0}")) as router,
    ):
        body = {"model": "jane", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        async with router.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            await router.parts.operations.shift("jane", {"b": 1.0}, OPS)
            assert (await router.chat()).headers["x-crossfade-backend"] == "b"
            goes_on.set()
            text = (await answer.aread()).decode()
        assert (answer.headers["x-crossfade-revision"], answer.headers["x-crossfade-backend"]) == ("1", "a")
        assert " two" in text and "[DONE]" in text


async def test_a_restart_finds_the_state_that_was_left_though_the_file_says_otherwise(tmp_path: Path) -> None:
    store = f"\nstore: {{url: sqlite:///{tmp_path}/crossfade.db}}\n"
    async with two_backends(store=store) as router:
        await router.parts.operations.shift("jane", {"b": 1.0}, OPS)
    async with two_backends(store=store) as router:
        assert await revision_of(router) == 2
        assert set((await who_answers(router, range(10))).values()) == {"b"}


async def test_a_file_that_has_changed_is_later_than_the_command_and_the_same_file_is_not(tmp_path: Path) -> None:
    store = f"\nstore: {{url: sqlite:///{tmp_path}/crossfade.db}}\n"
    async with two_backends(store=store) as router:
        await router.parts.operations.shift("jane", {"b": 1.0}, OPS)
    async with two_backends("split: {a: 1.0}", store) as router:
        journal = router.parts.journal
        assert [revision.kind for revision in journal.revisions] == [Kind.START, Kind.SHIFT, Kind.FILE]
        assert set((await who_answers(router, range(10))).values()) == {"a"}
        await router.parts.operations.rollback("jane", OPS)
        assert set((await who_answers(router, range(10))).values()) == {"b"}


async def test_a_state_with_a_backend_that_is_gone_is_not_gone_back_to_and_an_older_one_is(tmp_path: Path) -> None:
    store = f"\nstore: {{url: sqlite:///{tmp_path}/crossfade.db}}\n"
    async with two_backends("split: {a: 1.0}", store) as router:
        await router.parts.operations.shift("jane", {"b": 0.5}, OPS)
    async with Upstream(says("from a")) as a, running(config_for({"a": a.url}, "split: {a: 1.0}") + store) as router:
        parts = router.parts
        assert parts.journal.last is not None and parts.journal.last.kind is Kind.FILE
        with pytest.raises(NotPossible) as caught:
            await parts.operations.rollback("jane", OPS)
        assert str(caught.value) == (
            "revision 2 gives b a share, which does not serve jane any more; name an older revision with --to"
        )
        assert parts.journal.last.number == 3
        await parts.operations.rollback("jane", OPS, to=1)
        assert set((await who_answers(router, range(5))).values()) == {"a"}


async def test_two_routers_on_one_store_are_in_step_within_a_second(tmp_path: Path) -> None:
    store = f"\nstore: {{url: sqlite:///{tmp_path}/crossfade.db}}\n"
    async with two_backends(store=store) as one, two_backends(store=store) as other:
        await one.parts.operations.shift("jane", {"b": 1.0}, OPS)
        async with asyncio.timeout(1):
            while await revision_of(other) != 2:
                await asyncio.sleep(0.01)
        assert set((await who_answers(other, range(10))).values()) == {"b"}


async def test_a_backend_that_drains_takes_no_new_calls_and_one_replica_of_it_neither() -> None:
    async with Upstream(says("one")) as one, Upstream(says("two")) as two, Upstream(says("b")) as b:
        text = config_for({"a": one.url, "b": b.url}).replace(f"url: {one.url}", f"urls: [{one.url}, {two.url}]")
        async with running(text) as router:
            operations = router.parts.operations
            await operations.drain(f"a/{one.url}", OPS)
            assert {(await router.chat()).json()["choices"][0]["message"]["content"] for _ in range(10)} == {"two"}
            await operations.drain("a", OPS)
            assert set((await who_answers(router, range(10))).values()) == {"b"}
            await operations.undrain("a", OPS)
            assert {(await router.chat()).json()["choices"][0]["message"]["content"] for _ in range(10)} == {"two"}
            await operations.undrain(f"a/{one.url}", OPS)
            replicas = {(await router.chat()).json()["choices"][0]["message"]["content"] for _ in range(40)}
            assert replicas == {"one", "two"}


async def test_a_ramp_goes_by_itself_in_small_revisions_is_paused_resumed_and_taken_back_whole() -> None:
    async with two_backends("split: {a: 1.0}") as router:
        parts = router.parts
        journal, operations = parts.journal, parts.operations
        begun = await operations.shift("jane", {"b": 1.0}, OPS, over_s=3)
        await until(journal, lambda last: last.state.models["jane"].split.get("b", 0) > 0)
        await operations.pause("jane", OPS)
        assert journal.last is not None
        paused = journal.last.state.models["jane"].split
        assert 0 < paused["b"] < 1
        await operations.resume("jane", OPS)
        last = await until(journal, lambda last: last.state.models["jane"].ramp is None)
        assert last.state.models["jane"].split == {"a": 0.0, "b": 1.0}
        parts_of_it = [r for r in journal.revisions if r.number > begun.number]
        assert {(r.kind, r.part_of) for r in parts_of_it} == {(Kind.RAMP, begun.number)} and len(parts_of_it) == 5
        assert (await operations.rollback("jane", OPS)).state.models["jane"].split == {"a": 1.0}


async def test_a_ramp_waits_while_the_backend_that_gains_is_draining(caplog: pytest.LogCaptureFixture) -> None:
    async with two_backends("split: {a: 1.0}") as router:
        parts = router.parts
        await parts.operations.drain("b", OPS)
        begun = await parts.operations.shift("jane", {"b": 1.0}, OPS, over_s=1)
        async with asyncio.timeout(5):
            while "the ramp of jane waits" not in caplog.text:
                await asyncio.sleep(0.01)
        assert parts.journal.last == begun
        await parts.operations.undrain("b", OPS)
        last = await until(parts.journal, lambda last: last.state.models["jane"].ramp is None)
        assert last.state.models["jane"].split == {"a": 0.0, "b": 1.0}


async def test_a_ramp_goes_on_though_the_clock_was_set_back_by_an_hour() -> None:
    async with two_backends("split: {a: 1.0}") as router:
        parts = router.parts
        await parts.operations.shift("jane", {"b": 1.0}, OPS, over_s=1)
        parts.journal.now_s = lambda: time.time() - 3600
        last = await until(parts.journal, lambda last: last.state.models["jane"].ramp is None)
        assert last.state.models["jane"].split == {"a": 0.0, "b": 1.0}


async def test_a_step_whose_time_has_not_come_by_the_clock_is_made_of_the_ramp_that_was_seen_alone() -> None:
    async with two_backends("split: {a: 1.0}") as router:
        operations = router.parts.operations
        begun = await operations.shift("jane", {"b": 1.0}, OPS, over_s=7200)
        seen = begun.state.models["jane"].ramp
        assert await operations.step("jane") == begun
        first = await operations.step("jane", seen)
        assert first.state.models["jane"].split["b"] == 0.01
        assert await operations.step("jane", seen) == first


async def test_of_two_who_decide_about_the_same_model_at_once_one_is_told_and_nothing_is_half_applied(
    tmp_path: Path,
) -> None:
    store = f"\nstore: {{url: sqlite:///{tmp_path}/crossfade.db}}\n"
    async with two_backends(store=store) as one, two_backends(store=store) as other:
        results = await asyncio.gather(
            *(router.parts.operations.shift("jane", {"b": n / 10}, OPS) for n, router in enumerate((one, other), 3)),
            return_exceptions=True,
        )
        made = [result for result in results if isinstance(result, Revision)]
        told = [result for result in results if isinstance(result, Overtaken)]
        await one.parts.journal.catch_up()
        last = one.parts.journal.last
        assert last is not None and last in made and last.number == 1 + len(made)
        assert len(made) + len(told) == 2
        for each in told:
            assert str(each) == "revision 2 was made meanwhile: shift of jane by ops; look again, then repeat"


async def test_whoever_names_the_revision_that_they_saw_is_told_what_happened_since() -> None:
    async with two_backends() as router:
        operations = router.parts.operations
        await operations.shift("jane", {"b": 0.2}, By("ann", "", expected=1))
        with pytest.raises(Overtaken, match="revision 2 was made meanwhile: shift of jane by ann"):
            await operations.shift("jane", {"b": 0.3}, By("bob", "", expected=1))
        await operations.drain("b", By("bob", "", expected=2))


async def test_the_same_request_twice_makes_one_revision_and_its_key_serves_no_other() -> None:
    async with two_backends() as router:
        operations = router.parts.operations
        once = By("ops", "", key="k1", asked="shift b .2")
        first = await operations.shift("jane", {"b": 0.2}, once)
        await operations.shift("jane", {"b": 0.3}, OPS)
        assert await operations.shift("jane", {"b": 0.2}, once) == first
        with pytest.raises(KeyReused):
            await operations.shift("jane", {"b": 0.4}, By("ops", "", key="k1", asked="shift b .4"))
        assert await revision_of(router) == 3


async def test_a_shift_to_the_shares_that_are_there_makes_no_revision() -> None:
    async with two_backends() as router:
        shift = await router.parts.operations.shift("jane", {"b": 0.05}, OPS)
        assert (shift.number, shift.kind) == (1, Kind.START)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda o: o.drain("c", OPS), "there is no backend c; there are a, b"),
        (lambda o: o.drain("b/http://h", OPS), "b has no replica http://h; it has http://127.0.0.1"),
        (lambda o: o.undrain("b", OPS), "b is not draining"),
        (lambda o: o.rollback("jane", OPS), "jane has no earlier state to go back to"),
        (lambda o: o.shift("joe", {"b": 1}, OPS), "there is no model joe; there are jane"),
        (lambda o: o.pause("jane", OPS), "jane is not moving"),
    ],
    ids=["drain-nobody", "drain-no-replica", "undrain", "rollback-first", "no-model", "pause-nothing"],
)
async def test_what_cannot_be_is_refused_in_one_sentence_and_changes_nothing(ask: Any, said: str) -> None:
    async with two_backends() as router:
        with pytest.raises(NotPossible, match=said):
            await ask(router.parts.operations)
        assert await revision_of(router) == 1


async def test_a_store_that_cannot_be_used_costs_no_call_and_is_caught_up_with_when_it_can(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    store = f"\nstore: {{url: sqlite:///{folder}/crossfade.db}}\n"
    async with two_backends("split: {b: 1.0}", store) as router:
        parts = router.parts
        assert (
            set((await who_answers(router, range(5))).values()) == {"b"} and "cannot be used" in parts.journal.trouble
        )
        folder.mkdir()
        first = await until(parts.journal, lambda _: True)
        assert (first.kind, parts.journal.trouble) == (Kind.START, "")


async def test_operations_on_the_store_alone_are_in_force_when_the_router_starts(tmp_path: Path) -> None:
    store = f"\nstore: {{url: sqlite:///{tmp_path}/crossfade.db}}\n"
    async with two_backends(store=store):
        pass
    journal = Journal(Store(f"sqlite:///{tmp_path}/crossfade.db"), lambda _revision: None)
    alone = Operations(journal, lambda: {"jane": ("a", "b")}, lambda: {"a": (), "b": ()})
    await alone.shift("jane", {"b": 1.0}, OPS)
    await journal.close()
    async with two_backends(store=store) as router:
        assert set((await who_answers(router, range(10))).values()) == {"b"}


async def until(journal: Journal, holds: Callable[[Revision], bool]) -> Revision:
    async with asyncio.timeout(10):
        while journal.last is None or not holds(journal.last):
            await asyncio.sleep(0.01)
    return journal.last
