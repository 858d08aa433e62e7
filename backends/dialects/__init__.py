"""The kinds of servers, one module each."""

from backends.dialects.abilities import NOT_SAID, ROUTES, Abilities
from backends.dialects.dialect import Dialect
from backends.dialects.lists import Presence, context_tokens, listed
from backends.dialects.llama_server import LLAMA_SERVER
from backends.dialects.lmstudio import LMSTUDIO
from backends.dialects.openai import OPENAI
from backends.dialects.vllm import VLLM

DIALECTS = {d.kind: d for d in (OPENAI, VLLM, LMSTUDIO, LLAMA_SERVER)}

__all__ = [
    "DIALECTS",
    "LLAMA_SERVER",
    "LMSTUDIO",
    "NOT_SAID",
    "OPENAI",
    "ROUTES",
    "VLLM",
    "Abilities",
    "Dialect",
    "Presence",
    "context_tokens",
    "listed",
]
