"""What a server says of what it can do: which APIs it has, what a model of it takes, how long a prompt may be.

Only what a server says in so many words; all else is left to whoever else knows. Nothing here asks for inference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from backends.dialects.lists import context_tokens, is_same_in_lmstudio
from backends.faults import MALFORMED

# Where an engine has the APIs that are called by a kind of their own; those that are sent on as they are go by their path.
ROUTES = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "count_tokens": "/v1/messages/count_tokens",
    "tokenize": "/tokenize",
}
_LIST_PATH = "/v1/models"


@dataclass(frozen=True, slots=True)
class Abilities:
    """`can`: APIs and needs by name, those that the server speaks of; `context_tokens`: of a prompt and its answer together."""

    can: Mapping[str, bool]
    context_tokens: int | None = None


NOT_SAID = Abilities({})


def says_nothing(_bodies: Sequence[bytes], _asked: str, _paths: Sequence[str]) -> Abilities:
    """Of a kind of server that does not tell."""
    return NOT_SAID


class _Routes(msgspec.Struct):
    paths: dict[str, msgspec.Raw]


_DOCUMENT = msgspec.json.Decoder(_Routes)


def told_by_vllm(bodies: Sequence[bytes], asked: str, paths: Sequence[str]) -> Abilities:
    """Its model list and its OpenAPI document, which holds just the routes that it serves (captured: a chat model's has no embeddings).

    One without its list of models, or without any API, is another's: a proxy's that takes every path, and it says nothing of vLLM.
    """
    lists, document = bodies[:1], bodies[1]
    try:
        routes = _DOCUMENT.decode(document).paths
    except MALFORMED:
        routes = {}
    is_its_own = _LIST_PATH in routes and not routes.keys().isdisjoint(ROUTES.values())
    apis = (*ROUTES.items(), *zip(paths, paths, strict=True)) if is_its_own else ()
    can = {name: path in routes for name, path in apis}
    return Abilities(can, context_tokens(lists, asked))


class _Entry(msgspec.Struct):
    id: str
    type: str = ""


class _Entries(msgspec.Struct):
    data: list[_Entry]


_ENTRIES = msgspec.json.Decoder(_Entries)
_TEXT_APIS = ("chat", "completions", "responses", "messages", "count_tokens")
_OF_TYPE: dict[str, dict[str, bool]] = {
    "llm": {"images": False, "embeddings": False},
    "vlm": {"images": True, "embeddings": False},
    "embeddings": {"embeddings": True} | dict.fromkeys(_TEXT_APIS, False),
}


def told_by_lmstudio(bodies: Sequence[bytes], asked: str, _paths: Sequence[str]) -> Abilities:
    """Its own list, `GET /api/v0/models`: the type of a model is `llm`, `vlm` or `embeddings` (LM Studio's documentation)."""
    try:
        types = [entry.type for entry in _ENTRIES.decode(bodies[1]).data if is_same_in_lmstudio(asked, entry.id)]
    except MALFORMED:
        types = []
    return Abilities(_OF_TYPE.get(types[0], {}) if types else {}, context_tokens(bodies, asked))


class _Settings(msgspec.Struct):
    n_ctx: int | None = None


class _Props(msgspec.Struct):
    default_generation_settings: _Settings | None = None
    modalities: dict[str, Any] = {}


_PROPS = msgspec.json.Decoder(_Props)
_MODALITIES = {"vision": "images", "audio": "audio", "video": "video"}


def told_by_llama_server(bodies: Sequence[bytes], _asked: str, _paths: Sequence[str]) -> Abilities:
    """`GET /props`: what its projector takes, and the context of one slot, which is all that one call gets."""
    try:
        props = _PROPS.decode(bodies[0])
    except MALFORMED:
        return NOT_SAID
    said = props.modalities
    can = {need: said[name] for name, need in _MODALITIES.items() if isinstance(said.get(name), bool)}
    n_ctx = props.default_generation_settings.n_ctx if props.default_generation_settings is not None else None
    return Abilities(can, n_ctx if n_ctx is not None and n_ctx > 0 else None)
