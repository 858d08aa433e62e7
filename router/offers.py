"""The tools that a client offers: what is none is the client's to mend, whoever would answer.

llama-server answers 500 to most of it, which would be charged to it; vLLM 400; both take some of it without a word (all seen). Types
other than `function` are passed over but for their being objects: each server has its own, or none.

    {"type": "function", "function": {}}    400, tools[0].function.name is missing
    {"type": "custom", …}                   the backend's to judge; of chat, a need that few have
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec

from backends.faults import MALFORMED
from router.bad_call import BadCall

_Name = Annotated[
    str, msgspec.Meta(pattern=r"\A[a-zA-Z0-9_-]{1,64}\Z")
]  # OpenAI's rule, and Anthropic's but for its length


class _Object(msgspec.Struct):
    """Any."""


class _Function(msgspec.Struct):
    name: _Name
    description: str | None = None
    parameters: _Object | None = None


class _ChatTool(msgspec.Struct):
    type: Literal["function"]
    function: _Function


class _ResponsesTool(_Function, kw_only=True):
    """The function itself is the tool."""

    type: Literal["function"]


class _MessagesTool(msgspec.Struct):
    name: str
    type: str | None = None
    input_schema: _Object | None = None


class _OfFunction(msgspec.Struct, gc=False):
    type: Literal["function"]


class _Typed(msgspec.Struct):
    type: str


class _Untyped(msgspec.Struct):
    type: str | None = None


_OF_FUNCTIONS = msgspec.json.Decoder(list[_OfFunction])
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_TYPED, _UNTYPED = msgspec.json.Decoder(_Typed), msgspec.json.Decoder(_Untyped)
# Of which type the client's own functions are.
_OWN = {"chat": ("function",), "responses": ("function",), "messages": (None, "custom")}
# By kind of call: all tools at once, and one alone.
_FORMS: dict[str, tuple[msgspec.json.Decoder[Any], msgspec.json.Decoder[Any]]] = {
    "chat": (msgspec.json.Decoder(list[_ChatTool]), msgspec.json.Decoder(_ChatTool)),
    "responses": (msgspec.json.Decoder(list[_ResponsesTool]), msgspec.json.Decoder(_ResponsesTool)),
    "messages": (msgspec.json.Decoder(list[_MessagesTool]), msgspec.json.Decoder(_MessagesTool)),
}
_WORDS = {
    "name": "1 to 64 letters, digits, underscores and dashes",
    "type": "a string",
    "description": "a string",
}
_MISSING = re.compile(r"Object missing required field `(\w+)`")
_PLACE = re.compile(r" - at `\$(\S*)`$")


def check_offer(kind: str, tools: msgspec.Raw) -> None:
    """Look at a list of tools as a call of `kind` offers them, at the cost of one decoding where all are functions. Raises BadCall."""
    functions, function = _FORMS[kind]
    try:
        functions.decode(tools)
        return
    except MALFORMED:
        pass
    for index, tool in enumerate(_items(tools)):
        try:
            if (_UNTYPED if kind == "messages" else _TYPED).decode(tool).type in _OWN[kind]:
                function.decode(tool)
        except MALFORMED as exc:
            raise _bad_tool(f"tools[{index}]", str(exc)) from exc


def has_custom(tools: msgspec.Raw) -> bool:
    """Whether a chat offers a tool that is no function. The list has been looked at by `check_offer`."""
    try:
        _OF_FUNCTIONS.decode(tools)
    except MALFORMED:
        return True
    return False


def _items(tools: msgspec.Raw) -> list[msgspec.Raw]:
    try:
        return _ITEMS.decode(tools)
    except MALFORMED as exc:
        raise BadCall("tools must be a list of tools", param="tools") from exc


def _bad_tool(item: str, told: str) -> BadCall:
    """`told` is msgspec's message: what is wrong, and where in the tool, `Expected `str`, got `int` - at `$.function.name``."""
    found = _PLACE.search(told)
    place = item + (found[1] if found else "")
    missing = _MISSING.match(told)
    if missing:
        place = f"{place}.{missing[1]}"
        return BadCall(f"{place} is missing", param=place)
    return BadCall(f"{place} must be {_WORDS.get(place.rpartition('.')[2], 'an object')}", param=place)
