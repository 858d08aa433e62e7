"""How many requests an SDK makes of one call that the router answers with an error, and how long it means to wait between.

The figures stand in docs/http.md. In the scripts a second's wait takes a millisecond.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.clients.captured import VLLM, VLLM_MODEL, answers, packets
from tests.clients.players import NODE_SDKS, SDKS, Players
from tests.clients.stage import MIDDLE, Stage, Unfinished
from tests.running import running
from tests.upstream import Script, Upstream, answer, sends

pytestmark = [
    pytest.mark.node,
    pytest.mark.timeout(60, func_only=True),
    pytest.mark.asyncio(loop_scope="module"),
]

EACH = pytest.mark.parametrize("sdk", SDKS)
NODE = pytest.mark.parametrize("sdk", NODE_SDKS)  # Python's waits cannot be hurried
FAILS = sends(*packets("vllm-0.33-gpt-oss/fail_dead"))
REFUSES = sends(answer({"error": {"message": "slow down", "type": "x"}}, "429 Too Many Requests", "retry-after: 7"))


def call(stage: Stage, **more: Any) -> dict[str, Any]:
    """What a call is about that is allowed to be in a hurry."""
    return {"baseURL": stage.url, "user": stage.callers["vllm"], "hurries": True, **more}


AFTER_THE_LADDER = {"openai for Python": 1, "openai": 1, "ai": 3, "langchain": 7}


@EACH
@pytest.mark.parametrize("name", ["whole", "stream"])
async def test_after_the_routers_own_ladder_each_tries_as_often_as_documented(
    players: Players, stage: Stage, sdk: str, name: str
) -> None:
    for backend in stage.backends.values():
        backend.script = FAILS
    before = await stage.calls_by_result()
    saw = await players[sdk].play(name, **call(stage))
    thrown = saw["thrown"]
    assert (thrown["status"], thrown["code"]) == (503, "backend_unavailable")
    assert thrown["message"] == "The model's backends failed to answer."
    assert saw["requests"] == AFTER_THE_LADDER[sdk]
    if sdk == "langchain":
        assert min(saw["waits"]) < 5000 and sum(saw["waits"]) > 60_000, "on a 503 it waits as it likes"
    after = await stage.calls_by_result()
    assert sum(after.values()) - sum(before.values()) == saw["requests"], "what the SDK counts has reached the router"


@EACH
async def test_after_the_ladder_of_a_model_that_is_overloaded_each_tries_as_often_as_documented(
    players: Players, stage: Stage, sdk: str
) -> None:
    for backend in stage.backends.values():
        backend.script = REFUSES
    saw = await players[sdk].play("whole", **call(stage))
    assert (saw["thrown"]["status"], saw["thrown"]["code"]) == (429, "overloaded")
    assert saw["requests"] == AFTER_THE_LADDER[sdk]
    if sdk in ("ai", "langchain"):
        assert min(saw["waits"]) >= 7000, "it heeds retry-after"


@EACH
async def test_without_retries_of_its_own_each_makes_one_request(players: Players, stage: Stage, sdk: str) -> None:
    for backend in stage.backends.values():
        backend.script = FAILS
    saw = await players[sdk].play("whole", **call(stage, maxRetries=0))
    assert (saw["requests"], saw["thrown"]["status"], saw["thrown"]["code"]) == (1, 503, "backend_unavailable")


WHERE_WAITING_HELPS = {"openai": 3, "ai": 3, "langchain": 7}


@asynccontextmanager
async def in_front_of(script: Script, server: dict[str, Any]) -> AsyncIterator[str]:
    """A router with these settings of its server."""
    async with Upstream(script) as vllm:
        config = {
            "server": server,
            "backends": {"vllm": {"kind": "vllm", "url": vllm.url}},
            "models": {"jane": {"on": {"vllm": VLLM_MODEL}, "split": {"vllm": 1.0}}},
        }
        async with running(json.dumps(config), {"CLIENT_KEY": "key-of-jane"}) as router:
            yield f"http://127.0.0.1:{router.port}/v1"


HI = {"model": "jane", "messages": [{"role": "user", "content": "hi"}]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def limited() -> AsyncIterator[str]:
    """A router where the key may begin one call in a minute, and has."""
    server = {"clients": [{"key_env": "CLIENT_KEY", "calls_per_min": 1}]}
    bearer = {"authorization": "Bearer key-of-jane"}
    async with in_front_of(answers(VLLM), server) as url, httpx.AsyncClient() as client:
        assert (await client.post(f"{url}/chat/completions", json=HI, headers=bearer)).status_code == 200
        yield url


@NODE
async def test_at_its_keys_own_limit_each_waits_as_long_as_it_is_told_and_comes_back(
    players: Players, limited: str, sdk: str
) -> None:
    saw = await players[sdk].play("whole", baseURL=limited, user="u", apiKey="key-of-jane", hurries=True)
    assert (saw["thrown"]["status"], saw["thrown"]["code"]) == (429, "rate_limit_exceeded")
    assert saw["requests"] == WHERE_WAITING_HELPS[sdk]
    assert min(saw["waits"]) > 30_000, "it was told what is left of a minute that has just begun"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def full() -> AsyncIterator[str]:
    """A router with room for one call, and there is one."""
    async with (
        in_front_of(Unfinished(MIDDLE), {"max_in_flight": 1, "queue_size": 0}) as url,
        httpx.AsyncClient() as client,
        client.stream("POST", f"{url}/chat/completions", json={**HI, "stream": True}),
    ):
        yield url


@NODE
async def test_where_the_router_is_full_each_comes_back(players: Players, full: str, sdk: str) -> None:
    saw = await players[sdk].play("whole", baseURL=full, user="u", hurries=True)
    assert (saw["thrown"]["status"], saw["thrown"]["code"]) == (503, "overloaded")
    assert saw["requests"] == WHERE_WAITING_HELPS[sdk]
