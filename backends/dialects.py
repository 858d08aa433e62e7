"""What differs between the kinds of servers, as data: how to ask after their health, what they can answer, when they hang up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from backends.faults import MALFORMED, error_text


class _ModelEntry(msgspec.Struct):
    id: str = ""


class _ModelList(msgspec.Struct):
    data: list[_ModelEntry]


_MODEL_LIST = msgspec.json.Decoder(_ModelList)


def lists_models(body: bytes) -> bool:
    """Whether `body` is OpenAI's model list with at least one model in it."""
    try:
        return bool(_MODEL_LIST.decode(body).data)
    except MALFORMED:
        return False


def says_no_error(body: bytes) -> bool:
    """For a route whose status tells, unless it is LM Studio's under another kind: that answers 200 to every path, with an error."""
    return error_text(body) is None


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of server. `health_path` is asked with GET; 200 and `is_healthy(body)` mean that it can take calls."""

    kind: str
    health_path: str
    is_healthy: Callable[[bytes], bool]


OPENAI = Dialect("openai", "/v1/models", lists_models)
# 200 with an empty body once the model is loaded, 503 when the engine is dead (captured).
VLLM = Dialect("vllm", "/health", says_no_error)
# `GET /health` of LM Studio answers 200 with an error in the body to anything, so only its model list tells.
LMSTUDIO = Dialect("lmstudio", "/v1/models", lists_models)
# 503 while the model loads (captured).
LLAMA_SERVER = Dialect("llama-server", "/health", says_no_error)

DIALECTS = {d.kind: d for d in (OPENAI, VLLM, LMSTUDIO, LLAMA_SERVER)}
