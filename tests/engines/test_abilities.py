"""What real engines say of what they can do, and what becomes of calls that ask for more: nobody is answered poorer."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import Any

import pytest

from tests.engines.engine import PATIENCE_S, Engine, wait_until
from tests.engines.load import MODEL
from tests.engines.scenes import client_of, router_over
from tests.serving import RunningRouter

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
CHAT = {"model": MODEL, "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
SEES = CHAT | {"messages": [{"role": "user", "content": [IMAGE]}]}
EMBEDS = {"model": MODEL, "input": "hi"}


def known(router: RunningRouter, engine: Engine) -> dict[str, Any]:
    with urllib.request.urlopen(f"{router.url}/health/ready", timeout=PATIENCE_S) as reply:
        found: dict[str, Any] = json.load(reply)["capabilities"][MODEL][engine.role.name]
    return found


async def asked(router: RunningRouter, path: str, body: dict[str, Any]) -> tuple[int, str, str]:
    """Status, the error's code and param, "" where there are none."""
    async with client_of(router.url) as client:
        response = await client.post(path, json=body)
    error = response.json().get("error") or {}
    return response.status_code, error.get("code") or "", error.get("param") or ""


async def until_probed(router: RunningRouter, engine: Engine, last: str) -> dict[str, Any]:
    """What is known once the engine has said whether it can do `last`, which it tells last."""
    is_told = lambda: known(router, engine).get(last, {}).get("from") == "probed"  # noqa: E731
    await asyncio.to_thread(wait_until, is_told, f"{engine.role.name} is probed")
    found = known(router, engine)
    assert found["context_tokens"] == {"tokens": 2048, "from": "probed"}
    return found


@pytest.mark.llama
async def test_llama_server_tells_its_context_and_that_it_sees_nothing(left: Engine) -> None:
    with router_over(left) as router:
        found = await until_probed(router, left, "images")
        assert found["images"] == {"can": False, "from": "probed"}
        assert await asked(router, "/v1/chat/completions", SEES) == (400, "unsupported", "messages")
        assert await asked(router, "/v1/embeddings", EMBEDS) == (404, "unsupported", "model")
        assert known(router, left)["embeddings"] == {"can": False, "from": "answers"}, "it had to be asked"
        assert (await asked(router, "/v1/chat/completions", CHAT | {"n": 2}))[0] == 200


PROMPT = {"model": MODEL, "max_tokens": 4, "prompt": "The capital of France is"}


@pytest.mark.llama
async def test_what_llama_server_would_drop_is_refused_and_the_chosen_tokens_logprobs_come(left: Engine) -> None:
    with router_over(left) as router:
        for path, fields, need in [
            ("/v1/completions", PROMPT | {"echo": True}, "echo"),
            ("/v1/completions", PROMPT | {"suffix": "!"}, "suffix"),
            ("/v1/completions", PROMPT | {"best_of": 2}, "best_of"),
            ("/v1/chat/completions", CHAT | {"functions": [{"name": "f"}]}, "functions"),
            ("/v1/chat/completions", CHAT | {"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools"),
        ]:
            assert await asked(router, path, fields) == (400, "unsupported", need)
        for tool in ({}, {"type": "function"}, {"type": "function", "function": {"name": 5}}):
            assert (await asked(router, "/v1/chat/completions", CHAT | {"tools": [tool]}))[0] == 400
        async with client_of(router.url) as client:
            told = await client.post("/v1/completions", json=PROMPT | {"logprobs": 0})
        assert len(told.json()["choices"][0]["logprobs"]["token_logprobs"]) == 4


@pytest.mark.vllm
@pytest.mark.timeout(900)
async def test_vllm_tells_its_context_and_which_apis_it_has(vllm: Engine) -> None:
    with router_over(vllm) as router:
        found = await until_probed(router, vllm, "embeddings")
        assert found["embeddings"] == {"can": False, "from": "probed"} and found["responses"]["can"]
        assert await asked(router, "/v1/embeddings", EMBEDS) == (404, "unsupported", "model")
        assert await asked(router, "/v1/chat/completions", SEES) == (400, "unsupported", "messages")
        assert (await asked(router, "/v1/chat/completions", CHAT | {"n": 2}))[0] == 200


@pytest.mark.vllm
@pytest.mark.timeout(900)
async def test_an_api_that_one_lacks_is_answered_by_the_other(left: Engine, vllm: Engine) -> None:
    """llama.cpp's `/tokenize` is another one, so all such calls go to vLLM."""
    with router_over(left, vllm) as router:
        async with client_of(router.url) as client:
            for user in map(str, range(6)):
                body = {"model": MODEL, "messages": CHAT["messages"], "user": user}
                response = await client.post("/tokenize", json=body)
                assert (response.status_code, response.headers["x-crossfade-backend"]) == (200, vllm.role.name)
