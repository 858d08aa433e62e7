"""What a client sent, read as far as it decides something and no further: the body's top level as raw slices, and a few fields.

A long prompt is never parsed into objects: the top level is split once into name and raw value, the few values that decide
something are decoded, and a body for a backend is written from the same slices with the model's name replaced.

Rejected here, because two readers could understand them differently: invalid UTF-8, nesting deeper than 64, a top-level name
that stands twice. Values that are not interpreted are the backend's to judge.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from backends.asking import AS_IT_IS, Translation
from backends.faults import MALFORMED
from backends.http1 import Pieces
from router.bad_call import BadCall
from router.canonical_request import (
    LEAD_BYTES,
    PLAIN_END,
    PLAIN_OPENINGS,
    Fields,
    canonical,
    has_odd_turns,
    is_filled,
    opening_of,
)

__all__ = ["MAX_DEPTH", "MAX_MODEL_CHARS", "NEVER_STREAMED", "BadCall", "CallBody", "read_body", "value_of"]

MAX_DEPTH = 64  # orjson's and vLLM's parsers take 1,000 and more; no real call nests deeper than a JSON schema's dozen
MAX_MODEL_CHARS = 200

NEVER_STREAMED = frozenset({"embeddings", "count_tokens", "tokenize"})

_NO_VALUE = msgspec.Raw()
_TOP_LEVEL = msgspec.json.Decoder(dict[str, msgspec.Raw])
_STRING = msgspec.json.Decoder(str | None)
_FLAG = msgspec.json.Decoder(bool | None)


class _Metadata(msgspec.Struct):
    user_id: str | None = None


_METADATA = msgspec.json.Decoder(_Metadata)
# Both take a string's plain runs whole, and `_STRINGS` one that nobody closed to its very end: to search for an end again from each
# escaped quote takes a minute for 150 KB of them (measured).
_NAME = re.compile(rb'[ \t\r\n]*+,?[ \t\r\n]*+"[^"\\]*+(?:\\.[^"\\]*+)*+"[ \t\r\n]*+:[ \t\r\n]*+')
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_END = re.compile(rb"[ \t\r\n]*+\}")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_OPENING = ord("[")
_WHITESPACE = b" \t\r\n"
_FEW_OBJECTS = 4  # to look at so many openings costs less than to decode the turns (measured)
_SHORT_BYTES = 4_096  # below this counting every byte costs less than a dozen searches (measured)


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


_STREAM_OPTIONS = msgspec.json.Decoder(_StreamOptions)


class CallBody(msgspec.Struct, frozen=True):
    """A body that was read: its raw top-level fields, and those that decide something.

    The value of `model` stands at `raw[start:end]`; both are 0 where white space or an escape hides the place, and where a field of the
    client's is not sent on. `has_odd_turns`: whether a dialect may have to change the conversation.
    """

    raw: bytes
    start: int
    end: int
    fields: Fields
    model: str
    stream: bool
    has_tools: bool
    user: str | None
    size_bytes: int
    has_odd_turns: bool

    @property
    def wants_usage(self) -> bool:
        """Whether the client asked for the event of a stream that counts its tokens; backends are asked for it either way."""
        options = self.fields.get("stream_options")
        return options is not None and _asks_usage(options)

    @property
    def one_tool_only(self) -> bool:
        """Whether the client takes one tool call at most: `parallel_tool_calls` is false."""
        value = self.fields.get("parallel_tool_calls")
        return value is not None and bytes(value) == b"false"

    @property
    def messages(self) -> msgspec.Raw:
        """The raw JSON of the conversation: `messages`, or the items of a response's `input`; empty where there is none; no copy."""
        fields = self.fields
        return fields.get("messages") or fields.get("input", _NO_VALUE)

    @property
    def prompt(self) -> bytes | msgspec.Raw:
        """The field that an engine works on; where it is none of the usual ones, all fields but the model."""
        for name in ("messages", "prompt", "input"):
            if name in self.fields:
                return self.fields[name]
        return b"".join(self.write(b'""'))

    def write(self, model: bytes, translation: Translation = AS_IT_IS) -> Pieces:
        """The body for a backend, with `model`, a JSON string, in the place of the public name.

        A long prompt is not copied, unless a field before or after it has to change.
        """
        opening, fields = translation.put(self.fields, is_streamed=self.stream, has_odd_turns=self.has_odd_turns)
        if self.start and fields is self.fields:
            raw = memoryview(self.raw)
            if opening:
                return opening, raw[1 : self.start], model, raw[self.end :]
            return raw[: self.start], model, raw[self.end :]
        written = msgspec.json.encode({**fields, "model": msgspec.Raw(model)})
        return (opening, memoryview(written)[1:]) if opening else (written,)

    def sent(self, translation: Translation) -> Fields:
        """The fields for a backend, from which a further call to it can be made; `model` is still the public one."""
        return translation.whole(self.fields, is_streamed=self.stream, has_odd_turns=self.has_odd_turns)


