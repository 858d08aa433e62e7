"""The ladder of one call through the running router: it keeps what the table of `policies.retry` promises, and ends when it should."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
import pytest_asyncio

from tests.running import Router, config_for, running
from tests.upstream import (
    Backend,
    Connection,
    Received,
    Script,
    Upstream,
    answer,
    hangs,
    says,
    sends,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = """
split: {a: 1.0}
retry: {backoff_s: [0.001, 0.002]}
eject: {at_most_share: 0}
timeouts: {first_token_s: 0.15, first_token_per_kib_s: 0, answer_s: 0.15}
""".strip()


@dataclass(frozen=True, slots=True)
class Stage:
    """One router for the file: calls go to a and fall back to b."""

    router: Router
    a: Backend
    at_a: Upstream
    at_b: Upstream

    async def chat(
        self, model: str = "jane", stream: bool = False, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        return await self.router.chat(model=model, stream=stream, headers=headers)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_stage() -> AsyncIterator[Stage]:
    a = Backend()
    async with Upstream(a) as at_a, Upstream(says("from b")) as at_b:
        config = config_for({"a": at_a.url, "b": at_b.url}, MODEL)
        async with running(config) as router:
            yield Stage(router, a, at_a, at_b)


@pytest.fixture
def stage(running_stage: Stage) -> Stage:
    running_stage.at_a.received.clear()
    running_stage.at_b.received.clear()
    return running_stage


def fails(status: str, message: str = "boom", *headers: str) -> Script:
    return sends(answer({"error": {"message": message}}, status, *headers))


async def test_one_deadline_covers_the_whole_ladder(stage: Stage) -> None:
    """With less than a second left nothing new is begun, although b would answer."""
    stage.a.script = hangs
    async with asyncio.timeout(5):
        response = await stage.chat(headers={"x-crossfade-timeout-s": "1.1"})
    assert response.status_code == 504 and response.json()["error"]["code"] == "timeout"
    assert (len(stage.at_a.received), len(stage.at_b.received)) == (1, 0)


@pytest.mark.parametrize(
    "asked", ["0", "-1", "nan", "inf", "soon", "", "1_0", "+1", "1e3", "0x1", "1,5", ".5"], ids=repr
)
async def test_a_time_limit_that_is_none_is_the_callers_fault(stage: Stage, asked: str) -> None:
    response = await stage.chat(headers={"x-crossfade-timeout-s": asked})
    assert response.status_code == 400 and response.json()["error"]["code"] == "invalid_timeout"
    assert not stage.at_a.received


async def test_an_empty_budget_ends_repeats_on_the_same_backend_and_never_the_move_to_the_next() -> None:
    model = MODEL.replace(
        "backoff_s: [0.001, 0.002]", "backoff_s: [0.001, 0.002], budget_ratio: 0, budget_min_per_s: 0"
    )
    async with (
        Upstream(fails("500 Oh")) as a,
        Upstream(says("x")) as b,
        running(config_for({"a": a.url, "b": b.url}, model)) as router,
    ):
        for _ in range(3):
            assert (await router.chat()).headers["x-crossfade-attempts"] == "2"
        metrics = (await router.client.get("/metrics")).text
    assert (len(a.received), len(b.received)) == (3, 3)
    assert 'crossfade_steps_total{model="jane",reason="budget_empty"} 3.0' in metrics


@pytest.mark.parametrize("streams", [True, False], ids=["streaming", "whole"])
async def test_all_backends_down_is_told_without_a_second_round(streams: bool) -> None:
    async with Upstream(hangs) as a, Upstream(hangs) as b:
        await a.stop()
        await b.stop()
        async with running(config_for({"a": a.url, "b": b.url})) as router:
            for _ in range(5):
                async with asyncio.timeout(2):  # generous: it takes milliseconds
                    response = await router.chat(stream=streams)
                assert response.status_code == 503
                assert 1 <= int(response.headers["retry-after"]) <= 60
                assert response.headers["x-should-retry"] == "false"
                assert response.headers["x-crossfade-attempts"] in ("1", "2")
                assert response.json()["error"]["code"] == "backend_unavailable"
            metrics = (await router.client.get("/metrics")).text
    assert "same_backend" not in metrics
    assert 'crossfade_calls_total{backend="a"' in metrics or 'crossfade_calls_total{backend="b"' in metrics


async def test_the_fallback_order_is_the_one_that_is_written() -> None:
    model = MODEL + "\nfallback: [c, b]"
    async with (
        Upstream(fails("404 No")) as a,
        Upstream(says("b")) as b,
        Upstream(fails("404 No")) as c,
        running(config_for({"a": a.url, "b": b.url, "c": c.url}, model)) as router,
    ):
        response = await router.chat(headers={"x-crossfade-explain": "1"})
    trail = response.headers["x-crossfade-trail"]
    assert trail.index("a not_served") < trail.index("c not_served") < trail.index("-> b")


async def test_a_backend_at_its_limit_is_passed_over_and_not_charged() -> None:
    arrived = asyncio.Event()

    async def holds(request: Received, connection: Connection) -> None:
        arrived.set()
        await hangs(request, connection)

    async with Upstream(holds) as a, Upstream(says("b")) as b:
        config = config_for({"a": a.url, "b": b.url}, server="queue_wait_s: 0.05").replace(
            f"kind: vllm, url: {a.url}", f"kind: vllm, max_in_flight: 1, url: {a.url}"
        )
        async with running(config) as router:
            first = asyncio.create_task(router.chat())
            await arrived.wait()
            response = await router.chat(headers={"x-crossfade-explain": "1"})
            first.cancel()
    assert response.headers["x-crossfade-backend"] == "b" and "a refused" in response.headers["x-crossfade-trail"]
    assert len(a.received) == 1


async def test_more_calls_than_fit_wait_in_line_and_are_told_to_come_back() -> None:
    arrived, leave = asyncio.Event(), asyncio.Event()

    async def holds(request: Received, connection: Connection) -> None:
        arrived.set()
        await leave.wait()
        await says("x")(request, connection)

    limits = "max_in_flight: 1\nqueue_size: 1\nqueue_wait_s: 5"
    async with Upstream(holds) as a, running(config_for({"a": a.url}, server=limits)) as router:
        first = asyncio.create_task(router.chat())
        await arrived.wait()
        others = [asyncio.create_task(router.chat()) for _ in range(2)]
        done, (waits,) = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
        turned_away = done.pop().result()
        leave.set()
        assert (await first).status_code == (await waits).status_code == 200
        metrics = (await router.client.get("/metrics")).text
    assert turned_away.status_code == 503 and turned_away.json()["error"]["code"] == "overloaded"
    assert 1 <= int(turned_away.headers["retry-after"]) <= 60
    assert 'result="overloaded"} 1.0' in metrics
