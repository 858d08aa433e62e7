"""What a client asked for in the APIs beside chat, as far as its answer is judged by it: the same questions, other places and names.

asked                  chat                          responses                 messages
---------------------  ----------------------------  ------------------------  ------------------------------
a tool's schema        tools[].function.parameters   tools[].parameters        tools[].input_schema
a tool must be called  required, a named function    the same, flat            any, tool
JSON                   response_format               text.format               (no such thing)
what cuts it off       stop; `length` says so        max_output_tokens         stop_sequences; `max_tokens` says so
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from backends.answers import has_value
from backends.faults import MALFORMED
from policies.contract import Asked, Calling, Format
from router.contract_asked import FORMATS, Asking, is_set, schema_of
from router.reading import CallBody

_NO_VALUE = msgspec.Raw()


class _Tool(msgspec.Struct, gc=False):
    type: str | None = None
    name: str = ""
    parameters: msgspec.Raw = _NO_VALUE
    input_schema: msgspec.Raw = _NO_VALUE


class _Choice(msgspec.Struct, gc=False):
    type: str | None = None
    mode: str | None = None  # of `allowed_tools`


class _Format(msgspec.Struct, gc=False):
    type: str | None = None
    schema: msgspec.Raw = _NO_VALUE


class _Text(msgspec.Struct, gc=False):
    format: _Format | None = None


_TOOLS = msgspec.json.Decoder(list[_Tool])
_CHOICE = msgspec.json.Decoder(str | _Choice | None)
_TEXT = msgspec.json.Decoder(_Text | None)
_LIMIT: msgspec.json.Decoder[int | None] = msgspec.json.Decoder(int | None)
# What says that a tool must, or must not, be called; whatever else there is (`auto`, a tool that the engine runs) leaves it open.
_CALLING = {
    "required": Calling.MUST,
    "function": Calling.MUST,
    "any": Calling.MUST,
    "tool": Calling.MUST,
    "none": Calling.MUST_NOT,
}


class ResponseAsking(Asking):
    """Of a call for a response."""

    __slots__ = ()
    format_field: ClassVar[str | None] = "text"

    @property
    def limit_tokens(self) -> int | None:
        """`max_output_tokens`: llama.cpp calls a response that it cuts off `completed` (captured)."""
        try:
            return _LIMIT.decode(self._body.fields.get("max_output_tokens", b"null"))
        except MALFORMED:
            return None

    def _read(self) -> Asked:
        fields = self._body.fields
        tools, has_other_tools = _tools(fields.get("tools"), (("function",), "parameters"))
        form, schema = _format(fields.get("text"))
        return Asked(
            tools,
            has_other_tools=has_other_tools,
            calling=_calling(fields.get("tool_choice")),
            format=form,
            schema=schema,
            may_be_cut=is_set(fields.get("stop")),  # vLLM takes it here too
        )


class MessageAsking(Asking):
    """Of a call for a message."""

    __slots__ = ()
    format_field: ClassVar[str | None] = None

    def _read(self) -> Asked:
        fields = self._body.fields
        tools, has_other_tools = _tools(fields.get("tools"), ((None, "custom"), "input_schema"))
        return Asked(
            tools,
            has_other_tools=has_other_tools,
            calling=_calling(fields.get("tool_choice")),
            may_be_cut=is_set(fields.get("stop_sequences")),
        )


def asking_of(kind: str, body: CallBody) -> Asking:
    """What a call of this kind asks for."""
    if kind == "chat":
        return Asking(body)
    return ResponseAsking(body) if kind == "responses" else MessageAsking(body)


def _tools(raw: msgspec.Raw | None, form: tuple[tuple[str | None, ...], str]) -> tuple[dict[str, bytes], bool]:
    """`form`: the types of the client's own tools, and which field has their schema; all others are the engine's."""
    if raw is None:
        return {}, False
    try:
        tools = _TOOLS.decode(raw)
    except MALFORMED:
        return {}, has_value(raw)
    types, field = form
    offered = [tool for tool in tools if tool.type in types and tool.name]
    return {tool.name: schema_of(getattr(tool, field)) for tool in offered}, len(offered) < len(tools)


def _calling(raw: msgspec.Raw | None) -> Calling:
    if raw is None:
        return Calling.MAY
    try:
        choice = _CHOICE.decode(raw)
    except MALFORMED:
        return Calling.MAY
    if isinstance(choice, _Choice):
        choice = choice.mode if choice.type == "allowed_tools" else choice.type
    return _CALLING.get(choice or "", Calling.MAY)


def _format(raw: msgspec.Raw | None) -> tuple[Format, bytes]:
    try:
        text = None if raw is None else _TEXT.decode(raw)
    except MALFORMED:
        return Format.TEXT, b""
    if text is None or text.format is None:
        return Format.TEXT, b""
    return FORMATS.get(text.format.type or "", Format.TEXT), schema_of(text.format.schema)