def read_body(kind: str, body: bytes) -> CallBody:
    """Read the JSON body of one call of `kind`, without what may not be sent on. Raises BadCall."""
    given, start, is_plain = _top_level(body)
    _check_tools(given.get("tools"))
    fields = canonical(kind, given)
    if fields is not given:
        start = 0
    model = _text(fields, "model")
    if not model:
        raise BadCall("you must provide a model parameter", param="model")
    if len(model) > MAX_MODEL_CHARS:
        raise BadCall(f"model must be at most {MAX_MODEL_CHARS} characters long", param="model")
    _require(kind, fields)
    return CallBody(
        raw=body,
        start=start,
        end=start + len(memoryview(fields["model"])) if start else 0,
        fields=fields,
        model=model,
        stream=_flag(fields, "stream") and kind not in NEVER_STREAMED,  # engines ignore the field
        has_tools=is_filled(fields.get("tools")),
        user=_text(fields, "user") if kind != "messages" else _user_of_metadata(fields.get("metadata")),
        size_bytes=len(body),
        has_odd_turns=kind == "chat"
        and not (is_plain and memoryview(fields["messages"])[-len(PLAIN_END) :] == PLAIN_END)
        and has_odd_turns(fields["messages"]),
    )


def _top_level(body: bytes) -> tuple[Fields, int, bool]:
    """The fields; where the value of `model` begins, 0 where that is not known; whether all objects in them are plain turns for sure."""
    if not body:
        raise BadCall("the body is empty; send a JSON object")
    if not body.isascii():
        try:
            str(body, "utf-8")
        except UnicodeDecodeError as exc:
            raise BadCall(f"the body is not valid UTF-8 at byte {exc.start}") from exc
    is_plain = _check_depth(body)
    try:
        fields = _TOP_LEVEL.decode(body)
    except msgspec.ValidationError as exc:
        raise BadCall("the body must be a JSON object") from exc
    except (msgspec.DecodeError, RecursionError) as exc:
        raise BadCall(f"the body is not valid JSON: {exc}") from exc
    if _tight_bytes(fields) == len(body):
        return fields, _start_of_model(fields), is_plain
    _check_names(body, fields)
    return fields, 0, is_plain


def _check_depth(body: bytes) -> bool:
    """Whether all objects in a body are plain turns, where that is soon found out."""
    is_plain = False
    if len(body) < _SHORT_BYTES:
        objects = body.count(b"{")
        brackets_in_all = body.count(b"[") + objects
        is_plain = objects <= _FEW_OBJECTS and _objects_in(body)[1]
    else:
        objects, is_plain = _objects_in(body)
        brackets_in_all = objects + _count_up_to(body, b"[", MAX_DEPTH)
    if brackets_in_all <= MAX_DEPTH:
        return is_plain  # fewer than levels
    brackets = (
        _STRINGS.sub(b"", body).translate(_ONE_KIND, _NOT_BRACKETS).replace(b"[]", b"")
    )  # the innermost are most of them
    depth = 1
    for bracket in brackets:
        depth += 1 if bracket == _OPENING else -1
        if depth > MAX_DEPTH:
            raise BadCall(f"the body nests deeper than {MAX_DEPTH} levels")
    return False


def _objects_in(body: bytes) -> tuple[int, bool]:
    """How many objects a body seems to have, at most `MAX_DEPTH` + 1, and whether all but itself open as a plain turn does.

    What opens so stands in no string: there its quotes would be escaped. And nothing but turns stands before the last of them.
    """
    position = body.find(b"{")
    is_plain = True
    for count in range(1, MAX_DEPTH + 1):
        position = body.find(b"{", position + 1)
        if position < 0:
            return count, is_plain
        is_plain = is_plain and body.startswith(PLAIN_OPENINGS, position - LEAD_BYTES)
    return MAX_DEPTH + 1, False


