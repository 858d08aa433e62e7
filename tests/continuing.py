"""What servers answer that continue a partial message, or do not: tokens are the bytes of the prompt, the marks of harmony apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.upstream import Received, Skill, answer

MARKS = {"<|return|>": 200002, "<|channel|>": 200005, "<|start|>": 200006, "<|end|>": 200007, "<|message|>": 200008}
FINAL = 17196  # "final", one token in gpt-oss's vocabulary


def open_prompt(messages: list[dict[str, Any]]) -> str:
    """A template that leaves the last message open, and shows its reasoning."""
    turns = [f"[{m['role']}]{_thoughts(m)}{m['content']}" for m in messages]
    return "\n".join(turns)


def _thoughts(message: dict[str, Any]) -> str:
    return f"<think>{message['reasoning_content']}</think>" if message.get("reasoning_content") else ""


def trimmed_prompt(messages: list[dict[str, Any]]) -> str:
    """A template that trims messages, as Llama 3's does, and drops reasoning."""
    return "\n".join(f"[{m['role']}]{m['content'].strip()}" for m in messages)


def closed_prompt(messages: list[dict[str, Any]]) -> str:
    """A template that knows nothing of open messages."""
    return open_prompt(messages) + "[end][assistant]"


def renders(prompt: Callable[[list[dict[str, Any]]], str]) -> Skill:
    """A vLLM, or a llama-server, whose template is `prompt`."""

    def skill(request: Received) -> bytes:
        asked = request.json
        if request.path == "/detokenize":
            return answer({"prompt": bytes(asked["tokens"]).decode()})
        if request.path == "/apply-template":
            return answer({"prompt": prompt(asked["messages"])})
        text = asked["prompt"] if "prompt" in asked else prompt(asked["messages"])
        return answer({"tokens": list(text.encode()), "max_model_len": 4096})

    return skill


def speaks_harmony(request: Received) -> bytes:
    """A vLLM with a gpt-oss: the marks are tokens of their own, and a conversation's tokens are not to be had here."""
    asked = request.json
    if request.path != "/tokenize" or "prompt" not in asked:
        return b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
    return answer({"tokens": harmony_tokens(asked["prompt"]), "max_model_len": 4096})


def harmony_tokens(text: str) -> list[int]:
    """The marks and "final" as in gpt-oss's vocabulary, anything else byte by byte."""
    tokens: list[int] = []
    while text:
        mark = next((mark for mark in MARKS if text.startswith(mark)), None)
        if mark is not None:
            tokens.append(MARKS[mark])
            text = text[len(mark) :]
        elif text.startswith("final<|"):
            tokens.append(FINAL)
            text = text[5:]
        else:
            tokens += text[0].encode()
            text = text[1:]
    return tokens


def text_event(text: str, finish_reason: str | None = None, model: str = "m") -> bytes:
    """One event of a stream of completions."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
    body = {"id": "cmpl-2", "object": "text_completion", "created": 2, "model": model, "choices": [choice]}
    return b"data: %b\n\n" % json.dumps(body, separators=(",", ":")).encode()


def usage_of(prompt: int, completion: int, *, cached: int = 0, reasoning: int = 0) -> dict[str, Any]:
    """A usage as clients get it."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def usage_event(prompt: int, completion: int, **details: Any) -> bytes:
    """The last event of a stream whose client asked for its usage."""
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, **details}
    body = {
        "id": "chatcmpl-2",
        "object": "chat.completion.chunk",
        "created": 2,
        "model": "m",
        "choices": [],
        "usage": usage,
    }
    return b"data: %b\n\n" % json.dumps(body, separators=(",", ":")).encode()
