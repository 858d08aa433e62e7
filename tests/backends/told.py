"""One canonical answer at work: what a client is told of an engine's events."""

from __future__ import annotations

import json
from typing import Any

from backends.answers import read_chunk
from backends.canonical import Canonical, Naming
from backends.canonical_forms import Answer
from tests.upstream import event

ANSWER = {"wants_usage": True, "one_tool_only": False}


def begun(kind: str = "chat", **how: bool) -> Canonical:
    """What the stream of a model that is shown as jane goes through."""
    canonical = Naming("m", "jane").begin(Answer(kind, **(ANSWER | how)))
    canonical.begin_stream(kind)
    return canonical


def sent(canonical: Canonical, *events: bytes) -> list[Any]:
    """What a client gets of these, and of the end after them."""
    out: list[bytes] = []
    for data in events:
        if data != b"[DONE]":
            canonical.put(read_chunk(data), out)
    out.append(canonical.ending())
    raw = b"".join(out)
    assert raw.endswith(b"data: [DONE]\n\n") and b"\r" not in raw
    *lines, _done, rest = raw.decode().split("\n\n")
    assert rest == "" and all(line.startswith("data: ") and "\n" not in line for line in lines)
    return [json.loads(line[6:]) for line in lines]


def deltas(*told: dict[str, Any]) -> list[bytes]:
    return [event(delta)[6:-2] for delta in told]