def _count_up_to(body: bytes, byte: bytes, limit: int) -> int:
    """How often `byte` stands in `body`, at most `limit` + 1. Few hits in a long text: `find` is ten times as fast as `count`."""
    position = -1
    for count in range(limit + 1):
        position = body.find(byte, position + 1)
        if position < 0:
            return count
    return limit + 1


def _tight_bytes(fields: Fields) -> int:
    """How long a body of these fields is when nothing is written twice, spaced or escaped.

    No body is shorter than that, so one of just that length is so written.
    """
    return 1 + 4 * len(fields) + sum(map(len, fields)) + sum([len(memoryview(value)) for value in fields.values()])


def _start_of_model(fields: Fields) -> int:
    """Where the value of `model` begins in a body that is so written, 0 where there is none."""
    start = 1
    for name, value in fields.items():
        start += len(name) + 3
        if name == "model":
            return start
        start += len(memoryview(value)) + 1
    return 0


def _check_names(body: bytes, fields: Fields) -> None:
    """Find a name that stands twice, in a body that is longer than its fields: white space makes it so, and a name that stands twice.

    It is walked field by field: it must hold these, in this order, and nothing else.
    """
    position = body.index(b"{") + 1
    for value in fields.values():
        name = _NAME.match(body, position)
        raw = bytes(value)
        if name is None or not body.startswith(raw, name.end()):
            break
        position = name.end() + len(raw)
    if _END.match(body, position) is None:
        raise BadCall("the body names a field twice; send each field once")


# What a call of a kind must have besides its model.
_REQUIRED = {
    "completions": ("prompt",),
    "embeddings": ("input",),
    "responses": ("input",),
    "messages": ("max_tokens",),
}


def _require(kind: str, fields: Fields) -> None:
    if kind in ("chat", "messages", "count_tokens"):
        _check_list(fields, "messages")
    for name in _REQUIRED.get(kind, ()):
        if name not in fields:
            raise BadCall(f"{name} is missing", param=name)
    if kind == "tokenize" and "prompt" not in fields:
        _check_list(fields, "messages")
    elif kind == "responses":
        _refuse_conversation(fields.get("conversation"))


def _check_tools(tools: msgspec.Raw | None) -> None:
    """Before a field without tools is left out: what is no list at all is the client's to mend."""
    if tools is not None and opening_of(tools)[:1] not in (b"[", b"n"):
        raise BadCall("tools must be a list", param="tools")


def _refuse_conversation(value: msgspec.Raw | None) -> None:
    """Engines ignore the field, and would answer as if nothing had been said before."""
    if value is not None and bytes(value) != b"null":
        message = "conversation objects are not supported; go on with previous_response_id, or send the items as input"
        raise BadCall(message, param="conversation", code="unsupported_parameter")


def _check_list(fields: Fields, name: str) -> None:
    value = fields.get(name)
    if is_filled(value):
        return
    if value is None:
        raise BadCall(f"{name} is missing", param=name)
    is_list = opening_of(value)[:1] == b"["
    raise BadCall(f"{name} must not be empty" if is_list else f"{name} must be a list", param=name)


def _asks_usage(options: msgspec.Raw) -> bool:
    try:
        return _STREAM_OPTIONS.decode(options).include_usage is True
    except msgspec.DecodeError:
        return False


def _user_of_metadata(value: msgspec.Raw | None) -> str | None:
    """Where Anthropic's API has the user; what is malformed is the backend's to judge."""
    try:
        return _METADATA.decode(value).user_id if value is not None else None
    except msgspec.DecodeError:
        return None


def value_of(fields: Fields, name: str) -> Any:
    """What a field says; None where it is missing, or cannot be read."""
    value = fields.get(name)
    if value is None:
        return None
    try:
        return msgspec.json.decode(value)
    except MALFORMED:
        return None


def _flag(fields: Fields, name: str) -> bool:
    value = fields.get(name)
    if value is None:
        return False
    try:
        return _FLAG.decode(value) is True
    except msgspec.DecodeError as exc:
        raise BadCall(f"{name} must be true or false", param=name) from exc


def _text(fields: Fields, name: str) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    try:
        text: str | None = _STRING.decode(value)
    except msgspec.DecodeError as exc:
        raise BadCall(f"{name} must be a string", param=name) from exc
    return text
