"""What a client asked for in a chat, as far as its answer is judged by it; read once a call, and only when an answer has come.

What the other APIs have in other places is in `router.contract_asked_apis`.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from backends.answers import has_value
from backends.faults import MALFORMED
from policies.contract import Asked, Calling, Format
from router.reading import CallBody

_NO_VALUE = msgspec.Raw()


class _Offered(msgspec.Struct, gc=False):
    name: str
    parameters: msgspec.Raw = _NO_VALUE


class _Tool(msgspec.Struct, gc=False):
    type: str | None = None
    function: _Offered | None = None


class _Allowed(msgspec.Struct, gc=False):
    mode: str | None = None


class _Named(msgspec.Struct, gc=False):
    type: str | None = None
    allowed_tools: _Allowed | None = None


class _Schema(msgspec.Struct, gc=False):
    schema: msgspec.Raw = _NO_VALUE


class _Format(msgspec.Struct, gc=False):
    type: str | None = None
    json_schema: _Schema | None = None


class _Turn(msgspec.Struct, gc=False):
    role: str | None = None


_TOOLS = msgspec.json.Decoder(list[_Tool])
_CHOICE = msgspec.json.Decoder(str | _Named | None)
_FORMAT = msgspec.json.Decoder(_Format | None)
_TURNS = msgspec.json.Decoder(list[msgspec.Raw])
_TURN = msgspec.json.Decoder(_Turn)
FORMATS = {"json_object": Format.OBJECT, "json_schema": Format.SCHEMA}


class Asking:
    """One call's side of its contract. `is_special`: it has tools, or wants a format; of all others only little is judged.

    `format_field`: where the call says what the content must be; None where its API has no such field.
    """

    __slots__ = ("_asked", "_body", "has_tools", "is_special")
    format_field: ClassVar[str | None] = "response_format"

    def __init__(self, body: CallBody):
        self._body = body
        self._asked: Asked | None = None
        self.has_tools = body.has_tools
        self.is_special = body.has_tools or self.format_field in body.fields

    @property
    def has_many(self) -> bool:
        """Whether several choices may have been asked for."""
        return "n" in self._body.fields

    @property
    def one_tool_only(self) -> bool:
        """Whether the client gets one tool call at most."""
        return self._body.one_tool_only

    @property
    def asked(self) -> Asked:
        """What was asked for."""
        if self._asked is None:
            self._asked = self._read()
        return self._asked

    def _read(self) -> Asked:
        return read_asked(self._body)

    def begins_the_answer(self) -> bool:
        """Whether the conversation ends with a message of the assistant's: some engines go on with it."""
        try:
            return _TURN.decode(_TURNS.decode(self._body.messages)[-1]).role == "assistant"
        except (*MALFORMED, IndexError):
            return False


def read_asked(body: CallBody) -> Asked:
    """What the client asked for. What has another form than it should is a backend's to judge, and nothing here."""
    fields = body.fields
    tools, has_other_tools = _tools(fields.get("tools"))
    form, schema = _format(fields.get("response_format"))
    return Asked(
        tools,
        has_other_tools=has_other_tools,
        calling=_calling(fields.get("tool_choice")),
        format=form,
        schema=schema,
        may_be_cut=is_set(fields.get("stop")),
    )


def is_set(value: msgspec.Raw | None) -> bool:
    """Whether the client has given the field a value that is not empty."""
    return value is not None and has_value(value)


def _tools(raw: msgspec.Raw | None) -> tuple[dict[str, bytes], bool]:
    if raw is None:
        return {}, False
    try:
        tools = _TOOLS.decode(raw)
    except MALFORMED:
        return {}, has_value(raw)
    offered = [tool.function for tool in tools if tool.function is not None]
    return {each.name: schema_of(each.parameters) for each in offered}, len(offered) < len(tools)


def schema_of(raw: msgspec.Raw) -> bytes:
    """A schema's JSON; b"" where there is none."""
    schema = bytes(raw)
    return b"" if schema == b"null" else schema


def _calling(raw: msgspec.Raw | None) -> Calling:
    if raw is None:
        return Calling.MAY
    try:
        choice = _CHOICE.decode(raw)
    except MALFORMED:
        return Calling.MAY
    if isinstance(choice, _Named):
        must = choice.type == "function" or (
            choice.allowed_tools is not None and choice.allowed_tools.mode == "required"
        )
        return Calling.MUST if must else Calling.MAY
    return {"required": Calling.MUST, "none": Calling.MUST_NOT}.get(choice or "", Calling.MAY)


def _format(raw: msgspec.Raw | None) -> tuple[Format, bytes]:
    if raw is None:
        return Format.TEXT, b""
    try:
        form = _FORMAT.decode(raw)
    except MALFORMED:
        return Format.TEXT, b""
    if form is None:
        return Format.TEXT, b""
    schema = form.json_schema.schema if form.json_schema is not None else _NO_VALUE
    return FORMATS.get(form.type or "", Format.TEXT), schema_of(schema)
