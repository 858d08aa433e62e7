"""A second attempt beside a slow one: whichever has content first answers, the other is ended, and all of it is paid for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from tests.running import Router, config_for, running
from tests.upstream import (
    STREAM_HEAD,
    Connection,
    Received,
    Script,
    Upstream,
    answer,
    chat_answer,
    chunked,
    event,
    says,
    stream,
)

HEDGED = "split: {a: 1.0}\nhedge: {after_s: 0.05}"


def hangs(before: bytes = b"") -> Script:
    """A backend that never has content."""

    async def script(_request: Received, connection: Connection) -> None:
        await connection.write(*([before] if before else []))
        await connection.until_gone()

    return script


async def metrics(router: Router) -> str:
    return (await router.client.get("/metrics")).text


async def settled(router: Router, outcomes: Mapping[str, str]) -> None:
    """Wait until each backend's attempt is on record with this outcome."""
    lines = [
        f'crossfade_attempts_total{{backend="{name}",model="jane",outcome="{kind}"}} 1.0'
        for name, kind in outcomes.items()
    ]
    async with asyncio.timeout(5):
        while True:
            text = await metrics(router)
            if all(line in text for line in lines):
                return
            await asyncio.sleep(0.01)


async def test_a_backend_that_is_slow_to_say_anything_is_overtaken_and_hung_up_on_at_once() -> None:
    async with (
        Upstream(hangs(STREAM_HEAD)) as a,
        Upstream(says("from b")) as b,
        running(config_for({"a": a.url, "b": b.url}, HEDGED)) as router,
    ):
        got = await router.chat(stream=True)
        await asyncio.wait_for(a.gone.wait(), 1)
        assert (got.status_code, got.headers["x-crossfade-backend"], got.headers["x-crossfade-attempts"]) == (
            200,
            "b",
            "2",
        )
        assert "from" in got.text and got.text.endswith("data: [DONE]\n\n") and got.text.count('"role"') == 1
        await settled(router, {"a": "outrun", "b": "ok"})
        text = await metrics(router)
        assert 'crossfade_steps_total{model="jane",reason="hedged"} 1.0' in text
        assert 'crossfade_calls_total{backend="b",model="jane",result="ok"} 1.0' in text
        assert (
            'crossfade_in_flight{backend="a"' in text
            and f'crossfade_in_flight{{backend="a",replica="{a.url}"}} 0.0' in text
        )


async def test_the_first_may_still_win_and_then_the_hedge_is_ended() -> None:
    may_speak = asyncio.Event()

    async def slow(_request: Received, connection: Connection) -> None:
        await may_speak.wait()
        await connection.write(*stream("from a "))

    async def hedge(_request: Received, connection: Connection) -> None:
        may_speak.set()
        await connection.until_gone()

    async with (
        Upstream(slow) as a,
        Upstream(hedge) as b,
        running(config_for({"a": a.url, "b": b.url}, HEDGED)) as router,
    ):
        got = await router.chat(stream=True)
        await asyncio.wait_for(b.gone.wait(), 1)
        assert (got.headers["x-crossfade-backend"], got.headers["x-crossfade-attempts"]) == ("a", "2")
        await settled(router, {"a": "ok", "b": "outrun"})


async def test_a_backend_that_answers_soon_enough_is_not_hedged_and_neither_is_a_whole_answer_or_a_batch() -> None:
    async def slow_whole(request: Received, connection: Connection) -> None:
        if request.json.get("stream") and request.json["messages"][0]["content"] == "soon":
            await connection.write(*stream("a "))
            return
        await asyncio.sleep(0.2)
        await connection.write(*(stream("a ") if request.json.get("stream") else [answer(chat_answer("a"))]))

    async with (
        Upstream(slow_whole) as a,
        Upstream(says("from b")) as b,
        running(config_for({"a": a.url, "b": b.url}, HEDGED)) as router,
    ):
        soon = [{"role": "user", "content": "soon"}]
        for got in (
            await router.chat(stream=True, messages=soon),
            await router.chat(),
            await router.chat(stream=True, headers={"x-crossfade-priority": "batch"}),
        ):
            assert (got.status_code, got.headers["x-crossfade-backend"]) == (200, "a")
        assert not b.received


