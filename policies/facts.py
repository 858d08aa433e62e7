"""What a decision may know of a call."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class CallFacts(msgspec.Struct, frozen=True, gc=False):
    """The facts of one call, read once.

    `model` is the public name. `kind` is chat, completions, embeddings, responses, messages or pass. `headers` are keyed by
    lower-case names. `prompt_bytes` is the size of the request's body. `messages` is the raw JSON of the field, empty where there
    is none. `pin` names a backend that the caller asked for and may ask for; who may is not decided here.
    """

    model: str
    kind: str
    headers: Mapping[str, str]
    stream: bool
    tools: bool
    prompt_bytes: int
    user: str | None
    messages: bytes | msgspec.Raw
    pin: str | None = None
