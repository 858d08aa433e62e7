"""What a server tells of itself when asked: its count of a prompt, its context, its sampling defaults, its own name for a model.

Beside health and lists, which the router asks for all the time. Each function answers None, or nothing, where the server does not tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from backends.errors import BackendError, Failed
from backends.faults import MALFORMED
from backends.http import PROBE_TIMEOUT_S, Limits, Outgoing, Replica

MAX_REPLY_BYTES = 1_048_576
# The fields of llama.cpp's sampling that a call can set under the same name.
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty")
_NEUTRAL = {"top_k": 0, "top_p": 1, "min_p": 0, "repeat_penalty": 1}  # as good as not there


class _Counted(msgspec.Struct):
    count: int | None = None
    tokens: list[Any] = []


class _Prompt(msgspec.Struct):
    prompt: str


class _Settings(msgspec.Struct):
    n_ctx: int | None = None
    params: dict[str, msgspec.Raw] = {}


class _Props(msgspec.Struct):
    default_generation_settings: _Settings = msgspec.field(default_factory=_Settings)


class _Named(msgspec.Struct):
    model: str | None = None


async def exact_prompt_tokens(server: Replica, model: str, messages: list[dict[str, Any]]) -> int | None:
    """How many tokens the server makes of the conversation, by its own tokenizer and chat template."""
    asked: Mapping[str, Any] = {"model": model, "messages": messages}
    if server.dialect.kind == "vllm":
        counted = await _post(server, b"/tokenize", asked, _Counted)
        return counted.count if counted is not None else None
    if server.dialect.kind == "llama-server":
        rendered = await _post(server, b"/apply-template", asked, _Prompt)
        if rendered is not None:
            text = {"content": rendered.prompt, "add_special": True, "parse_special": True}
            counted = await _post(server, b"/tokenize", text, _Counted)
            return len(counted.tokens) if counted is not None else None
    return None


async def props(server: Replica) -> tuple[int | None, dict[str, float]]:
    """The context of one slot, and the sampling defaults: of llama.cpp's server, which alone tells them."""
    if server.dialect.kind != "llama-server":
        return None, {}
    try:
        settings = msgspec.json.decode(await server.get("/props"), type=_Props).default_generation_settings
        found = {name: msgspec.json.decode(settings.params[name]) for name in _SAMPLING if name in settings.params}
    except (BackendError, *MALFORMED):
        return None, {}
    numbers = {name: round(value, 4) for name, value in found.items() if isinstance(value, (int, float))}
    numbers = {name: value for name, value in numbers.items() if value != _NEUTRAL.get(name)}
    return settings.n_ctx, numbers


async def said_name(server: Replica, model: str, messages: list[dict[str, Any]], limits: Limits) -> str | None:
    """What an answer to a call of `model` calls the model. Raises BackendError."""
    named = await _ask(
        server, b"/v1/chat/completions", {"model": model, "messages": messages, "max_tokens": 1}, _Named, limits
    )
    return named.model


Form = TypeVar("Form")


async def _post(server: Replica, path: bytes, asked: Mapping[str, Any], form: type[Form]) -> Form | None:
    due_s = asyncio.get_running_loop().time() + PROBE_TIMEOUT_S
    limits = Limits(PROBE_TIMEOUT_S, due_s, lambda: Failed(f"no answer within {PROBE_TIMEOUT_S:g} s"))
    try:
        return await _ask(server, path, asked, form, limits)
    except BackendError:
        return None


async def _ask(server: Replica, path: bytes, asked: Mapping[str, Any], form: type[Form], limits: Limits) -> Form:
    async with server.open(Outgoing(path, (msgspec.json.encode(asked),)), limits) as reply:
        body = await reply.read(MAX_REPLY_BYTES)
    try:
        return msgspec.json.decode(body, type=form)
    except MALFORMED as exc:
        raise Failed(f"{path.decode()} does not answer as {server.dialect.kind} does") from exc