async def test_without_budget_there_is_no_hedge() -> None:
    no_budget = (
        HEDGED
        + "\nretry: {budget_ratio: 0, budget_min_per_s: 0}\ntimeouts: {first_token_s: 0.3, first_token_per_kib_s: 0}"
    )
    async with (
        Upstream(hangs()) as a,
        Upstream(says("from b")) as b,
        running(config_for({"a": a.url, "b": b.url}, no_budget)) as router,
    ):
        got = await router.chat(stream=True)
        assert (got.status_code, got.headers["x-crossfade-attempts"]) == (200, "2")  # after its time was over
        text = await metrics(router)
        assert 'reason="hedge_budget_empty"' in text and 'outcome="first_token_timeout"' in text


async def test_a_hedge_that_fails_leaves_the_first_to_answer() -> None:
    may_speak = asyncio.Event()

    async def slow(_request: Received, connection: Connection) -> None:
        await may_speak.wait()
        await connection.write(*stream("from a "))

    async def fails(_request: Received, connection: Connection) -> None:
        await connection.write(answer({"error": {"message": "no", "code": 500}}, "500 Oh"))
        may_speak.set()

    async with (
        Upstream(slow) as a,
        Upstream(fails) as b,
        running(config_for({"a": a.url, "b": b.url}, HEDGED)) as router,
    ):
        got = await router.chat(stream=True)
        assert (got.status_code, got.headers["x-crossfade-backend"]) == (200, "a")
        await settled(router, {"a": "ok", "b": "failed"})


async def test_where_both_fail_the_call_goes_on_to_a_third_and_each_is_asked_no_more_than_it_may_be() -> None:
    hedge_came = asyncio.Event()

    async def dies(_request: Received, connection: Connection) -> None:
        await hedge_came.wait()
        connection.reset()

    async def dies_too(_request: Received, connection: Connection) -> None:
        hedge_came.set()
        connection.reset()

    async with (
        Upstream(dies) as a,
        Upstream(dies_too) as b,
        Upstream(says("from c")) as c,
        running(config_for({"a": a.url, "b": b.url, "c": c.url}, HEDGED)) as router,
    ):
        got = await router.chat(stream=True)
        assert (got.headers["x-crossfade-backend"], got.headers["x-crossfade-attempts"]) == ("c", "3")
        await settled(router, {"a": "protocol_broken", "b": "protocol_broken", "c": "ok"})


async def test_a_client_that_leaves_during_the_race_ends_both() -> None:
    hedge_came = asyncio.Event()

    async def second(_request: Received, connection: Connection) -> None:
        hedge_came.set()
        await connection.until_gone()

    async with (
        Upstream(hangs()) as a,
        Upstream(second) as b,
        running(config_for({"a": a.url, "b": b.url}, HEDGED)) as router,
    ):
        call = asyncio.create_task(router.chat(stream=True))
        await asyncio.wait_for(hedge_came.wait(), 5)
        call.cancel()
        await asyncio.wait_for(asyncio.gather(a.gone.wait(), b.gone.wait()), 1)
        await settled(router, {"a": "client_gone", "b": "client_gone"})


async def test_a_winner_that_breaks_after_its_first_content_ends_with_one_error_where_nothing_may_be_resumed() -> None:
    async def breaks(_request: Received, connection: Connection) -> None:
        await connection.write(STREAM_HEAD, chunked(event({"content": "half "})))
        connection.reset()

    async with (
        Upstream(hangs()) as a,
        Upstream(breaks) as b,
        running(config_for({"a": a.url, "b": b.url}, HEDGED + "\nresume: {by: []}")) as router,
    ):
        got = await router.chat(stream=True)
        assert got.text.count('"error"') == 1 and "[DONE]" not in got.text and "half" in got.text
        await settled(router, {"a": "outrun", "b": "stream_broken"})
