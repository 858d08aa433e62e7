"""The `model` field of a multipart form (audio uploads): found, and replaced for a backend, without touching the other parts."""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from router.reading import MAX_MODEL_CHARS, BadCall

_BOUNDARY = re.compile(rb'boundary="?([^";,\s]{1,70})"?')  # RFC 2046 section 5.1.1: at most 70 characters
_MODEL_PART = re.compile(
    rb'content-disposition:\s*form-data;\s*name="?model"?\s*\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]*)\r\n', re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class FormBody:
    """A form: the model's name stands at `raw[start:end]`. What only JSON bodies can say has its plain value."""

    raw: bytes
    model: str
    start: int
    end: int
    stream: bool = False
    has_tools: bool = False
    user: str | None = None
    messages: bytes = b""

    @property
    def size_bytes(self) -> int:
        return len(self.raw)

    def write(self, model: bytes) -> bytes:
        """The form with another model's name; `model` is a JSON string."""
        name = msgspec.json.decode(model, type=str).encode()
        return b"%b%b%b" % (self.raw[: self.start], name, self.raw[self.end :])


def read_form(body: bytes, content_type: bytes) -> FormBody:
    """Find the `model` field. Raises BadCall where there is none, or more than one."""
    if _BOUNDARY.search(content_type) is None:
        raise BadCall("the multipart content-type names no boundary")
    found = list(_MODEL_PART.finditer(body))
    if len(found) != 1:
        raise BadCall("the form must carry exactly one model field", param="model")
    start, end = found[0].span(1)
    try:
        model = body[start:end].decode("utf-8")
    except UnicodeDecodeError as exc:
        raise BadCall("model must be UTF-8 text", param="model") from exc
    if not 0 < len(model) <= MAX_MODEL_CHARS:
        raise BadCall(f"model must be 1 to {MAX_MODEL_CHARS} characters long", param="model")
    return FormBody(body, model, start, end)
