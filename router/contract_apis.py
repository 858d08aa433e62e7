"""Contracts in the APIs beside chat: what a response, a message or a completion has said, in the terms that answers are judged in.

A response's last event carries all of it, and so is judged as a whole answer is. A message's events are put together again, for the
calls that have tools; of all others a stream tells no more than whether anything was said but thoughts.

A plain call pays for one search in the bytes of what was answered.
"""

from __future__ import annotations

import msgspec

from backends.apis import Shown
from backends.faults import MALFORMED
from backends.sse import Event
from policies.contract import NOT_JUDGED, Answered, Judgement, ToolCall
from policies.schema import MAX_INSTANCE_BYTES
from router.contract_asked import Asking, is_set
from router.contract_asked_apis import ResponseAsking
from router.contracts import OPENINGS, TEXTS_END, Contract
from router.reading import CallBody


class TypedContract:
    """One attempt's answer, of a response or a message, held to its model's contract; `shown` fills while it comes."""

    __slots__ = ("_asking", "_contract", "_is_judged", "_is_response", "_shown", "watch")

    def __init__(self, contract: Contract, asking: Asking, shown: Shown, *, is_streamed: bool):
        """`watch`: what sees the events of a stream; None for a plain call."""
        self._contract = contract
        self._asking = asking
        self._shown = shown
        self._is_response = isinstance(asking, ResponseAsking)
        self._is_judged = False
        self.watch: TypedWatch | None = None
        if is_streamed and asking.is_special:
            watch = TypedWatch if self._is_response else MessageWatch
            self.watch = watch(holds_all=contract.holds_all(asking), holds_calls=contract.holds_calls(asking))

    def of_whole(self) -> Judgement | None:
        """Of a whole answer; None where there is nothing to say of a plain one."""
        output = self._shown.output
        if not self._asking.is_special and _is_beyond_doubt(output, is_response=self._is_response):
            return None
        return self._told(_response(output, self._ended()) if self._is_response else self._message(_blocks(output)))

    def before_commit(self, *, has_content: bool, is_whole: bool) -> Judgement | None:
        """Of a stream of which nothing was sent yet; None where there is nothing to say, or not yet."""
        self._is_judged = is_whole
        return self._of_stream(has_content=has_content) if is_whole else None

    def after_end(self) -> Judgement | None:
        """Of a stream that was sent; None where it has been judged before, or there is nothing to say."""
        return None if self._is_judged else self._of_stream(has_content=True)

    def _of_stream(self, *, has_content: bool) -> Judgement | None:
        shown = self._shown
        if self._is_response:
            # One whose last event does not say again what was streamed can't be judged by it.
            return self._told(None) if has_content and shown.output == _NO_ITEMS else self.of_whole()
        if isinstance(self.watch, MessageWatch):
            return self._told(self._message(self.watch.blocks()))
        return None if has_content and shown.says_more_than_thoughts else self._told(self._message([]))

    def _message(self, blocks: list[_Block] | None) -> Answered | None:
        is_over = self._shown.ended_as in _OF_ITS_OWN_ACCORD
        return _message(blocks) if is_over and blocks is not None else None

    def _ended(self) -> str:
        """The response's status; where it has used up its tokens llama.cpp says `completed` all the same."""
        shown, asking = self._shown, self._asking
        limit = asking.limit_tokens if isinstance(asking, ResponseAsking) else None
        if limit is not None and shown.usage is not None and shown.usage.answer >= limit:
            return "incomplete"
        return shown.ended_as

    def _told(self, answered: Answered | None) -> Judgement | None:
        if answered is None:
            return NOT_JUDGED if self._asking.is_special else None
        return self._contract.of(self._asking, answered)


def of_completions(contract: Contract | None, asked: CallBody, body: bytes) -> Judgement | None:
    """Of a whole answer of completions: whether it is empty.

    With `stop`, `echo` and `suffix` an empty text may be the answer, as may be one of a batch's.
    """
    if contract is None or b'"text":""' not in body:
        return None
    if any(is_set(asked.fields.get(name)) for name in ("stop", "suffix")) or asked.fields.get("echo") == _TRUE:
        return None
    choices = _COMPLETION.decode(body).choices
    found = [contract.of_plain(Answered(choice.text, (), choice.finish_reason)) for choice in choices]
    return found[0] if found and all(found) else None


def _is_beyond_doubt(output: msgspec.Raw, *, is_response: bool) -> bool:
    """Whether it has a text, which neither begins nor ends as markup may."""
    raw = bytes(output)
    opening = _OUTPUT_TEXT if is_response else _TEXT
    start = raw.rfind(opening) if is_response else raw.find(opening)
    return start >= 0 and raw[start + len(opening)] not in _DOUBTFUL and _TEXTS_END not in raw


_TRUE, _NO_ITEMS = msgspec.Raw(b"true"), msgspec.Raw(b"[]")
_OUTPUT_TEXT = b'"type":"output_text","text":"'  # as `backends.items` writes it
_TEXT = b'"text":"'  # engines write it tightly (captured); what is spaced costs a call of this API a full reading
_DOUBTFUL = OPENINGS | frozenset(b'"')
_TEXTS_END = TEXTS_END + b'"'


class _Choice(msgspec.Struct, gc=False):
    text: str | None = None
    finish_reason: str | None = None


class _Completion(msgspec.Struct, gc=False):
    choices: list[_Choice] = []


_COMPLETION = msgspec.json.Decoder(_Completion)


# -- what was said, in the terms of a judgement ------------------------------------------------------


