"""Streams of responses that exist already: vLLM has them only of those made in the background, and breaks off for the others."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.router.test_held import Store, id_in, make
from tests.running import Router, running
from tests.upstream import STREAM_HEAD, Connection, Received, Upstream, answer


@dataclass
class BreaksOff(Store):
    """As vLLM 0.32 does (entrypoints/openai/responses/serving.py): it finds out behind the head that it has kept no events."""

    shows: Any = None  # what it answers where the response itself is asked for; None: the response

    async def __call__(self, request: Received, connection: Connection) -> None:
        path, _, query = request.path.partition("?")
        response = self.held.get(path.removeprefix("/v1/responses/"))
        if response is not None and "stream=true" in query:
            self.asked.append(request)
            await connection.write(STREAM_HEAD)
            connection.writer.close()
        elif response is not None and self.shows is not None:
            self.asked.append(request)
            await connection.write(self.shows)
        else:
            await super().__call__(request, connection)


@asynccontextmanager
async def holding(store: BreaksOff) -> AsyncIterator[Router]:
    async with Upstream(store) as up:
        config = f"""
backends: {{b: {{kind: vllm, url: {up.url}}}}}
models: {{jane: {{on: {{b: real}}, split: {{b: 1.0}}, eject: {{consecutive_failures: 1}}}}}}
"""
        async with running(config, {}) as router:
            yield router


async def streamed(router: Router, shown: str) -> httpx.Response:
    return await router.client.get(f"/v1/responses/{shown}?stream=true")


async def test_a_stream_of_a_response_that_was_not_made_in_the_background_is_a_400_that_says_so() -> None:
    store = BreaksOff("b")
    async with holding(store) as router:
        shown = id_in(await make(router))
        for _ in range(3):
            response = await streamed(router, shown)
            error = response.json()["error"]
            assert (response.status_code, error["type"]) == (400, "invalid_request_error")
            assert (error["code"], error["param"]) == ("unsupported", "stream")
            assert shown in error["message"] and "background" in error["message"]
            assert response.headers["x-crossfade-attempts"] == "1"
        ready = (await router.client.get("/health/ready")).json()
        metrics = (await router.client.get("/metrics")).text
        assert (await router.client.get(f"/v1/responses/{shown}")).json()["id"] == shown
    assert "ejected" not in json.dumps(ready) and 'outcome="protocol_broken"' not in metrics
    own = f"/v1/responses/{shown[:-12]}"
    assert [each.path for each in store.asked[1:3]] == [f"{own}?stream=true", own]


UNTOLD = [
    ("one that was made in the background", {"background": True}, None),
    ("one of which the owner says nothing more", {}, answer(b"<html>")),
    ("one that its owner cannot show either", {}, answer({"error": {"message": "dead", "code": 500}}, "500 Oh")),
    ("an answer that is another response", {}, answer({"id": "resp_other", "object": "response", "background": False})),
]


@pytest.mark.parametrize(("fields", "shows"), [row[1:] for row in UNTOLD], ids=[row[0] for row in UNTOLD])
async def test_what_broke_off_for_another_reason_stays_a_failure(fields: dict[str, Any], shows: bytes | None) -> None:
    store = BreaksOff("b", shows=shows)
    async with holding(store) as router:
        shown = id_in(await make(router, **fields))
        response = await streamed(router, shown)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "backend_unavailable")


async def test_one_that_is_forgotten_meanwhile_is_a_404() -> None:
    gone = {"message": "Response with id 'x' not found.", "param": "response_id", "code": 404}
    store = BreaksOff("b", shows=answer({"error": gone}, "404 Not Found"))
    async with holding(store) as router:
        shown = id_in(await make(router))
        response = await streamed(router, shown)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "response_not_found")
