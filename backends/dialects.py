"""What differs between the kinds of servers, as data: how to ask after their health, what they can answer, when they hang up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

EVERY_KIND = frozenset({"chat", "completions", "embeddings", "responses", "messages", "pass"})


class _ModelEntry(msgspec.Struct):
    id: str = ""


class _ModelList(msgspec.Struct):
    data: list[_ModelEntry]


_MODEL_LIST = msgspec.json.Decoder(_ModelList)


def lists_models(body: bytes) -> bool:
    """Whether `body` is OpenAI's model list with at least one model in it."""
    try:
        return bool(_MODEL_LIST.decode(body).data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def anything(_body: bytes) -> bool:
    """For a route whose status alone tells."""
    return True


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of server. `health_path` is asked with GET; 200 and `is_healthy(body)` mean that it can take calls."""

    kind: str
    health_path: str
    is_healthy: Callable[[bytes], bool]


OPENAI = Dialect("openai", "/v1/models", lists_models)
# 200 with an empty body once the model is loaded, 503 when the engine is dead (captured).
VLLM = Dialect("vllm", "/health", anything)
# `GET /health` of LM Studio answers 200 with an error in the body to anything, so only its model list tells.
LMSTUDIO = Dialect("lmstudio", "/v1/models", lists_models)
# 503 while the model loads (captured).
LLAMA_SERVER = Dialect("llama-server", "/health", anything)

DIALECTS = {d.kind: d for d in (OPENAI, VLLM, LMSTUDIO, LLAMA_SERVER)}
