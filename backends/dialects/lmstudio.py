"""LM Studio."""

from __future__ import annotations

from backends.asking import (
    MESSAGES,
    effort_clamped,
    json_mode_by_schema,
    named_tool_alone,
    renamed,
    turns_for_lmstudio,
)
from backends.dialects.abilities import told_by_lmstudio
from backends.dialects.dialect import MEDIA, Dialect
from backends.dialects.lists import is_same_in_lmstudio, lists_models, loaded_by_lmstudio

# `GET /health` of LM Studio answers 200 with an error in the body to anything, so only its model list tells. A call of a name that it
# does not know is answered by the one model that is loaded, and `model` says so (its issue 619); vLLM would answer 404. Its logprobs are
# null, without an error (lms#60), and `n`, `best_of`, `echo`, `suffix`, `functions` and tools that are no functions are in no
# documentation of it.
LMSTUDIO = Dialect(
    "lmstudio",
    "/v1/models",
    lists_models,
    ("/v1/models", "/api/v0/models"),
    loaded_by_lmstudio,
    is_same_in_lmstudio,
    lacks=MEDIA | {"n", "best_of", "logprobs", "echo", "suffix", "functions", "custom_tools", "tokenize"},
    abilities=told_by_lmstudio,
    asks={
        "max_completion_tokens": renamed("max_completion_tokens", "max_tokens"),
        "repetition_penalty": renamed("repetition_penalty", "repeat_penalty"),
        "reasoning_effort": effort_clamped,
        "response_format": json_mode_by_schema,
        "tool_choice": named_tool_alone,
        MESSAGES: turns_for_lmstudio,
    },
)
