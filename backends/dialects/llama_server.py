"""llama.cpp's server."""

from __future__ import annotations

from backends.dialects.dialect import Dialect
from backends.dialects.lists import says_no_error

# 503 while the model loads (captured). It serves its one model under every name, and answers with its own.
LLAMA_SERVER = Dialect("llama-server", "/health", says_no_error)
