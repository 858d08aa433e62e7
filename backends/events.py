"""Streams whose events have names (responses, messages), read and written in the one form that clients get.

What an event costs
-------------------
The pieces of an answer are nearly all of a stream's events. One is decoded into a flat struct of raw slices and written again from it
(3 to 4 µs in all, with the reading of its lines; measured), which also drops what an engine adds and puts the keys in one order; no tree is
built, and the text is never unescaped. Only the few events that carry a whole response or message are split once more.

Where engines leave gaps (llama.cpp numbers neither its events nor its items) they are filled by counting, because OpenAI's SDKs put a
response together by these numbers. An answer whose first character takes several tokens (an emoji) llama.cpp begins more than once, and a
message not at all (captured); it is passed on as begun once, because SDKs raise on anything else.

What is an end
--------------
Only the API's own last event: `response.completed`, `response.incomplete`, `message_stop`. Everything else that ends a stream breaks it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod

import msgspec

from backends.apis import (
    BY_SEQUENCE,
    Fields,
    MessageUsage,
    Shown,
    fields_of,
    is_there,
    shown_message,
    shown_response,
    text_of,
)
from backends.errors import Failed, ProtocolBroken
from backends.faults import MALFORMED, fault_of_error
from backends.items import shown_item, shown_part
from backends.sse import Event

_NO_VALUE = msgspec.Raw()  # a field that is not there; `omit_defaults` leaves out this very object
_DONE = b"[DONE]"
_NAME = re.compile(r"[a-z][a-z_.]{0,79}", re.ASCII)
_NOTHING = frozenset({b'""', b"null", b"{}", b"[]"})
_encode = msgspec.json.Encoder().encode


class TypedStream(ABC):
    """One stream on its way through: what it has said so far, as far as it decides something.

    `is_whole`: it has ended as it should. Whoever feeds it stops then.
    """

    __slots__ = ("_heads", "_shown", "is_whole")

    def __init__(self, shown: Shown):
        self._shown = shown
        self._heads: dict[str, bytes] = {}
        self.is_whole = False

    def take(self, event: Event, out: list[bytes]) -> bool:
        """Put one event into `out` in the client's form; whether it has content.

        Raises what an error event says, Failed where the engine gave up, ProtocolBroken where it is no event of this API.
        """
        if self.is_whole or event.data == _DONE:
            return False
        if event.type == b"error":
            raise fault_of_error(event.data)
        try:
            if not event.data.isascii():
                str(event.data, "utf-8")  # slices are passed on undecoded
            return self._take(event, out)
        except MALFORMED as exc:
            raise ProtocolBroken(f"a malformed event in the stream: {exc}") from exc

    @abstractmethod
    def _take(self, event: Event, out: list[bytes]) -> bool: ...

    def _event(self, name: str, data: bytes) -> bytes:
        head = self._heads.get(name)
        if head is None:
            if not _NAME.fullmatch(name):  # it stands in a line of its own, and must not make a second one
                raise ProtocolBroken("an event of the stream has no name")
            head = self._heads[name] = b"event: %b\ndata: " % name.encode()
        if b"\n" in data:  # between tokens, where it means what a space does
            data = data.replace(b"\n", b" ")
        return b"%b%b\n\n" % (head, data)


class _ResponseEvent(msgspec.Struct, gc=False, omit_defaults=True):
    """All that OpenAI's API has in its events, in one order; what is not here does not reach a client."""

    type: str = ""
    sequence_number: int | None = None
    response: msgspec.Raw = _NO_VALUE
    item_id: str | None = None
    output_index: int | None = None
    content_index: int | None = None
    summary_index: int | None = None
    annotation_index: msgspec.Raw = _NO_VALUE
    command_index: msgspec.Raw = _NO_VALUE
    item: msgspec.Raw = _NO_VALUE
    part: msgspec.Raw = _NO_VALUE
    delta: msgspec.Raw = _NO_VALUE
    text: msgspec.Raw = _NO_VALUE
    refusal: msgspec.Raw = _NO_VALUE
    name: msgspec.Raw = _NO_VALUE
    arguments: msgspec.Raw = _NO_VALUE
    input: msgspec.Raw = _NO_VALUE
    code: msgspec.Raw = _NO_VALUE
    logprobs: msgspec.Raw = _NO_VALUE
    annotation: msgspec.Raw = _NO_VALUE
    output: msgspec.Raw = _NO_VALUE
    partial_image_index: msgspec.Raw = _NO_VALUE
    partial_image_b64: msgspec.Raw = _NO_VALUE
    error: msgspec.Raw = _NO_VALUE


