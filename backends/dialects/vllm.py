"""vLLM's own server."""

from __future__ import annotations

from backends.asking import effort_clamped, renamed, top_p_above_0
from backends.dialects.abilities import told_by_vllm
from backends.dialects.dialect import MEDIA, Dialect
from backends.dialects.lists import says_no_error, served_by_vllm

# 200 with an empty body once the model is loaded, 503 when the engine is dead (captured). gpt-oss drops an image and answers 200
# (captured), and nothing that a server says tells its model from one that sees: the configuration says which one does.
# It ignores `best_of` and `functions`, and refuses `suffix` for models without a template for it (its protocols and prompt renderer).
# A tool of chat that is no function it refuses, even where none may be called (seen).
VLLM = Dialect(
    "vllm",
    "/health",
    says_no_error,
    ("/v1/models",),
    served_by_vllm,
    lacks=MEDIA | {"best_of", "functions", "suffix", "custom_tools"},
    about_paths=("/openapi.json",),
    abilities=told_by_vllm,
    asks={
        "repeat_penalty": renamed("repeat_penalty", "repetition_penalty"),
        "reasoning_effort": effort_clamped,
        "top_p": top_p_above_0,
    },
)
