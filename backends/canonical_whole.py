"""Whole answers in the one form that clients get: slices of the engine's bytes in a frame of ours, nothing long of it parsed."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from backends.answers import Whole, WholeChoice, has_value
from backends.canonical_forms import Answer, CallForm, call_form, reason_of
from backends.errors import ProtocolBroken
from backends.logprobs import chat_logprobs, completions_logprobs

_NULL = msgspec.Raw(b"null")
_NO_TEXT = msgspec.Raw(b'""')
_OPENINGS = frozenset(b'"[n')  # of a text, a list of parts, null


class _Message(msgspec.Struct, gc=False):
    role: str = "assistant"
    content: msgspec.Raw = _NULL
    reasoning: msgspec.Raw | UnsetType = UNSET
    refusal: msgspec.Raw | UnsetType = UNSET
    annotations: msgspec.Raw | UnsetType = UNSET
    audio: msgspec.Raw | UnsetType = UNSET
    tool_calls: list[CallForm] | UnsetType = UNSET
    function_call: msgspec.Raw | UnsetType = UNSET


class _ChatChoice(msgspec.Struct, gc=False):
    index: int
    message: _Message
    logprobs: msgspec.Raw
    finish_reason: str


class _TextChoice(msgspec.Struct, gc=False):
    index: int
    text: msgspec.Raw
    logprobs: msgspec.Raw
    finish_reason: str


class _Vector(msgspec.Struct, gc=False):
    object: str
    index: int
    embedding: msgspec.Raw


def whole_form(kind: str, whole: Whole, answer: Answer, shown: str) -> bytes:
    """The body for the client; `shown` is the model's name for it. Raises ProtocolBroken where there is no text where one must be."""
    usage, name = answer.usage, msgspec.json.encode(shown)
    if kind == "embeddings":
        vectors = [
            _Vector("embedding", place if vector.index is None else vector.index, vector.embedding)
            for place, vector in enumerate(whole.data or ())
        ]
        counted = (
            b"" if usage is None else b',"usage":{"prompt_tokens":%d,"total_tokens":%d}' % (usage.prompt, usage.total)
        )
        return b'{"object":"list","data":%b,"model":%b%b}' % (msgspec.json.encode(vectors), name, counted)
    if kind == "chat":
        said = b"chat.completion"
        choices = msgspec.json.encode([_chat_choice(choice, answer) for choice in whole.choices or ()])
    else:
        said = b"text_completion"
        choices = msgspec.json.encode([_text_choice(choice) for choice in whole.choices or ()])
    counted = b"" if usage is None else b',"usage":%b' % usage.as_json()
    opening = b'{"id":"%b","object":"%b","created":%d' % (answer.id.encode(), said, answer.created)
    return b'%b,"model":%b,"choices":%b%b}' % (opening, name, choices, counted)


def _chat_choice(choice: WholeChoice, answer: Answer) -> _ChatChoice:
    said = choice.message
    if said is None:
        raise ProtocolBroken("a choice of the answer has no message")
    message = _Message(content=_text(said.content))
    if has_value(reasoning := said.reasoning) or has_value(reasoning := said.reasoning_content):
        message.reasoning = reasoning
    for name in ("refusal", "annotations", "audio", "function_call"):
        if has_value(value := getattr(said, name)):
            setattr(message, name, value)
    if said.tool_calls:
        calls = said.tool_calls[:1] if answer.one_tool_only else said.tool_calls
        message.tool_calls = [
            call_form(call, answer.call_id(call.id, choice.index, place)) for place, call in enumerate(calls)
        ]
        if not has_value(message.content):
            message.content = _NULL
    reason = reason_of(
        choice.finish_reason, has_calls=bool(said.tool_calls), has_function=message.function_call is not UNSET
    )
    return _ChatChoice(choice.index, message, chat_logprobs(choice.logprobs) or _NULL, reason)


def _text_choice(choice: WholeChoice) -> _TextChoice:
    logprobs = completions_logprobs(choice.logprobs) or _NULL
    return _TextChoice(choice.index, _text(choice.text or _NO_TEXT), logprobs, reason_of(choice.finish_reason))


def _text(raw: msgspec.Raw) -> msgspec.Raw:
    """A field that holds text; null where it is missing."""
    if not raw:
        return _NULL
    if memoryview(raw)[0] not in _OPENINGS:
        raise ProtocolBroken("what should be the answer's text is none")
    return raw
