"""llama.cpp's server."""

from __future__ import annotations

from backends.asking import logprobs_of_one, named_tool_alone, renamed
from backends.dialects.abilities import told_by_llama_server
from backends.dialects.dialect import MEDIA, Dialect
from backends.dialects.lists import says_no_error

# 503 while the model loads (captured). It serves its one model under every name, and answers with its own. To an image without a
# projector it answers 500 (captured). Its `/tokenize` takes `content` where vLLM's takes messages, and to those answers 200 and no tokens.
# It ignores `best_of`, `echo`, `suffix` and `functions`, each without a word, and answers 500 to a tool of chat that is no
# function, even where none may be called (all seen).
LLAMA_SERVER = Dialect(
    "llama-server",
    "/health",
    says_no_error,
    lacks=MEDIA | {"tokenize", "best_of", "echo", "suffix", "functions", "custom_tools"},
    about_paths=("/props",),
    abilities=told_by_llama_server,
    asks={
        "repetition_penalty": renamed("repetition_penalty", "repeat_penalty"),
        "tool_choice": named_tool_alone,
        "logprobs": logprobs_of_one,
    },
)
