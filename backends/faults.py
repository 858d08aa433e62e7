"""What a backend's refusal means: its status and error text, in every dialect's wording, to one error of `backends.errors`.

The same reading serves an HTTP status, an error inside a 200, and an error event in a stream, because backends use all three for
the same causes: LM Studio answers 200 to unknown routes, vLLM reports an overload on a stream as 200 with an error event, and
context overflow comes in six wordings (captures and issue reports of vLLM 0.32, 0.33, LM Studio 0.3 to 0.4.23, llama.cpp).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import msgspec

from backends.errors import (
    BackendError,
    Failed,
    KeyRefused,
    NeedMissing,
    NotServed,
    Overflow,
    ProtocolBroken,
    Refused,
    Rejected,
    RouteMissing,
)

MAX_MESSAGE_CHARS = 2_000  # of a backend's error text that may reach a client; vLLM's validation dumps repeat the input

# What decoding foreign JSON may raise; msgspec answers a hundred thousand brackets with RecursionError.
MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

# Every wording of "the prompt does not fit" seen so far.
_OVERFLOW = re.compile(
    r"maximum context length|exceeds? (?:the )?(?:model's )?(?:available )?context|context the overflows"
    r"|does not fit in context|greater than the context length|exceeds the max_model_len|cannot truncate prompt",
    re.IGNORECASE,
)
# The limit in those wordings: "maximum context length is 2048 tokens", "… (4096)", "length of only 32768", "n_ctx (4)" and the like.
_LIMIT = re.compile(
    r"(?:maximum context length(?: is)?|max_model_len|context length of only|context length only supports|n_ctx|context size)"
    r"[ (=:]{1,4}(\d{1,9})\b",
    re.IGNORECASE | re.ASCII,
)
# OpenAI's code, llama-server's type.
_OVERFLOW_NAMES = frozenset({"context_length_exceeded", "exceed_context_size_error"})
# Codes and types that stand for a status where none is given: OpenAI's, Azure's, vLLM's and llama-server's own.
_STATUS_OF_NAMES: dict[int | str, int] = {
    "content_filter": 400,
    "invalid_request_error": 400,
    "BadRequestError": 400,
    "invalid_api_key": 401,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "NotFoundError": 404,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "insufficient_quota": 429,
    "overloaded_error": 503,
    "unavailable_error": 503,
}
# LM Studio reports a missing model as the call's fault (400); it is the backend's. Only where the text begins so: it may quote the call.
_NOT_SERVED = re.compile(
    r"(?:error: )?(?:no models? (?:is |are )?loaded|(?:the )?model (?:is |has |was )?(?:been )?unloaded|operation canceled"
    r"|failed to load model|unexpected endpoint or method|loading model)",
    re.IGNORECASE,
)
# The words in which engines say that a path is none of theirs: with 404 FastAPI's and llama.cpp's, with 200 LM Studio's. What says more is
# about a model, or about something else that was not found.
_NO_ROUTE = re.compile(r"(?:file )?not found", re.IGNORECASE)
_UNEXPECTED = re.compile(r"(?:error: )?unexpected endpoint or method", re.IGNORECASE)
# What engines say to tools where they were started without what reads tool calls: vLLM (vllm/renderers/online_renderer.py, 0.32) and
# llama-server. The whole text: it stands for every caller's tools, and a part of it anybody may have written. What is told is the group.
_NO_TOOLS = re.compile(
    r'(?:"auto" tool choice |tool_choice=.{1,300} |tools param )'
    r"(requires (?:(?:--enable-auto-tool-choice and )?--tool-call-parser to be set|--jinja flag))",
    re.DOTALL,
)
# More choices than llama-server has slots, and several at temperature 0 of vLLM: of this `n` alone, another backend may answer it.
_NOT_SO_MANY = re.compile(
    r"n_cmpl cannot be greater than the number of slots, please increase -np"
    r"|n must be 1 when using greedy sampling, got \d{1,9}\."
)
_STATUSES = frozenset(HTTPStatus)
# How engines name a kind of error, in `type` or `code`: internal_error, InternalServerError.
_NAME = re.compile(r"[a-z]{2,20}(?:_[a-z]{2,20}){1,5}|[A-Z][A-Za-z]{1,40}Error")
# vLLM's validation dumps repeat the call's own words, so no other meaning is read out of them: a client that writes "maximum
# context length" where a number belongs must not be able to blame the backend.
_QUOTES_THE_CALL = re.compile(r"\d+ validation errors?\b")


class _ErrorObject(msgspec.Struct):
    message: Any = None
    type: Any = None
    code: Any = None
    param: Any = None


class _Envelope(msgspec.Struct):
    error: _ErrorObject | str | None = None
    message: Any = None
    detail: Any = None
    code: Any = None
    type: Any = None
    param: Any = None


_ENVELOPE = msgspec.json.Decoder(_Envelope)


class ErrorText(msgspec.Struct, frozen=True):
    """What a backend's error says: its words, and the code that it gives (an HTTP-like status, or a name)."""

    message: str
    code: int | str | None = None
    type: str | None = None
    param: str | None = None