class _Item(msgspec.Struct, gc=False):
    id: str | None = None


_RESPONSE_EVENT = msgspec.json.Decoder(_ResponseEvent)
_ITEM = msgspec.json.Decoder(_Item)
_BEGINNINGS = frozenset({"response.created", "response.queued", "response.in_progress"})
_ENDS = frozenset({"response.completed", "response.incomplete"})
_GIVEN_UP = frozenset({"failed", "cancelled"})  # vLLM completes a response that its engine gave up as `cancelled`
# Where engines that number nothing have one part only, and the API's events say which.
_WITH_LOGPROBS = frozenset({"response.output_text.delta", "response.output_text.done"})
_EMPTY = msgspec.Raw(b"[]")
_OF_A_PART = ("response.output_text.", "response.content_part.", "response.reasoning_text.", "response.refusal.")


class ResponseStream(TypedStream):
    """A response's events. `is_held`: of one that is asked for again, so that also its failure is an answer."""

    __slots__ = ("_begun", "_is_held", "_items", "_next_number")

    def __init__(self, shown: Shown, *, is_held: bool = False):
        super().__init__(shown)
        self._is_held = is_held
        self._begun: set[str] = set()
        self._items: dict[str | None, int] = {}
        self._next_number = 0

    def _take(self, event: Event, out: list[bytes]) -> bool:
        said = _RESPONSE_EVENT.decode(event.data)
        if is_there(said.error) or said.type == "error":
            raise fault_of_error(event.data)
        kind = said.type = said.type or event.type.decode()
        if kind and not kind.startswith("response."):
            return False  # a sign of life, which the router gives itself
        if kind in _BEGINNINGS:
            if kind in self._begun:
                return False
            self._begun.add(kind)
        is_piece = kind.endswith(".delta")
        has_content = is_piece and bytes(said.delta) not in _NOTHING
        if said.response is not _NO_VALUE:
            self._take_response(kind, said)
        elif kind.startswith("response.output_item."):
            has_content = self._take_item(kind, said)
        elif said.part is not _NO_VALUE:
            said.part = shown_part(said.part)
        self._number(kind, said)
        out.append(self._event(kind, _encode(said)))
        return has_content

    def _take_response(self, kind: str, said: _ResponseEvent) -> None:
        fields = fields_of(said.response)
        status = text_of(fields.get("status"))
        has_failed = kind == "response.failed" or (kind in _ENDS and status in _GIVEN_UP)
        if has_failed and not self._is_held:
            raise _failure(fields)
        self.is_whole = has_failed or kind in _ENDS
        said.response = msgspec.Raw(msgspec.json.encode(shown_response(fields, self._shown)))

    def _take_item(self, kind: str, said: _ResponseEvent) -> bool:
        """Items are counted as they come; one that is done says something, whether it came in pieces or not."""
        said.item_id = None  # of these events the item itself has it
        if said.item is _NO_VALUE:
            raise ProtocolBroken("an event of an item has none")
        own_id = _ITEM.decode(said.item).id
        if kind == "response.output_item.added":
            index = len(self._items) if said.output_index is None else said.output_index
            self._items[own_id] = said.output_index = index
        elif said.output_index is None:
            said.output_index = self._items.get(own_id, max(0, len(self._items) - 1))
        said.item = shown_item(said.item)
        return kind == "response.output_item.done"

    def _number(self, kind: str, said: _ResponseEvent) -> None:
        if said.sequence_number is None:
            said.sequence_number = self._next_number
        self._next_number = said.sequence_number + 1
        if said.item_id is not None and said.output_index is None:
            said.output_index = self._items.get(said.item_id, max(0, len(self._items) - 1))
            if said.content_index is None and kind.startswith(_OF_A_PART):
                said.content_index = 0
        if said.logprobs is _NO_VALUE and kind in _WITH_LOGPROBS:
            said.logprobs = _EMPTY


def _failure(fields: Fields) -> Exception:
    if is_there(fields.get("error")):
        return fault_of_error(msgspec.json.encode(fields))
    return Failed("the engine gave the response up")


class _MessageEvent(msgspec.Struct, gc=False, omit_defaults=True):
    """All that Anthropic's API has in its events."""

    type: str = ""
    message: msgspec.Raw = _NO_VALUE
    index: int | None = None
    content_block: msgspec.Raw = _NO_VALUE
    delta: msgspec.Raw = _NO_VALUE
    usage: msgspec.Raw = _NO_VALUE
    error: msgspec.Raw = _NO_VALUE


