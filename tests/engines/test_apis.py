"""Responses, messages and tokenize on real engines behind a real `crossfade serve`: alike on both, whole and streamed, and with the SDK."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from backends.sse import SseDecoder
from tests.dialects.shapes import FOREIGN, forms, keys, shape
from tests.engines.engine import Engine
from tests.engines.load import MODEL
from tests.engines.scenes import client_of, router_over
from tests.serving import RunningRouter

QUESTION = "What is the capital of France?"
TURN = [{"role": "user", "content": QUESTION}]
ASKED: dict[str, dict[str, Any]] = {
    "/v1/responses": {"input": QUESTION, "max_output_tokens": 12, "temperature": 0},
    "/v1/messages": {"messages": TURN, "max_tokens": 12, "temperature": 0},
}
LAST = {"/v1/responses": "response.completed", "/v1/messages": "message_stop"}
PATHS = list(ASKED)

llama = pytest.mark.llama
vllm_too = pytest.mark.vllm
pytestmark = pytest.mark.timeout(900)


async def ask(client: httpx.AsyncClient, path: str, **fields: object) -> httpx.Response:
    response = await client.post(path, json={"model": MODEL, **ASKED.get(path, {}), **fields})
    assert response.status_code == 200, response.text
    return response


def events_in(response: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(event.data) for event in SseDecoder().feed(response.content)]


async def is_answered(router: RunningRouter, path: str) -> None:
    """Whole and streamed, under the public name, with nothing of the engine's own, and the same text both ways."""
    async with client_of(router.url) as client:
        whole = (await ask(client, path)).json()
        events = events_in(await ask(client, path, stream=True))
    assert whole["model"] == MODEL and events[-1]["type"] == LAST[path]
    for document in (whole, *events):
        assert keys(document).isdisjoint(set(FOREIGN) - {"stop_reason"})
    if path == "/v1/responses":
        final = events[-1]["response"]
        assert final["output"][0]["content"][0]["text"] == whole["output"][0]["content"][0]["text"]
        assert "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert shape(final) == shape(whole)
    else:
        said = "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta")
        assert said == whole["content"][0]["text"] and whole["stop_reason"] in ("end_turn", "max_tokens")


@llama
@pytest.mark.parametrize("path", PATHS)
async def test_llama_answers_under_the_public_name(left: Engine, path: str) -> None:
    with router_over(left) as router:
        await is_answered(router, path)


@vllm_too
@pytest.mark.parametrize("path", PATHS)
async def test_vllm_answers_under_the_public_name(vllm: Engine, path: str) -> None:
    with router_over(vllm) as router:
        await is_answered(router, path)


@vllm_too
@pytest.mark.parametrize("path", PATHS)
async def test_both_engines_answers_have_the_same_keys_in_the_same_order(left: Engine, vllm: Engine, path: str) -> None:
    wholes, streams = [], []
    for engine in (left, vllm):
        with router_over(engine) as router:
            async with client_of(router.url) as client:
                wholes.append((await ask(client, path)).json())
                streams.append(events_in(await ask(client, path, stream=True)))
    assert list(wholes[0]) == list(wholes[1])
    for name in ("usage", "output" if path == "/v1/responses" else "content"):
        assert shape(wholes[0][name]) == shape(wholes[1][name])
    seen = [{event["type"]: list(event) for event in events} for events in streams]
    assert seen[0] == seen[1]
    if path == "/v1/messages":
        assert forms(streams[0]) == forms(streams[1]) and shape(wholes[0]) == shape(wholes[1])


async def counts(router: RunningRouter) -> int:
    async with client_of(router.url) as client:
        answer = await ask(client, "/v1/messages/count_tokens", messages=TURN)
    assert list(answer.json()) == ["input_tokens"]
    tokens: int = answer.json()["input_tokens"]
    return tokens


@vllm_too
async def test_both_engines_count_the_same_tokens(left: Engine, vllm: Engine) -> None:
    with router_over(left) as at_left, router_over(vllm) as at_vllm:
        assert await counts(at_left) == await counts(at_vllm) > 0


@vllm_too
async def test_tokenize_goes_to_the_engine_that_has_it(left: Engine, vllm: Engine) -> None:
    with router_over(left, vllm) as router:
        async with client_of(router.url) as client:
            for path in ("/tokenize", "/v1/tokenize") * 4:
                answer = await ask(client, path, prompt="hello world")
                assert answer.headers["x-crossfade-backend"] == vllm.role.name
                assert answer.json()["tokens"] == [28120, 905] and answer.json()["count"] == 2


@llama
async def test_a_model_without_tokenize_says_so(left: Engine) -> None:
    with router_over(left) as router:
        async with client_of(router.url) as client:
            answer = await client.post("/tokenize", json={"model": MODEL, "prompt": "hello world"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unsupported")


async def the_sdk_puts_a_stream_together(router: RunningRouter) -> None:
    async with (
        openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="none") as client,
        client.responses.stream(model=MODEL, input=QUESTION, max_output_tokens=12, temperature=0) as stream,
    ):
        deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert final.output_text == "".join(deltas) != ""
    assert (final.model, final.status) == (MODEL, "completed") and final.usage is not None
    assert final.usage.output_tokens > 0


@llama
async def test_openais_sdk_puts_a_stream_of_llama_together(left: Engine) -> None:
    with router_over(left) as router:
        await the_sdk_puts_a_stream_together(router)


@vllm_too
async def test_openais_sdk_puts_a_stream_of_vllm_together(vllm: Engine) -> None:
    with router_over(vllm) as router:
        await the_sdk_puts_a_stream_together(router)


@vllm_too
async def test_a_stored_response_is_gone_on_from_and_shown_by_the_engine_that_holds_it(
    left: Engine, vllm: Engine
) -> None:
    with router_over(vllm) as router, router_over(left, vllm) as mixed:
        async with openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="none") as client:
            first = await client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=12)
            second = await client.responses.create(
                model=MODEL, input="And of Italy?", previous_response_id=first.id, max_output_tokens=12
            )
            assert second.previous_response_id == first.id != second.id
            assert first.usage is not None and second.usage is not None
            assert second.usage.input_tokens > first.usage.input_tokens + 12, "the first turn stands before it"
            shown = await client.responses.retrieve(second.id)
            assert (shown.id, shown.output_text, shown.model) == (second.id, second.output_text, MODEL)
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve("resp_1")
            with pytest.raises(openai.BadRequestError, match="background"):
                await client.responses.retrieve(first.id, stream=True)
        async with openai.AsyncOpenAI(base_url=f"{mixed.url}/v1", api_key="none") as client:
            for _ in range(6):  # whoever else has half of the calls
                assert (await client.responses.retrieve(first.id)).id == first.id


@vllm_too
async def test_a_background_response_runs_is_followed_and_cancelled(vllm: Engine) -> None:
    with router_over(vllm) as router:
        async with openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="none") as client:
            made = await client.responses.create(
                model=MODEL, input="Tell a long story.", background=True, max_output_tokens=1500
            )
            assert made.status in ("queued", "in_progress")
            assert (await client.responses.retrieve(made.id)).status in ("queued", "in_progress")
            assert (await client.responses.cancel(made.id)).status == "cancelled"