def error_text(body: bytes) -> ErrorText | None:
    """The error inside `body` in any known form (OpenAI's object, a string, vLLM's old flat form, FastAPI's detail), or None."""
    try:
        envelope = _ENVELOPE.decode(body)
    except MALFORMED:
        return None
    error = envelope.error
    if isinstance(error, str):
        return _said(error, envelope)
    if error is not None:
        return _said(error.message or "unknown error", error)
    if envelope.detail:
        return _said(envelope.detail, envelope)
    if envelope.message is not None and envelope.type is not None:
        return _said(envelope.message, envelope)
    return None


def _said(message: Any, names: _ErrorObject | _Envelope) -> ErrorText:
    words = message if isinstance(message, str) else msgspec.json.encode(message).decode()
    code, kind, param = names.code, names.type, names.param
    return ErrorText(
        words[:MAX_MESSAGE_CHARS],
        code if isinstance(code, int | str) else None,
        kind if isinstance(kind, str) else None,
        param if isinstance(param, str) else None,
    )


def fault_of_answer(status: int, headers: Mapping[str, str], body: bytes) -> BackendError:
    """The error that an answer with a status other than 2xx stands for."""
    text = error_text(body) or ErrorText(body[:200].decode("utf-8", "replace") or f"the server answered {status}")
    return _fault(status, text, body, retry_after_s(headers.get("retry-after"), datetime.now(UTC)))


def fault_of_error(body: bytes) -> BackendError:
    """The error that an error object inside a 200, or an error event, stands for: read by its own code and text."""
    text = error_text(body)
    if text is None:
        return ProtocolBroken("the backend answered 200 with something that is no answer", body=body)
    return _fault(_status_of(text), text, body, None)


def _status_of(text: ErrorText) -> int:
    if isinstance(text.code, int) and 400 <= text.code <= 599:
        return text.code
    if isinstance(text.code, str) and re.fullmatch(r"[45]\d\d", text.code, re.ASCII):
        return int(text.code)
    if _is_overflow(text):
        return 400
    return _STATUS_OF_NAMES.get(text.code or "") or _STATUS_OF_NAMES.get(text.type or "") or 500


def _is_overflow(text: ErrorText) -> bool:
    if text.code in _OVERFLOW_NAMES or text.type in _OVERFLOW_NAMES:
        return True
    return _OVERFLOW.search(text.message) is not None and not _QUOTES_THE_CALL.match(text.message)


def context_limit_tokens(error: Overflow) -> int | None:
    """How long a prompt and its answer may be together, by the words of the backend that found one too long; None where they don't say."""
    text = error_text(error.body)
    found = _LIMIT.search(text.message) if text is not None else None
    return int(found[1]) if found is not None else None


def _is_not_served(text: ErrorText) -> bool:
    return text.code == "model_not_found" or _NOT_SERVED.match(text.message) is not None


def _is_no_route(status: int, text: ErrorText, body: bytes) -> bool:
    """Whether the path is missing and not the model; 404 without an error in any known form is a web server's own page."""
    if status in (405, 501) or _UNEXPECTED.match(text.message):
        return True
    return status == 404 and (_NO_ROUTE.fullmatch(text.message) is not None or error_text(body) is None)


def _fault(status: int, text: ErrorText, body: bytes, wait_s: float | None) -> BackendError:
    said = _retold(status, text) if body else text.message
    if 300 <= status < 400:
        return ProtocolBroken(
            f"the backend answered with a redirect ({status}), which is never followed", status=status
        )
    if status < 500 and _is_overflow(text):
        return Overflow(said, status=status, body=body)
    if _is_no_route(status, text, body):
        return RouteMissing(said, status=status, body=body)
    if _is_not_served(text):
        return NotServed(said, status=status, body=body)
    if (lack := _lack(status, text, body)) is not None:
        return lack
    kind: type[BackendError]
    if status in (401, 403):
        kind = KeyRefused
    elif status == 404:
        kind = NotServed
    elif status in (429, 503):
        return Refused(said, status=status, body=body, retry_after_s=wait_s)
    elif 400 <= status < 500 and status != 408:
        kind = Rejected
    else:
        kind = Failed
    return kind(said, status=status, body=body)


def _lack(status: int, text: ErrorText, body: bytes) -> NeedMissing | None:
    if (without := _NO_TOOLS.fullmatch(text.message)) is not None:
        return NeedMissing(f"it takes no tools: that {without[1]}", "tools", status=status, body=body)
    if status == 400 and _NOT_SO_MANY.fullmatch(text.message) is not None:
        return NeedMissing("it gives not so many choices", "n", status=status, body=body, of_this_call=True)
    return None


def _retold(status: int, text: ErrorText) -> str:
    """What the log may say of it: a backend's own words may quote the prompt, a key, or lines that look like the log's."""
    known = _NOT_SERVED.match(text.message)
    phrase = HTTPStatus(status).phrase if status in _STATUSES else ""
    names = [known[0]] if known else [str(name) for name in (text.type, text.code) if _is_name(name)]
    return f"the server answered {status} {phrase}".rstrip() + (f" ({names[0]})" if names else "")


def _is_name(code: int | str | None) -> bool:
    return isinstance(code, str) and _NAME.fullmatch(code) is not None


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """Seconds to wait from a `retry-after` header: delay-seconds or an HTTP date (RFC 9110 section 10.2.3); None if there is none.

    What is not valid is ignored; a date in the past is 0.
    """
    if value is None:
        return None
    value = value.strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value, re.ASCII):
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # a year of twenty digits is the latter
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())
