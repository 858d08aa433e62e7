"""How an error sounds in each API: OpenAI's envelope everywhere; for Anthropic's messages that with its own type around and inside.

An SDK must raise on an error whichever API its client speaks. Anthropic's reads `error.type` and `error.message` under
`"type": "error"`; OpenAI's raises on an event that holds an `error` object, whatever else it holds. So both get all of it.
"""

from __future__ import annotations

import msgspec

from backends.errors import BackendError
from router.faults import Fault, stream_error

ANTHROPIC = frozenset({"messages", "count_tokens"})
TYPED = frozenset({"responses", "messages"})  # whose streams are events with names
# Source: Anthropic's API reference, "Errors".
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_body(fault: Fault, kind: str) -> bytes:
    """A whole answer that is an error, for a call of `kind`."""
    if kind not in ANTHROPIC:
        return fault.body()
    return msgspec.json.encode({"type": "error", "error": _anthropic(fault)})


def error_event(fault: Fault, kind: str) -> bytes:
    """The event that ends a stream of a call of `kind`, where nothing of an answer has been sent yet."""
    if kind not in TYPED:
        return b"data: %b\n\n" % fault.body()
    error = _anthropic(fault) if kind in ANTHROPIC else _openai(fault)
    return b"event: error\ndata: %b\n\n" % msgspec.json.encode({"type": "error", "error": error, **_flat(error, kind)})


def broken_event(error: BackendError | None, kind: str) -> bytes:
    """The event that ends a stream which cannot go on: every SDK raises on it, none takes it for an end."""
    if kind not in TYPED:
        return stream_error(error)
    told = msgspec.json.decode(stream_error(error).removeprefix(b"data: "))["error"]
    status = 504 if told["code"] == "timeout" else 500
    return error_event(Fault(status, told["message"], told["type"], told["code"]), kind)


def _openai(fault: Fault) -> dict[str, str | None]:
    return {"message": fault.message, "type": fault.type, "param": fault.param, "code": fault.code}


def _anthropic(fault: Fault) -> dict[str, str | None]:
    other = "invalid_request_error" if fault.status < 500 else "api_error"
    return {**_openai(fault), "type": _ANTHROPIC_TYPES.get(fault.status, other)}


def _flat(error: dict[str, str | None], kind: str) -> dict[str, str | None]:
    """OpenAI's own error event in a stream of responses holds these at its top level."""
    return {} if kind in ANTHROPIC else {name: error[name] for name in ("code", "message", "param")}
