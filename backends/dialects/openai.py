"""Any compatible server."""

from __future__ import annotations

from backends.dialects.dialect import Dialect
from backends.dialects.lists import lists_models

# Answers carry dated versions and the like, and many serve more names than they list (aliases, `name:latest`), so neither proves anything.
OPENAI = Dialect("openai", "/v1/models", lists_models)
