"""Nobody to go to, and a backend that fails half of too many calls: what is asked of backends stays bounded, and all is well afterwards."""

from __future__ import annotations

import asyncio

from tests.running import config_for, running
from tests.upstream import Connection, Received, Upstream, answer, says, sends

SLOTS, SERVICE_S = 4, 0.02
CALLS = 300
RATIO, FLOOR_PER_S, WINDOW_S = 0.2, 3, 10  # the retry budget's defaults


async def test_with_every_backend_down_each_is_tried_once_and_the_client_is_told_when_to_come_back() -> None:
    async with Upstream(says("x")) as a, Upstream(says("x")) as b:
        config = config_for({"a": a.url, "b": b.url})
        async with running(config) as router:
            assert (await router.chat()).status_code == 200
            await a.stop()
            await b.stop()
            answers = await asyncio.gather(*(router.chat(user=f"user {number}") for number in range(30)))
            metrics = (await router.client.get("/metrics")).text
    for each in answers:
        assert each.status_code == 503
        assert 1 <= int(each.headers["retry-after"]) <= 60
        assert int(each.headers["x-crossfade-attempts"]) <= 2
    assert 'crossfade_inside{backend="",queue="router"} 0.0' in metrics
    assert 'reason="same_backend"' not in metrics, "a refused connection is not tried again"


async def test_a_retry_storm_costs_the_backend_a_fifth_more_at_most_and_leaves_nothing_behind() -> None:
    count, is_ill = 0, True

    async def fails_every_other(request: Received, connection: Connection) -> None:
        nonlocal count
        count += 1
        await asyncio.sleep(SERVICE_S)
        if is_ill and count % 2:
            await sends(answer({"error": "x"}, "500 Oh"))(request, connection)
        else:
            await says("x")(request, connection)

    async with Upstream(fails_every_other) as a:
        model = "split: {a: 1.0}\nretry: {backoff_s: [0.001, 0.002]}"
        config = config_for({"a": a.url}, model, server="queue_wait_s: 0.2").replace(
            f"kind: vllm, url: {a.url}", f"kind: vllm, max_in_flight: {SLOTS}, url: {a.url}"
        )
        async with running(config) as router:
            loop = asyncio.get_running_loop()
            began_s, calls = loop.time(), []
            for number in range(CALLS):
                calls.append(asyncio.create_task(router.chat(user=f"user {number}")))
                await asyncio.sleep(SERVICE_S / SLOTS / 5)
            statuses = [(await each).status_code for each in calls]
            assert set(statuses) == {200, 503}
            assert len(a.received) <= (1 + RATIO) * CALLS + FLOOR_PER_S * (loop.time() - began_s + WINDOW_S)
            is_ill = False
            answers = await asyncio.gather(*(router.chat(user=f"well {number}") for number in range(SLOTS)))
            metrics = (await router.client.get("/metrics")).text
    assert {each.status_code for each in answers} == {200}
    for line in (
        'crossfade_inside{backend="a",queue="backend"} 0.0',
        'crossfade_inside{backend="",queue="router"} 0.0',
    ):
        assert line in metrics
