"""What a key allows on the running router: its class, how many calls at once, how many a minute."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.running import Router, config_for, running
from tests.upstream import Backend, Connection, Received, Upstream, hangs, says

ENV = {"PEOPLE": "person", "JOBS": "job", "PAIRS": "pair, pair2", "RATED": "rated", "BOTH": "both,person"}
CLIENTS = """
keys_env: NONE
clients:
  - {key_env: PEOPLE}
  - {key_env: JOBS, priority: batch}
  - {key_env: PAIRS, max_in_flight: 2}
  - {key_env: RATED, calls_per_min: 2}
  - {key_env: BOTH, max_in_flight: 1, calls_per_min: 1}
""".strip()


@pytest_asyncio.fixture
async def backend() -> AsyncIterator[Upstream]:
    async with Upstream(Backend()) as a:
        yield a


@pytest_asyncio.fixture
async def router(backend: Upstream) -> AsyncIterator[Router]:
    async with running(config_for({"a": backend.url}, server=CLIENTS), ENV) as router:
        yield router


async def chat(router: Router, key: str, priority: str | None = None) -> httpx.Response:
    asked = {} if priority is None else {"x-crossfade-priority": priority}
    return await router.chat(headers={"authorization": f"Bearer {key}", **asked})


def said(response: httpx.Response) -> tuple[int, str, str]:
    error = response.json()["error"]
    return response.status_code, error["type"], error["code"]


LIMITED = (429, "rate_limit_error", "rate_limit_exceeded")


@pytest.mark.parametrize("asked", ["interactive", "batch", "shadow"])
@pytest.mark.parametrize("key", ["person", "job"])
async def test_every_key_may_ask_for_every_class(router: Router, key: str, asked: str) -> None:
    assert (await chat(router, key, asked)).status_code == 200


@pytest.mark.parametrize("asked", ["", "Batch", "urgent", "batch, shadow", "0"])
async def test_a_class_that_there_is_not_is_the_callers_fault(router: Router, backend: Upstream, asked: str) -> None:
    response = await chat(router, "person", asked)
    assert said(response) == (400, "invalid_request_error", "invalid_priority")
    assert not backend.received


async def test_the_calls_of_a_group_at_once_are_counted_over_its_keys_and_given_back(
    router: Router, backend: Upstream
) -> None:
    arrived: asyncio.Queue[None] = asyncio.Queue()

    async def holds(request: Received, connection: Connection) -> None:
        arrived.put_nowait(None)
        await hangs(request, connection)

    script = backend.script
    assert isinstance(script, Backend)
    script.script = holds
    running_calls = [asyncio.create_task(chat(router, key)) for key in ("pair", "pair2")]
    for _ in running_calls:
        await arrived.get()
    refused = await chat(router, "pair")
    assert said(refused) == LIMITED and 1 <= int(refused.headers["retry-after"]) <= 60
    script.script = says("x")
    assert (await chat(router, "person")).status_code == 200, "another group's limit is not its own"
    for task in running_calls:
        task.cancel()  # its client leaves
    await asyncio.gather(*running_calls, return_exceptions=True)
    async with asyncio.timeout(5):
        while (again := await chat(router, "pair")).status_code == 429:
            await asyncio.sleep(0.01)
    assert again.status_code == 200


async def test_the_calls_of_a_minute_are_counted_and_the_next_one_is_told_when(
    router: Router, backend: Upstream
) -> None:
    assert [(await chat(router, "rated")).status_code for _ in range(2)] == [200, 200]
    refused = await chat(router, "rated")
    assert said(refused) == LIMITED
    assert 25 <= int(refused.headers["retry-after"]) <= 30
    assert "x-should-retry" not in refused.headers, "SDKs wait it out and come back"
    assert len(backend.received) == 2
    metrics = (await router.client.get("/metrics")).text
    assert 'crossfade_turned_away_total{reason="rate_limit_exceeded"} 1.0' in metrics


async def test_what_never_becomes_a_call_takes_nothing_of_a_limit(router: Router) -> None:
    headers = {"authorization": "Bearer both"}
    for _ in range(3):
        assert (await router.client.post("/v1/chat/completions", json={}, headers=headers)).status_code == 400
        assert (await router.client.get("/v1/models", headers=headers)).status_code == 200
        assert (await router.chat(model="nobody", headers=headers)).status_code == 404
    assert (await chat(router, "both")).status_code == 200


async def test_a_key_of_two_groups_belongs_to_the_first(router: Router) -> None:
    assert [(await chat(router, "person")).status_code for _ in range(3)] == [200, 200, 200]


async def test_an_end_that_is_an_error_gives_the_place_back_too(router: Router, backend: Upstream) -> None:
    await backend.stop()
    statuses = {(await chat(router, "pair")).status_code for _ in range(4)}
    assert 429 not in statuses
