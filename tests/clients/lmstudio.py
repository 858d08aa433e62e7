"""Answers in LM Studio's shape. Not captured, since it cannot be run here: as its users report them for gpt-oss.

An id of 21 letters, the role in every delta, empty `tool_calls`, tool ids that are numbers, whole arguments in one piece,
the model's name for a fingerprint, `stats`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.upstream import END, STREAM_HEAD, answer, chunked

MODEL = "smollm2-135m-instruct"
PIECES = ("The", " capital", " of", " France", " is", " Paris", ".")
THOUGHTS = ("Easy", ":", " Paris.")
SAYS, REASONS = "".join(PIECES), "".join(THOUGHTS)
TOTAL_TOKENS = 58
CALLS = (("814890118", "get_weather", '{"city":"Paris"}'), ("552093571", "get_time", '{"tz":"CET"}'))

_HEAD = {"id": "chatcmpl-n3xvbwbekbgpw4mwqefq7", "created": 1795383499, "model": MODEL, "system_fingerprint": MODEL}
_USAGE = {
    "prompt_tokens": 42,
    "completion_tokens": 16,
    "total_tokens": TOTAL_TOKENS,
    "completion_tokens_details": {"reasoning_tokens": 4},
}


def _call(index: int) -> dict[str, Any]:
    number, name, arguments = CALLS[index]
    return {"type": "function", "id": number, "function": {"name": name, "arguments": arguments}}


def _whole(finish_reason: str, **message: Any) -> bytes:
    choice = {
        "index": 0,
        "message": {"role": "assistant", **message},
        "logprobs": None,
        "finish_reason": finish_reason,
    }
    return answer({**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _USAGE, "stats": {}})


def _event(**fields: Any) -> bytes:
    return b"data: %b\n\n" % json.dumps({**_HEAD, "object": "chat.completion.chunk", **fields}).encode()


def begins(deltas: Iterable[Mapping[str, Any]]) -> list[bytes]:
    """The packets of a stream's beginning: its head and these deltas."""
    choices = [
        {"index": 0, "delta": {"role": "assistant", **d}, "logprobs": None, "finish_reason": None} for d in deltas
    ]
    return [STREAM_HEAD, *(chunked(_event(choices=[choice])) for choice in choices)]


def _streamed(finish_reason: str, deltas: Iterable[Mapping[str, Any]], *, usage: bool = False) -> list[bytes]:
    last = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish_reason}
    ends = [_event(choices=[last]), *([_event(choices=[], usage=_USAGE)] if usage else []), b"data: [DONE]\n\n"]
    return [*begins(deltas), *map(chunked, ends), END]


DELTAS: Sequence[Mapping[str, Any]] = [
    *({"reasoning": thought, "tool_calls": []} for thought in THOUGHTS),
    *({"content": piece, "tool_calls": []} for piece in PIECES),
]
_TOOL_DELTAS: Sequence[Mapping[str, Any]] = [
    {"reasoning": "Need both."},
    *({"tool_calls": [{"index": i, **_call(i)}]} for i in range(len(CALLS))),
]

ANSWERS: Mapping[str, Sequence[bytes]] = {
    "chat": [_whole("stop", content=SAYS, reasoning=REASONS, tool_calls=[])],
    "chat stream": _streamed("stop", DELTAS),
    "chat stream usage": _streamed("stop", DELTAS, usage=True),
    "tools": [_whole("tool_calls", content="", reasoning="Need both.", tool_calls=[_call(0), _call(1)])],
    "tools stream": _streamed("tool_calls", _TOOL_DELTAS),
    "tools stream usage": _streamed("tool_calls", _TOOL_DELTAS, usage=True),
}
TOO_LONG = answer(
    {
        "error": "Trying to keep the first 111490 tokens when context the overflows. However, the model is loaded with "
        "context length of only 32768 tokens, which is not enough. Try to load the model with a larger context length, "
        "or provide a shorter input"
    },
    "400 Bad Request",
)
CRASHES = chunked(
    b'event: error\ndata: {"error":{"message":"The model has crashed without additional information. (Exit code: 6)"},'
    b'"message":"The model has crashed without additional information. (Exit code: 6)"}\n\n'
)
