"""What an operator is told when a request is refused: one sentence in OpenAI's error envelope, and with a conflict what others did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import ErrorDetails

from router.faults import Fault

SHOWN_CHARS = 60  # of what was sent


def refused(status: int, code: str, message: str, param: str | None = None) -> Fault:
    """A request that is the caller's to mend."""
    return Fault(status, message, "invalid_request_error", code, param)


NO_KEY = Fault(
    401,
    "The admin API needs an admin key: authorization: Bearer KEY.",
    "invalid_request_error",
    "invalid_admin_key",
    headers=((b"www-authenticate", b"Bearer"),),
)
CLIENTS_KEY = refused(403, "not_an_admin_key", "This is a key of clients; it opens no admin API.")
LOOKS_ONLY = refused(403, "viewer_key", "This key may look at everything and change nothing.")
FOREIGN = refused(403, "foreign_origin", "Pages of other sites may not speak to the admin API.")
ONLY_JSON = refused(
    415, "unsupported_media_type", "Send the body as JSON, with the header content-type: application/json."
)
NOT_JSON = refused(400, "bad_request", "The body is no JSON object, or names a field twice.")
NO_QUERY = refused(400, "invalid_field", "A change takes nothing in its query; send it in the body.")
TOO_LATE = refused(408, "request_timeout", "The body did not arrive in time.")
NOTHING = refused(404, "not_found", "There is nothing at this path of the admin API.")


def too_long(most_bytes: int) -> Fault:
    """413."""
    return refused(413, "request_too_large", f"The body is longer than {most_bytes} bytes.")


def too_many_wrong_keys(wait_s: float) -> Fault:
    """429: the key is wrong, and is not looked at again before the minute is over."""
    message = "Too many wrong keys came from this address."
    return Fault(429, message, "rate_limit_error", "too_many_wrong_keys", None, wait_s)


_NEEDS: Mapping[str, str] = {
    "float_type": "must be a number",
    "finite_number": "must be a number",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_unicode": "must be text",
    "dict_type": "must map backends to shares",
    "too_short": "must name at least one backend",
    "model_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
    "greater_than": "is too small",
    "greater_than_equal": "is too small",
    "less_than_equal": "is too large",
}


def of_fields(errors: Sequence[ErrorDetails | Mapping[str, Any]]) -> Fault:
    """422 for a body, 400 for headers and queries: the first thing that is wrong with its fields, in one sentence."""
    error = errors[0]
    place, *path = error["loc"] or ("body",)
    name = ".".join(_shown(part) for part in path if part != "[key]") or "the body"
    kind, context = error["type"], error.get("ctx") or {}
    if kind == "extra_forbidden":
        said = f"{name} is no field of this request"
    elif kind == "missing":
        said = f"{name} is missing"
    elif kind == "literal_error":
        said = f"{name} must be {context['expected']}"
    elif kind == "value_error":
        said = f"{name} {context['error']}"
    elif kind in ("string_too_short", "string_too_long"):
        said = f"{name} must have {context.get('min_length', 1)} to {context.get('max_length', 500)} characters"
    else:
        said = f"{name} {_NEEDS.get(kind, 'is not valid')}"
    return refused(422 if place == "body" else 400, "invalid_field", said, name if path else None)


def _shown(part: object) -> str:
    """A name that was sent, in letters that can be written anywhere."""
    return ascii(str(part))[1:-1][:SHOWN_CHARS]