class _Part(msgspec.Struct, gc=False):
    type: str = ""
    text: str = ""


class _Item(msgspec.Struct, gc=False):
    type: str = ""
    name: str = ""
    arguments: str = ""
    content: list[_Part] | None = None


class _Block(msgspec.Struct, gc=False):
    type: str = ""
    text: str = ""
    name: str = ""
    input: msgspec.Raw = msgspec.Raw(b"")


_ITEMS, _BLOCKS = msgspec.json.Decoder(list[_Item]), msgspec.json.Decoder(list[_Block])
_THOUGHTS = frozenset({"reasoning", "thinking", "redacted_thinking"})
_OF_ITS_OWN_ACCORD = frozenset({"end_turn", "tool_use", "stop_sequence"})


def _response(output: msgspec.Raw, status: str) -> Answered | None:
    """None where it isn't over, was cut off, or has a form that nobody knows. Of several messages the last is the answer."""
    if status != "completed":
        return None
    try:
        items = _ITEMS.decode(output)
    except MALFORMED:
        return None
    text, calls, says_more = "", [], False
    for item in items:
        if item.type == "function_call":
            calls.append(ToolCall(item.name, item.arguments))
        elif item.type == "custom_tool_call":
            calls.append(ToolCall(item.name, None))
        elif item.type == "message":
            parts = item.content or []
            text = "".join([part.text for part in parts if part.type == "output_text"]) or text
            says_more = says_more or any(part.type != "output_text" for part in parts)
        else:
            says_more = says_more or item.type not in _THOUGHTS
    return Answered(text, calls, says_more=says_more)


def _blocks(content: msgspec.Raw) -> list[_Block] | None:
    """None where they have a form that nobody knows."""
    try:
        return _BLOCKS.decode(content)
    except MALFORMED:
        return None


def _message(blocks: list[_Block]) -> Answered:
    calls = [ToolCall(block.name, str(block.input, "utf-8")) for block in blocks if block.type == "tool_use"]
    text = "".join([block.text for block in blocks if block.type == "text"])
    says_more = any(block.type not in _THOUGHTS | {"text", "tool_use"} for block in blocks)
    return Answered(text, calls, says_more=says_more)


# -- streams of calls that have tools, or want a format ----------------------------------------------


class _Begun(msgspec.Struct, gc=False):
    type: str = ""


class _Piece(msgspec.Struct, gc=False):
    text: str | None = None
    partial_json: str | None = None


class _Event(msgspec.Struct, gc=False):
    type: str = ""
    item: _Begun | None = None
    index: int = 0
    content_block: _Block | None = None
    delta: msgspec.Raw = msgspec.Raw(b"")


_EVENT, _PIECE = msgspec.json.Decoder(_Event), msgspec.json.Decoder(_Piece)


class TypedWatch:
    """Says whether a stream is held back to its end: one that begins with a tool call, or must be JSON where that is waited for."""

    __slots__ = ("_has_begun", "_holds_all", "_holds_calls", "is_held")

    def __init__(self, *, holds_all: bool, holds_calls: bool):
        self._holds_all = holds_all
        self._holds_calls = holds_calls
        self._has_begun = False
        self.is_held = False

    def see(self, event: Event, *, has_content: bool) -> None:
        """Take note of an event that has been taken for one."""
        if has_content and not self._has_begun:
            self._has_begun = True
            self.is_held = self._holds_all or (self._holds_calls and _is_call(event))


class MessageWatch(TypedWatch):
    """Also puts the message's blocks together again, which its last event does not say."""

    __slots__ = ("_blocks", "_is_beyond_us", "_kept_bytes", "_pieces")

    def __init__(self, *, holds_all: bool, holds_calls: bool):
        super().__init__(holds_all=holds_all, holds_calls=holds_calls)
        self._blocks: dict[int, _Block] = {}
        self._pieces: dict[int, list[str]] = {}
        self._kept_bytes = 0
        self._is_beyond_us = False  # too long, or of a form that nobody knows

    def see(self, event: Event, *, has_content: bool) -> None:
        super().see(event, has_content=has_content)
        if self._is_beyond_us:
            return
        try:
            self._add(_EVENT.decode(event.data))
        except (*MALFORMED, KeyError):
            self._is_beyond_us = True

    def blocks(self) -> list[_Block] | None:
        """As a whole answer has them; None where they can't be judged."""
        if self._is_beyond_us:
            return None
        for index, pieces in self._pieces.items():
            block, said = self._blocks[index], "".join(pieces)
            if block.type == "text":
                block.text += said
            elif said:  # a call without arguments may come without a piece of them
                block.input = msgspec.Raw(said.encode())
        self._pieces.clear()
        return list(self._blocks.values())

    def _add(self, said: _Event) -> None:
        if said.content_block is not None:
            self._blocks[said.index], self._pieces[said.index] = said.content_block, []
        elif said.type == "content_block_delta":
            piece = _PIECE.decode(said.delta)
            kept = piece.text or piece.partial_json or ""
            self._pieces[said.index].append(kept)
            self._kept_bytes += len(kept)
            self._is_beyond_us = self._kept_bytes > MAX_INSTANCE_BYTES


def _is_call(event: Event) -> bool:
    """Whether what this event says is (a piece of) a call of a tool."""
    try:
        said = _EVENT.decode(event.data)
    except MALFORMED:
        return False
    if said.type.startswith("response.function_call_arguments."):
        return True
    begun = said.item or said.content_block
    return begun is not None and begun.type in _CALLS


_CALLS = frozenset({"function_call", "tool_use"})
