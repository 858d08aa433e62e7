"""The official openai package for Python as one more player of calls: it sees what the scripts of `sdks` see."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import openai
from openai import AsyncOpenAI

_HI = [{"role": "user", "content": "hi"}]
_TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("get_weather", "get_time")
]
_RESULTS = {"get_weather": "sunny in Paris", "get_time": "12:00 CET"}

_LIMITS = {"temperature": "temperature", "maxTokens": "max_tokens"}


class PythonPlayer:
    """Plays one call after another in the test's own loop."""

    async def play(self, call: str, **asked: Any) -> dict[str, Any]:
        """What the application saw of this call, and how many requests the package made of it."""
        requests: list[httpx.Request] = []

        async def counted(request: httpx.Request) -> None:
            requests.append(request)

        retries = {"max_retries": asked["maxRetries"]} if "maxRetries" in asked else {}
        http = openai.DefaultAsyncHttpxClient(event_hooks={"request": [counted]})
        async with AsyncOpenAI(
            base_url=asked["baseURL"], api_key=asked.get("apiKey", "none"), http_client=http, **retries
        ) as client:
            try:
                saw = await _CALLS[call](client, asked)
            except openai.APIError as exc:
                saw = {"thrown": _described(exc)}
        return {**saw, "requests": len(requests)}


def _described(exc: openai.APIError) -> dict[str, Any]:
    said = {"code": exc.code, "type": exc.type, "param": exc.param}
    body = exc.body if isinstance(exc.body, dict) else {}
    message = body.get("message", exc.message)
    return {"name": type(exc).__name__, "status": getattr(exc, "status_code", None), **said, "message": message}


def _body(asked: dict[str, Any], **more: Any) -> dict[str, Any]:
    usage = {"stream_options": {"include_usage": True}} if asked.get("usage") else {}
    limits = {ours: asked[name] for name, ours in _LIMITS.items() if name in asked}
    return {"model": "jane", "user": asked["user"], "messages": _HI, **usage, **limits, **more}


async def _whole(client: AsyncOpenAI, asked: dict[str, Any]) -> dict[str, Any]:
    chat = await client.chat.completions.create(**_body(asked))
    (choice,) = chat.choices
    reasoning = [getattr(choice.message, "reasoning", None)]
    return {
        "text": [choice.message.content],
        "reasoning": reasoning,
        "finish": [choice.finish_reason],
        "usage": chat.usage.total_tokens,
    }


async def _stream(client: AsyncOpenAI, asked: dict[str, Any]) -> dict[str, Any]:
    saw: dict[str, Any] = {"text": [], "reasoning": [], "finish": [], "usage": None}
    try:
        async for chunk in await client.chat.completions.create(**_body(asked, stream=True)):
            if chunk.usage:
                saw["usage"] = chunk.usage.total_tokens
            for choice in chunk.choices:
                saw["text"] += [choice.delta.content] if choice.delta.content else []
                saw["reasoning"] += [choice.delta.reasoning] if getattr(choice.delta, "reasoning", None) else []
                saw["finish"] += [choice.finish_reason] if choice.finish_reason else []
    except openai.APIError as exc:
        saw["thrown"] = _described(exc)
    return saw


async def _tools(client: AsyncOpenAI, asked: dict[str, Any]) -> dict[str, Any]:
    first = await _turn(client, asked, _HI)
    calls = first.tool_calls
    results = [{"role": "tool", "tool_call_id": c.id, "content": _RESULTS[c.function.name]} for c in calls]
    second = await _turn(client, asked, [*_HI, first.to_dict(), *results])
    named = [{"id": c.id, "name": c.function.name, "input": json.loads(c.function.arguments)} for c in calls]
    return {"text": [second.content], "tools": named}


async def _turn(client: AsyncOpenAI, asked: dict[str, Any], messages: list[Any]) -> Any:
    body = _body(asked, messages=messages, tools=_TOOLS)
    if not asked["streams"]:
        return (await client.chat.completions.create(**body)).choices[0].message
    async with client.chat.completions.stream(**body) as events:
        return (await events.get_final_completion()).choices[0].message


async def _responses(client: AsyncOpenAI, asked: dict[str, Any]) -> dict[str, Any]:
    first = await client.responses.create(model="jane", user=asked["user"], input="hi")
    saw: dict[str, Any] = {"text": [first.output_text], "ids": [first.id]}
    stream = client.responses.stream(model="jane", user=asked["user"], input="and then?", previous_response_id=first.id)
    try:
        async with stream as events:
            async for event in events:
                saw["text"] += [event.delta] if event.type == "response.output_text.delta" else []
    except openai.APIError as exc:
        saw["thrown"] = _described(exc)
    return saw


async def _abort(client: AsyncOpenAI, asked: dict[str, Any]) -> dict[str, Any]:
    async with await client.chat.completions.create(**_body(asked, stream=True)) as chunks:
        async for chunk in chunks:
            if text := chunk.choices[0].delta.content:
                return {"text": [text]}
    raise AssertionError("the stream had no text")


_CALLS: dict[str, Callable[[AsyncOpenAI, dict[str, Any]], Coroutine[Any, Any, dict[str, Any]]]] = {
    "whole": _whole,
    "stream": _stream,
    "tools": _tools,
    "responses": _responses,
    "abort": _abort,
}
