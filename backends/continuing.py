"""Asking a server to go on in the middle of an answer, and finding out, without inference, whether it would.

Two forms. *Chat*: the partial answer as the conversation's last message, left open (`continue_final_message`); what vLLM and llama-server
make of it is seen in the prompt that they render. *Harmony*: vLLM's chat closes that message for gpt-oss, silently (checked on 0.32 and
0.33), so there the prompt is written out: the conversation's own tokens, as the chat endpoint itself says that it has made them, then
the channels with what was sent, the last one open. They are not taken from `/tokenize`: for a conversation it goes by the tokenizer's
chat template, which is not what vLLM's chat does for gpt-oss (0.32 has no template there at all, and neither knows `reasoning_effort`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec

from backends.errors import BackendError, ConnectFailed, Failed, Refused, Rejected
from backends.faults import MALFORMED
from backends.http import PROBE_TIMEOUT_S, Limits, Outgoing, Replica
from backends.transcript import Said

Fields = dict[str, msgspec.Raw]

MAX_REPLY_BYTES = 16_777_216  # a prompt's tokens as JSON: 8 bytes each, for two million of them
# Of openai-harmony's vocabulary, o200k_harmony: each ends a message, or begins what is no longer the answer's text.
_CHANNEL, _MESSAGE = 200005, 200008
_STOP_TOKENS = (200002, 200005, 200006, 200007, 200012)  # return, channel, start, end, call
_TO_FINAL = "<|channel|>final<|message|>"
_TO_FINAL_AFTER_ANALYSIS = "<|channel|>analysis<|message|>{}<|end|><|start|>assistant" + _TO_FINAL

_REASON, _TEXT = "Crossfade asks whether", "Crossfade asks whether this message is left open:"
_LIMITING = ("max_tokens", "max_completion_tokens", "min_tokens")
# What a chat call and a completions call have in common, beside the limits.
_IN_BOTH = (
    "stream", "stream_options", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "logit_bias", "user", "ignore_eos", "priority", "cache_salt",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """How a server continues a message, and what of it reaches the model: its reasoning, and blank space at its ends."""

    by: Literal["none", "chat", "harmony"]
    keeps_reasoning: bool = False
    keeps_space: bool = True


class _Tokens(msgspec.Struct):
    tokens: list[int]
    max_model_len: int | None = None


class _Prompt(msgspec.Struct):
    prompt: str


class _Told(msgspec.Struct):
    prompt_token_ids: list[int] | None = None


# -- finding out ---------------------------------------------------------------------------------------


async def find_out(server: Replica, model: str) -> Found:
    """How `server` continues a partial message of `model`, its own name. Raises BackendError where it cannot be asked now."""
    if server.dialect.kind not in ("vllm", "llama-server"):
        return Found("none")
    try:
        if server.dialect.kind == "vllm" and await _is_harmony(server, model):
            return Found("harmony", keeps_reasoning=True)
        return await _by_chat(server, model)
    except (ConnectFailed, Refused, Failed):
        raise
    except BackendError:  # it has no such route, or wants none of this
        return Found("none")


async def _by_chat(server: Replica, model: str) -> Found:
    if not (await _rendered(server, model, {"content": _TEXT})).endswith(_TEXT):
        return Found("none")
    spaced = f" {_TEXT}\n"
    reasoned = await _rendered(server, model, {"content": _TEXT, "reasoning": _REASON, "reasoning_content": _REASON})
    return Found(
        "chat",
        keeps_reasoning=reasoned.count(_REASON) > 1 and reasoned.endswith(_TEXT),
        keeps_space=(await _rendered(server, model, {"content": spaced})).endswith(spaced),
    )


async def _rendered(server: Replica, model: str, message: dict[str, str]) -> str:
    """The prompt that the server makes of a conversation with this message left open."""
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", **message}]
    call = {"model": model, "messages": messages, "continue_final_message": True, "add_generation_prompt": False}
    if server.dialect.kind == "llama-server":
        return (await _ask(server, b"/apply-template", call, _Prompt)).prompt
    tokens = (await _ask(server, b"/tokenize", call, _Tokens)).tokens
    return (await _ask(server, b"/detokenize", {"model": model, "tokens": tokens}, _Prompt)).prompt


async def _is_harmony(server: Replica, model: str) -> bool:
    """Whether the marks of gpt-oss's format are tokens of their own."""
    call = {"model": model, "prompt": _TO_FINAL, "add_special_tokens": False}
    tokens = (await _ask(server, b"/tokenize", call, _Tokens)).tokens
    return len(tokens) == 3 and (tokens[0], tokens[2]) == (_CHANNEL, _MESSAGE)


