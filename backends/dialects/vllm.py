"""vLLM's own server."""

from __future__ import annotations

from backends.dialects.dialect import Dialect
from backends.dialects.lists import says_no_error, served_by_vllm

# 200 with an empty body once the model is loaded, 503 when the engine is dead (captured).
VLLM = Dialect("vllm", "/health", says_no_error, ("/v1/models",), served_by_vllm)
