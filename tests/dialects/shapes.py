"""What two answers have in common: keys in their order and types, all the way down; and bytes, but for what the router makes up anew."""

from __future__ import annotations

import re
from typing import Any

_MADE_UP = re.compile(rb'"(id|created)":("[^"]*"|\d+)')

# What some backend says and no client may hear: each names the backend, or is no part of OpenAI's answers.
FOREIGN = (
    "stop_reason",
    "token_ids",
    "kv_transfer_params",
    "ec_transfer_params",
    "stats",
    "timings",
    "system_fingerprint",
    "prompt_logprobs",
    "prompt_token_ids",
    "prompt_text",
    "routed_experts",
    "weight_versions",
    "model_info",
    "runtime",
    "metrics",
)


def shape(value: Any) -> Any:
    """Keys in their order, and types; of a list its first entry's shape, of a map of tokens (`top_logprobs`) its first value's."""
    if isinstance(value, dict):
        return [(key, _maps(each) if key == "top_logprobs" else shape(each)) for key, each in value.items()]
    if isinstance(value, list):
        return [shape(each) for each in value[:1]]
    return type(value).__name__


def _maps(value: Any) -> Any:
    is_map = isinstance(value, list) and value and isinstance(value[0], dict) and "token" not in value[0]
    return [shape(list(value[0].values()))] if is_map else shape(value)


def forms(documents: list[Any]) -> set[str]:
    """The different shapes of a stream's events, whatever their order: that is the answer's, not the engine's."""
    return {repr(shape(document)) for document in documents}


def shapes(documents: list[Any]) -> list[Any]:
    """The shapes of a stream's events, each once for as many as follow each other."""
    found: list[Any] = []
    for document in documents:
        if not found or found[-1] != shape(document):
            found.append(shape(document))
    return found


def keys(value: Any) -> set[str]:
    """All the keys, all the way down."""
    if isinstance(value, dict):
        return set(value) | {key for each in value.values() for key in keys(each)}
    if isinstance(value, list):
        return {key for each in value for key in keys(each)}
    return set()


def anonymous(body: bytes) -> bytes:
    """Without the values of `id` and `created`."""
    return _MADE_UP.sub(rb'"\1":0', body)