Form = TypeVar("Form")


async def _ask(
    server: Replica, path: bytes, call: Mapping[str, Any], form: type[Form], limits: Limits | None = None
) -> Form:
    """Post `call` and read the answer as `form`. Raises BackendError, Rejected where the answer is of another form."""
    async with server.open(Outgoing(path, (msgspec.json.encode(call),)), limits or _probe_limits()) as reply:
        body = await reply.read(MAX_REPLY_BYTES)
    try:
        return msgspec.json.decode(body, type=form)
    except MALFORMED as exc:
        raise Rejected(f"{path.decode()} does not answer as {server.dialect.kind} does") from exc


def _probe_limits() -> Limits:
    due_s = asyncio.get_running_loop().time() + PROBE_TIMEOUT_S
    return Limits(PROBE_TIMEOUT_S, due_s, lambda: Failed(f"no answer within {PROBE_TIMEOUT_S:g} s"))


# -- asking --------------------------------------------------------------------------------------------


def chat_left_open(fields: Fields, said: Said) -> Fields:
    """A chat call that goes on where `said` stops. `messages` is not parsed: the list is reopened at its end."""
    message = {"role": "assistant", "content": said.content}
    if said.reasoning:
        message |= {"reasoning": said.reasoning, "reasoning_content": said.reasoning}
    listed = bytes(fields["messages"]).rstrip().removesuffix(b"]")
    return {
        **_shortened(fields, said.deltas),
        "messages": msgspec.Raw(b"%b,%b]" % (listed, msgspec.json.encode(message))),
        "continue_final_message": _TRUE,
        "add_generation_prompt": _FALSE,
    }


def prompt_left_open(fields: Fields, said: Said) -> Fields:
    """A completions call that goes on where `said` stops; its prompt must be one string."""
    prompt = msgspec.json.decode(fields["prompt"], type=str) + said.content
    return {**_shortened(fields, said.deltas), "prompt": _raw(prompt)}


@dataclass(frozen=True, slots=True)
class HarmonyPrompt:
    """The tokens that a gpt-oss on vLLM has been given and has said: the conversation's own, and the channels with what was sent."""

    conversation: list[int]
    opened: list[int]
    context_tokens: int | None


async def harmony_prompt(server: Replica, fields: Fields, model: str, said: Said, limits: Limits) -> HarmonyPrompt:
    """Ask the engine for them; its prefix cache then has the conversation. Raises BackendError."""
    dropped = ("stream", "stream_options", *_LIMITING)
    call: dict[str, Any] = {name: value for name, value in fields.items() if name not in dropped}
    call |= {"model": model, "max_completion_tokens": 1, "return_token_ids": True}
    told = await _ask(server, b"/v1/chat/completions", call, _Told, limits)
    if not told.prompt_token_ids:
        raise Rejected("the engine does not tell a conversation's tokens")
    opening = _TO_FINAL_AFTER_ANALYSIS.format(said.reasoning) if said.reasoning else _TO_FINAL
    text = {"model": model, "prompt": opening + said.content, "add_special_tokens": False}
    opened = await _ask(server, b"/tokenize", text, _Tokens, limits)
    return HarmonyPrompt(told.prompt_token_ids, opened.tokens, opened.max_model_len)


def harmony_left_open(fields: Fields, prompt: HarmonyPrompt) -> Fields:
    """A completions call that goes on in the open channel, and stops at whatever ends it."""
    call = {name: value for name, value in fields.items() if name in _IN_BOTH}
    limits = [limit - len(prompt.opened) for name in _LIMITING[:2] if (limit := _number(fields, name)) is not None]
    if prompt.context_tokens is not None:  # without any limit an engine's completions stop after 16 tokens
        limits.append(prompt.context_tokens - len(prompt.conversation) - len(prompt.opened))
    if limits:
        call["max_tokens"] = _raw(max(1, min(limits)))
    call["prompt"] = _raw(prompt.conversation + prompt.opened)
    call["stop_token_ids"] = _raw(_STOP_TOKENS)
    return call


def _shortened(fields: Fields, tokens: int) -> Fields:
    """The same call for an answer of which so much has been sent."""
    return fields | {
        name: _raw(max(1, limit - tokens)) for name in _LIMITING if (limit := _number(fields, name)) is not None
    }


def _number(fields: Fields, name: str) -> int | None:
    try:
        return int(msgspec.json.decode(fields[name], type=float))  # engines take 50.0 for 50
    except (KeyError, msgspec.DecodeError):
        return None


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


_TRUE, _FALSE = _raw(True), _raw(False)
