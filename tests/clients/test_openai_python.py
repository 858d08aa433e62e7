"""The official openai package for Python, sync and async: what an application sees through the router."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from tests.clients.captured import BACKENDS, REASONS, SAYS, VECTOR, is_second_turn
from tests.clients.stage import MIDDLE, Stage, Unfinished, cut_off_after
from tests.upstream import answer, chunked, event, hangs_up_after, sends

pytestmark = pytest.mark.asyncio(loop_scope="module")

BOTH = pytest.mark.parametrize("backend", BACKENDS)
HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
TOOLS: list[ChatCompletionToolParam] = [
    {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}},
    {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}},
]
BROKEN = answer({"error": {"message": "boom", "type": "server_error", "code": 500}}, "500 Internal Server Error")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(whole_stage: Stage) -> AsyncIterator[AsyncOpenAI]:
    """The async client as it comes, two retries included."""
    async with AsyncOpenAI(base_url=whole_stage.url, api_key="none") as client:
        yield client


async def in_thread(stage: Stage, call: Callable[[OpenAI], Any]) -> Any:
    """What a sync application gets: the router and the backends run in this loop, so the call has a thread of its own."""

    def made() -> Any:
        with OpenAI(base_url=stage.url, api_key="none") as client:
            return call(client)

    return await asyncio.to_thread(made)


@BOTH
async def test_async_chat(client: AsyncOpenAI, stage: Stage, backend: str) -> None:
    chat = await client.chat.completions.create(model="jane", messages=HI, user=stage.callers[backend])
    assert (chat.choices[0].message.content, chat.model, chat.choices[0].finish_reason) == (
        SAYS[backend],
        "jane",
        "stop",
    )
    assert chat.usage is not None and chat.usage.total_tokens > 0
    assert len(stage.received[backend]) == 1 and not stage.received[stage.other(backend)]


@BOTH
async def test_sync_chat(stage: Stage, backend: str) -> None:
    user = stage.callers[backend]
    chat = await in_thread(stage, lambda c: c.chat.completions.create(model="jane", messages=HI, user=user))
    assert (chat.choices[0].message.content, chat.model) == (SAYS[backend], "jane")


@BOTH
async def test_async_stream_with_usage(client: AsyncOpenAI, stage: Stage, backend: str) -> None:
    chunks = [
        chunk
        async for chunk in await client.chat.completions.create(
            model="jane",
            messages=HI,
            user=stage.callers[backend],
            stream=True,
            stream_options={"include_usage": True},
        )
    ]
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == SAYS[backend]
    assert "".join(getattr(delta, "reasoning", None) or "" for delta in deltas) == REASONS[backend]
    assert {chunk.model for chunk in chunks} == {"jane"} and len({chunk.id for chunk in chunks}) == 1
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


@BOTH
async def test_sync_stream(stage: Stage, backend: str) -> None:
    def texts(client: OpenAI) -> list[str]:
        user = stage.callers[backend]
        with client.chat.completions.create(model="jane", messages=HI, user=user, stream=True) as chunks:
            return [chunk.choices[0].delta.content or "" for chunk in chunks]

    found = await in_thread(stage, texts)
    assert "".join(found) == SAYS[backend] and len(found) > 3


@BOTH
async def test_the_streaming_helper_puts_two_tool_calls_together(
    client: AsyncOpenAI, stage: Stage, backend: str
) -> None:
    user = stage.callers[backend]
    async with client.chat.completions.stream(model="jane", messages=HI, tools=TOOLS, user=user) as events:
        chat = await events.get_final_completion()
    calls = chat.choices[0].message.tool_calls or []
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [
        ("get_weather", {"city": "Paris"}),
        ("get_time", {"tz": "CET"}),
    ]
    assert chat.choices[0].finish_reason == "tool_calls"


@BOTH
async def test_the_second_turn_of_a_tool_conversation_crosses_to_the_other_backend(
    client: AsyncOpenAI, stage: Stage, backend: str
) -> None:
    user, other = stage.callers[backend], stage.other(backend)
    first = await client.chat.completions.create(model="jane", messages=HI, tools=TOOLS, user=user)
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls" and message.tool_calls is not None
    results: list[ChatCompletionMessageParam] = [
        {"role": "tool", "tool_call_id": call.id, "content": "done"} for call in message.tool_calls
    ]
    asked: Any = message.to_dict()
    stage.backends[backend].script = hangs_up_after()
    second = await client.chat.completions.create(model="jane", messages=[*HI, asked, *results], tools=TOOLS, user=user)
    assert second.choices[0].message.content == SAYS[other]
    (received,) = stage.received[other]
    assert is_second_turn(received)
    ids = [call.id for call in message.tool_calls]
    assert [call["id"] for call in received.json["messages"][1]["tool_calls"]] == ids
    assert [result["tool_call_id"] for result in received.json["messages"][2:]] == ids


async def test_completions(client: AsyncOpenAI, stage: Stage) -> None:
    user = stage.callers["lmstudio"]
    whole = await client.completions.create(model="jane", prompt="The capital of France is", user=user)
    assert (whole.choices[0].text, whole.model) == (" Paris.\n\nThe United States has", "jane")
    usage: Any = {"include_usage": True}
    chunks = await client.completions.create(
        model="jane", prompt="The capital of France is", user=user, stream=True, stream_options=usage
    )
    assert "".join([choice.text async for chunk in chunks for choice in chunk.choices]) == " Paris.\n\n"


async def test_embeddings_are_decoded(client: AsyncOpenAI, stage: Stage) -> None:
    found = await client.embeddings.create(model="jane", input="x", user=stage.callers["vllm"])
    assert (found.data[0].embedding, found.model) == (list(VECTOR), "jane")


async def test_models_are_the_public_ones(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["jane"]


async def test_an_unknown_model_is_a_not_found_error(client: AsyncOpenAI, stage: Stage) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model="nobody", messages=HI)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert not any(stage.received.values())


async def test_a_400_of_the_backend_is_a_bad_request_error(client: AsyncOpenAI, stage: Stage) -> None:
    with pytest.raises(openai.BadRequestError, match=r"temperature must be in \[0, 2\]") as caught:
        await client.chat.completions.create(model="jane", messages=HI, user=stage.callers["vllm"], temperature=2)
    assert (caught.value.type, caught.value.param) == ("invalid_request_error", "temperature")
    assert not stage.received["lmstudio"]


async def test_a_wrong_body_is_a_bad_request_error_and_reaches_no_backend(client: AsyncOpenAI, stage: Stage) -> None:
    wrong: Any = "hi"
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(model="jane", messages=wrong)
    assert not any(stage.received.values())


async def test_with_all_backends_failing_the_package_makes_one_request(client: AsyncOpenAI, stage: Stage) -> None:
    for backend in stage.backends.values():
        backend.script = sends(BROKEN)
    before = await stage.calls_by_result()
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(model="jane", messages=HI)
    assert caught.value.response.headers["x-should-retry"] == "false"
    after = await stage.calls_by_result()
    assert sum(after.values()) - sum(before.values()) == 1, "its two retries would multiply the router's own"


@pytest.mark.parametrize("streams", [False, True], ids=["a whole answer", "a stream"])
async def test_a_client_that_times_out_frees_the_backend(client: AsyncOpenAI, stage: Stage, streams: bool) -> None:
    script = stage.backends["vllm"].script = Unfinished()
    user = stage.callers["vllm"]
    patient = client.with_options(timeout=0.3, max_retries=0)
    with pytest.raises(openai.APITimeoutError):
        await patient.chat.completions.create(model="jane", messages=HI, user=user, stream=streams)
    async with asyncio.timeout(1.0):
        await script.left.wait()
    assert not stage.received["lmstudio"], "nobody waits for a fallback any more"


async def test_a_stream_that_is_closed_early_frees_the_backend(client: AsyncOpenAI, stage: Stage) -> None:
    script = stage.backends["vllm"].script = Unfinished(MIDDLE)
    user = stage.callers["vllm"]
    async with await client.chat.completions.create(model="jane", messages=HI, user=user, stream=True) as chunks:
        async for chunk in chunks:
            if chunk.choices[0].delta.content:
                break
    async with asyncio.timeout(1.0):
        await script.left.wait()


async def test_a_stream_that_breaks_in_a_tool_call_is_raised_and_not_taken_for_an_answer(
    client: AsyncOpenAI, stage: Stage
) -> None:
    begun = event({"tool_calls": [{"index": 0, "id": "1", "function": {"name": "get_time", "arguments": '{"tz'}}]})
    stage.backends["vllm"].script = cut_off_after(*MIDDLE, chunked(begun))
    user = stage.callers["vllm"]
    with pytest.raises(openai.APIError):
        async for _ in await client.chat.completions.create(
            model="jane", messages=HI, tools=TOOLS, user=user, stream=True
        ):
            pass
