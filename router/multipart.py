"""The few fields of a multipart form (audio uploads) that decide something, and the form with another model's name in it.

The parts are walked from delimiter to delimiter, as a backend's parser does it: what merely looks like a field inside an uploaded
file is none. Source: RFC 2046 section 5.1.1, RFC 7578.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from backends.asking import AS_IT_IS, Translation
from backends.http1 import Pieces
from router.reading import MAX_MODEL_CHARS, BadCall

_BOUNDARY = re.compile(
    rb';\s*boundary=(?:"([^"]{1,70})"|([^";,\s]{1,70}))', re.IGNORECASE
)  # at most 70 characters (RFC 2046)
_NAME = re.compile(
    rb'(?:^|\r\n)content-disposition:[ \t]*form-data[ \t]*;(?:[^\r\n]*;)?[ \t]*name=(?:"([^"\r\n]*)"|([^";\s]+))',
    re.IGNORECASE,
)
MAX_PARTS = 128  # a transcription has a dozen fields; each costs a search
MAX_PART_HEAD_BYTES = 8_192


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
    wants_usage: bool = False
    one_tool_only: bool = False

    @property
    def size_bytes(self) -> int:
        return len(self.raw)

    @property
    def prompt(self) -> bytes:
        """What an engine works on: the whole form, its file above all."""
        return self.raw

    def write(self, model: bytes, _translation: Translation = AS_IT_IS) -> Pieces:
        """The form with another model's name, `model` is a JSON string; no kind of server wants anything else of it changed."""
        raw = memoryview(self.raw)
        return raw[: self.start], msgspec.json.decode(model, type=str).encode(), raw[self.end :]


def read_form(body: bytes, content_type: bytes) -> FormBody:
    """Find the `model` field, and `stream`. Raises BadCall where there is no model, or more than one."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise BadCall("the multipart content-type names no boundary")
    models: list[tuple[int, int]] = []
    stream = False
    for name, start, end in _parts(body, b"--" + (found[1] or found[2])):
        if name == b"model":
            models.append((start, end))
        elif name == b"stream":
            stream = body[start : min(end, start + 8)].strip().lower() in (b"true", b"1")
    if len(models) != 1:
        raise BadCall("the form must carry exactly one model field", param="model")
    start, end = models[0]
    return FormBody(body, _model(body[start:end]), start, end, stream)


def _parts(body: bytes, delimiter: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Each part's name, and where its content starts and ends. Raises BadCall where the form is not well-formed."""
    position = 0 if body.startswith(delimiter) else body.find(b"\r\n" + delimiter) + 2
    if position == 1:
        raise BadCall("the form does not hold the boundary that its content-type names")
    for _ in range(MAX_PARTS):
        position += len(delimiter)
        if body.startswith(b"--", position):
            return
        head_end = body.find(b"\r\n\r\n", position, position + MAX_PART_HEAD_BYTES)
        end = body.find(b"\r\n" + delimiter, head_end + 2)
        if head_end < 0 or end < 0:
            raise BadCall("the form is cut off, or a part of it has no headers")
        name = _NAME.search(body, position, head_end)
        if name is not None:
            yield name[1] if name[1] is not None else name[2], min(head_end + 4, end), end
        position = end + 2
    raise BadCall(f"the form has more than {MAX_PARTS} parts")


def _model(raw: bytes) -> str:
    try:
        model = raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise BadCall("model must be UTF-8 text", param="model") from exc
    if not 0 < len(model) <= MAX_MODEL_CHARS:
        raise BadCall(f"model must be 1 to {MAX_MODEL_CHARS} characters long", param="model")
    return model