class _Piece(msgspec.Struct, gc=False):
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None


class _Block(msgspec.Struct, gc=False):
    type: str = ""


class _End(msgspec.Struct, gc=False):
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _EndUsage(msgspec.Struct, gc=False):
    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int = 0

    def whole(self, begun: MessageUsage) -> MessageUsage:
        """With what was said at the beginning, where it is not said again: engines differ in that."""
        return MessageUsage(
            begun.input_tokens if self.input_tokens is None else self.input_tokens,
            begun.cache_creation_input_tokens
            if self.cache_creation_input_tokens is None
            else self.cache_creation_input_tokens,
            begun.cache_read_input_tokens if self.cache_read_input_tokens is None else self.cache_read_input_tokens,
            self.output_tokens,
        )


_MESSAGE_EVENT = msgspec.json.Decoder(_MessageEvent)
_PIECE, _BLOCK = msgspec.json.Decoder(_Piece), msgspec.json.Decoder(_Block)
_END, _END_USAGE = msgspec.json.Decoder(_End), msgspec.json.Decoder(_EndUsage)
_BEGUN_USAGE = msgspec.json.Decoder(MessageUsage)
_IN_PIECES = frozenset({"text", "thinking", "redacted_thinking"})  # blocks that say nothing when they begin
_START, _NOTHING_SAID = "message_start", msgspec.Raw(b'{"usage":{}}')


class MessageStream(TypedStream):
    """A message's events. Pings are dropped: they are no progress, and the router sends its own."""

    __slots__ = ("_begun", "_has_begun", "_has_content", "_stop_reason")

    def __init__(self, shown: Shown):
        super().__init__(shown)
        self._has_begun = False
        self._has_content = False
        self._stop_reason = ""
        self._begun = MessageUsage()

    def _take(self, event: Event, out: list[bytes]) -> bool:
        said = _MESSAGE_EVENT.decode(event.data)
        if is_there(said.error) or said.type == "error":
            raise fault_of_error(event.data)
        kind = said.type = said.type or event.type.decode()
        if kind == "ping" or (kind == _START and self._has_begun):
            return False
        if not self._has_begun:
            self._begin(said if kind == _START else _MessageEvent(_START, _NOTHING_SAID), out)
        if kind == _START:
            return False
        has_content = False
        if kind == "content_block_delta":
            has_content = self._has_content or _says_something(said.delta)
        elif kind == "content_block_start":
            block = _BLOCK.decode(said.content_block or b"{}").type
            has_content = block not in _IN_PIECES
            self._shown.says_more_than_thoughts |= has_content or block == "text"
        elif kind == "message_delta":
            self._end(said)
        elif kind == "message_stop":
            if not self._stop_reason:  # vLLM's form of `abort` here
                raise Failed("the engine aborted the answer")
            self.is_whole = True
        self._has_content = self._has_content or has_content
        out.append(self._event(kind, _encode(said)))
        return has_content

    def _begin(self, said: _MessageEvent, out: list[bytes]) -> None:
        self._has_begun = True
        fields = fields_of(said.message)
        if is_there(fields.get("usage")):
            self._begun = _BEGUN_USAGE.decode(fields["usage"])
        said.message = msgspec.Raw(msgspec.json.encode(shown_message(fields, self._shown)))
        out.append(self._event(_START, _encode(said)))

    def _end(self, said: _MessageEvent) -> None:
        end = _END.decode(said.delta or b"{}")
        if end.stop_sequence is not None:
            end.stop_reason = BY_SEQUENCE
        self._stop_reason = self._shown.ended_as = end.stop_reason or self._stop_reason
        usage = (_END_USAGE.decode(said.usage) if is_there(said.usage) else _EndUsage()).whole(self._begun)
        self._shown.usage = usage.counted()
        said.delta = msgspec.Raw(msgspec.json.encode(end))
        said.usage = msgspec.Raw(msgspec.json.encode(usage))


def _says_something(delta: msgspec.Raw) -> bool:
    piece = _PIECE.decode(delta or b"{}")
    return bool(piece.text or piece.thinking or piece.partial_json)


def stream_of(form: str, shown: Shown) -> TypedStream:
    """What a stream of this form (of `backends.apis.FORMS`) goes through."""
    return MessageStream(shown) if form == "messages" else ResponseStream(shown, is_held=form == "held response")
