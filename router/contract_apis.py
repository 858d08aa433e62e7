"""Contracts in the APIs beside chat: what a response, a message or a completion has said, in the terms that answers are judged in.

A response's last event carries all of it, and so is judged as a whole answer is. A message's events are put together again, for the
calls that have tools; of all others a stream tells no more than whether anything was said but thoughts.

A plain call pays for one search in the bytes of what was answered.
"""

from __future__ import annotations

import msgspec

from backends.apis import Shown
from backends.faults import MALFORMED
from policies.contract import NOT_JUDGED, Answered, Judgement, ToolCall
from router.contract_asked import Asking, is_set
from router.contract_asked_apis import ResponseAsking
from router.contracts import OPENINGS, TEXTS_END, Contract
from router.reading import CallBody


class TypedContract:
    """One attempt's answer, of a response or a message, held to its model's contract; `shown` fills while it comes."""

    __slots__ = ("_asking", "_contract", "_shown")

    def __init__(self, contract: Contract, asking: Asking, shown: Shown):
        self._contract = contract
        self._asking = asking
        self._shown = shown

    def of_whole(self) -> Judgement | None:
        """Of a whole answer; None where there is nothing to say of a plain one."""
        is_response = isinstance(self._asking, ResponseAsking)
        if not self._asking.is_special and _is_beyond_doubt(self._shown.output, is_response=is_response):
            return None
        if not is_response:
            return self._told(_message(self._shown.output, self._shown.ended_as))
        return self._told(_response(self._shown.output, self._ended()))

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


_TRUE = msgspec.Raw(b"true")
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


def _message(content: msgspec.Raw, stop_reason: str) -> Answered | None:
    """None where it was cut off, refused, or has a form that nobody knows."""
    if stop_reason not in _OF_ITS_OWN_ACCORD:
        return None
    try:
        blocks = _BLOCKS.decode(content)
    except MALFORMED:
        return None
    calls = [ToolCall(block.name, str(block.input, "utf-8")) for block in blocks if block.type == "tool_use"]
    text = "".join([block.text for block in blocks if block.type == "text"])
    says_more = any(block.type not in _THOUGHTS | {"text", "tool_use"} for block in blocks)
    return Answered(text, calls, says_more=says_more)
