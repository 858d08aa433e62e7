"""What servers say of themselves and their models: health, which models are there, how long a prompt may be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum

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


class Presence(StrEnum):
    """Whether a server has a model, by its own lists."""

    THERE = "there"
    NOT_LOADED = "not_loaded"  # the next call loads it, which takes as long as it takes
    MISSING = "missing"
    UNKNOWN = "unknown"  # its lists say nothing, or it has none that would


class _LoadedEntry(msgspec.Struct):
    id: str
    state: str = ""


class _LoadedList(msgspec.Struct):
    data: list[_LoadedEntry]


_LOADED_LIST = msgspec.json.Decoder(_LoadedList)


class _ContextEntry(msgspec.Struct):
    id: str
    max_model_len: int | None = None  # vLLM's
    loaded_context_length: int | None = None  # LM Studio's own list, of what is loaded


class _ContextList(msgspec.Struct):
    data: list[_ContextEntry]


_CONTEXT_LIST = msgspec.json.Decoder(_ContextList)


def context_tokens(bodies: Sequence[bytes], asked: str) -> int | None:
    """How long a prompt and its answer may be together for a model, by a server's lists; None where they don't say."""
    found: list[int] = []
    for body in bodies:
        try:
            entries = _CONTEXT_LIST.decode(body).data
        except MALFORMED:
            continue
        found += [e.max_model_len for e in entries if e.max_model_len and e.id == asked]
        found += [
            e.loaded_context_length for e in entries if e.loaded_context_length and is_same_in_lmstudio(asked, e.id)
        ]
    return max((tokens for tokens in found if tokens > 0), default=None)


def unknown(_bodies: Sequence[bytes], _asked: str) -> Presence:
    return Presence.UNKNOWN


def listed(body: bytes) -> list[str] | None:
    """The names in a model list; None where it can't be read, or an entry has none."""
    try:
        names = [entry.id for entry in _MODEL_LIST.decode(body).data]
    except MALFORMED:
        return None
    return names if all(names) else None


def served_by_vllm(bodies: Sequence[bytes], asked: str) -> Presence:
    """It lists exactly the names that it serves, adapters included, and answers 404 to every other."""
    names = listed(bodies[0])
    if names is None:
        return Presence.UNKNOWN
    return Presence.THERE if asked in names else Presence.MISSING


def loaded_by_lmstudio(bodies: Sequence[bytes], asked: str) -> Presence:
    """Its OpenAI list holds what a call can reach: what is loaded, and with JIT loading all that is downloaded; its own list says which.

    Own list: `GET /api/v0/models`, `state` is `loaded` or `not-loaded`. Where it has none (an old version), what is listed is there.
    """
    names = listed(bodies[0])
    if names is None:
        return Presence.UNKNOWN
    if not any(is_same_in_lmstudio(asked, name) for name in names):
        return Presence.MISSING
    try:
        states = [e.state for e in _LOADED_LIST.decode(bodies[1]).data if is_same_in_lmstudio(asked, e.id)]
    except MALFORMED:
        return Presence.THERE
    return Presence.NOT_LOADED if states and all(state == "not-loaded" for state in states) else Presence.THERE


def is_same_in_lmstudio(one: str, other: str) -> bool:
    """Whether two names are of one model there: it numbers further instances (`x:2`), and the publisher's name may be left out."""
    return _plain(one) == _plain(other)


def _plain(name: str) -> str:
    return _INSTANCE.sub("", name.rpartition("/")[2]).lower()


_INSTANCE = re.compile(r":\d+$", re.ASCII)
