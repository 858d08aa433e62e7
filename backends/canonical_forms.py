"""What the canonical form of whole answers and of streams has in common: identity, tool calls, and why an answer ended."""

from __future__ import annotations

import random
import time
from hashlib import blake2b

import msgspec
from msgspec import UNSET, UnsetType

from backends.answers import ToolCall, has_value
from backends.usage import Usage

DONE_EVENT = b"data: [DONE]\n\n"
_ID_BITS = 96  # random ones: no two calls of a year are alike at any rate that one machine can serve
_PREFIX = {"chat": "chatcmpl-", "completions": "cmpl-"}
_CALL = "call_"
_CUT_OFF = frozenset({"length", "content_filter"})  # these stay, whatever was sent before


class Answer:
    """What one call's answer says alike in all its parts, whichever backends give them, and what is known of its tokens.

    `head` is what each event of its stream begins with, once a backend has begun it. `is_said`: it broke off with nothing left to say, for
    every choice that it had begun has ended.
    """

    __slots__ = ("created", "head", "id", "is_said", "one_tool_only", "usage", "wants_usage")

    def __init__(self, kind: str, *, wants_usage: bool, one_tool_only: bool):
        self.id = f"{_PREFIX.get(kind, '')}{random.getrandbits(_ID_BITS):024x}"
        self.created = int(time.time())
        self.wants_usage = wants_usage
        self.one_tool_only = one_tool_only
        self.usage: Usage | None = None
        self.head = b""
        self.is_said = False

    def ending(self, head: bytes) -> bytes:
        """The last events of its stream, whose events begin with `head`."""
        if self.wants_usage and self.usage is not None:
            return b'%b],"usage":%b}\n\n%b' % (head, self.usage.as_json(), DONE_EVENT)
        return DONE_EVENT

    def call_id(self, engines: str | int | None, choice: int, place: int) -> str:
        """A tool call's id: in all its pieces the same, and no other call's, though some engines' ids are only small numbers."""
        if isinstance(engines, str) and engines.startswith(_CALL):
            return engines
        known = f"{self.id}/{choice}/{place}/{engines}"
        return _CALL + blake2b(known.encode(), digest_size=_ID_BITS // 8).hexdigest()


class FunctionForm(msgspec.Struct, gc=False):
    """What a tool call calls."""

    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET


class CallForm(msgspec.Struct, gc=False):
    """A tool call, or in a stream a piece of one."""

    index: int | UnsetType = UNSET
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    function: FunctionForm | UnsetType = UNSET
    custom: msgspec.Raw | UnsetType = UNSET


def call_form(call: ToolCall, call_id: str) -> CallForm:
    """A tool call with all that is known of it."""
    if has_value(call.custom):
        return CallForm(id=call_id, type="custom", custom=call.custom)
    name, arguments = called(call)
    return CallForm(id=call_id, type=call.type or "function", function=FunctionForm(name, arguments))


def called(call: ToolCall) -> tuple[str, str]:
    """The name and the arguments, or this piece of them."""
    function = call.function
    if function is None:
        return "", ""
    arguments = function.arguments
    if isinstance(arguments, dict):
        arguments = msgspec.json.encode(arguments).decode()
    return function.name or "", arguments or ""


def reason_of(said: str | None, *, has_calls: bool = False, has_function: bool = False) -> str:
    """OpenAI's word for why an answer ended. Engines say `stop` after a tool call that the client named, and words of their own."""
    if said in _CUT_OFF:
        return said or ""
    if has_calls:
        return "tool_calls"
    return "function_call" if has_function else "stop"
