"""Answers of the APIs beside chat (responses, messages, tokenize), whole: checked to be one, and in the one form that clients get.

Each kind of object has one set of keys in one order, whatever engine wrote it: what an engine leaves out stands there with the API's
own default, what it adds (vLLM's `kv_transfer_params`, llama.cpp's `timings`) is dropped. The values of long fields (`output`,
`content`, `tokens`) are passed on as they were written, and never parsed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

import msgspec

from backends.errors import Failed, ProtocolBroken, RouteMissing
from backends.faults import MALFORMED, fault_of_error
from backends.items import shown_items
from backends.usage import Usage

Fields = dict[str, msgspec.Raw]

_OBJECT = msgspec.json.Decoder(Fields)
_STRING = msgspec.json.Decoder(str)
_CREATED = re.compile(rb"\d{1,15}")  # some say it with fractions of a second
_NULL = msgspec.Raw(b"null")
_NO_ITEMS = msgspec.Raw(b"[]")


class Shown(msgspec.Struct, gc=False):
    """What a client sees where a backend writes something of its own; one for each attempt.

    `mark` makes of a response's id the one that leads back to its owner; `previous_id` is the one that the client itself sent.
    `made_id` is for answers that nobody can ask for again. `created_s` is in seconds since 1970, for engines that don't say it.
    `said`: the model that the backend has named, `usage`: the tokens that it has counted; None before it has. `output` is what was answered
    (a response's items, a message's blocks) as far as it has come in one piece, `ended_as` its `status` or `stop_reason`;
    `says_more_than_thoughts`: the stream of a message has begun a block of another kind.
    """

    model: str
    mark: Callable[[str], str]
    made_id: str
    created_s: int
    previous_id: str | None = None
    said: str | None = None
    usage: Usage | None = None
    output: msgspec.Raw = _NO_ITEMS
    ended_as: str = ""
    says_more_than_thoughts: bool = False


def is_there(value: msgspec.Raw | None) -> bool:
    """Whether a field has a value other than null."""
    return value is not None and bool(value) and bytes(value) != b"null"


def text_of(value: msgspec.Raw | None) -> str:
    """The string that a field holds; "" where it holds none."""
    if value is None or bytes(memoryview(value)[:1]) != b'"':
        return ""
    try:
        return _STRING.decode(value)
    except MALFORMED:
        return ""


def fields_of(value: msgspec.Raw | bytes) -> Fields:
    """The top level of an object. Raises ProtocolBroken where it is none."""
    try:
        return _OBJECT.decode(value)
    except MALFORMED as exc:
        raise ProtocolBroken(f"what should be an object is none: {exc}") from exc


def read_whole(form: str, body: bytes, shown: Shown) -> bytes:
    """A whole answer of this form (a key of `FORMS`) in the client's terms. Raises BackendError where it is none."""
    try:
        if not body.isascii():
            str(body, "utf-8")  # slices are passed on undecoded
        fields = _OBJECT.decode(body)
    except MALFORMED as exc:
        raise ProtocolBroken(f"the answer is not the JSON of a {form} answer: {exc}") from exc
    if is_there(fields.get("error")) and not (form == "held response" and "output" in fields):
        raise fault_of_error(body)
    return msgspec.json.encode(FORMS[form](fields, shown))


# -- responses ---------------------------------------------------------------------------------------

# OpenAI's own answers have these, in this order (its API reference's examples); with each, what stands for "not said". `completed_at`
# is not among them: llama.cpp says it of whole answers, and vLLM never.
_RESPONSE: Mapping[str, msgspec.Raw] = MappingProxyType(
    {
        name: msgspec.Raw(default)
        for name, default in {
            "id": b'""',
            "object": b'"response"',
            "created_at": b"0",
            "status": b'"completed"',
            "background": b"false",
            "error": b"null",
            "incomplete_details": b"null",
            "instructions": b"null",
            "max_output_tokens": b"null",
            "max_tool_calls": b"null",
            "model": b'""',
            "output": b"[]",
            "parallel_tool_calls": b"true",
            "previous_response_id": b"null",
            "prompt_cache_key": b"null",
            "reasoning": b"null",
            "safety_identifier": b"null",
            "service_tier": b'"auto"',
            "store": b"true",
            "temperature": b"null",
            "text": b"null",
            "tool_choice": b'"auto"',
            "tools": b"[]",
            "top_logprobs": b"null",
            "top_p": b"null",
            "truncation": b'"disabled"',
            "usage": b"null",
            "user": b"null",
            "metadata": b"null",
        }.items()
    }
)
# How a response may stand that has not failed; vLLM calls one `cancelled` whose work the engine gave up.
_ALIVE = frozenset({"completed", "incomplete", "in_progress", "queued"})


class _CachedTokens(msgspec.Struct):
    cached_tokens: int = 0


class _ReasoningTokens(msgspec.Struct):
    reasoning_tokens: int = 0


class _ResponseUsage(msgspec.Struct):
    input_tokens: int = 0
    input_tokens_details: _CachedTokens | None = None
    output_tokens: int = 0
    output_tokens_details: _ReasoningTokens | None = None
    total_tokens: int = 0

    def __post_init__(self) -> None:
        """An engine that details nothing has cached nothing, and not reasoned, as far as anybody knows."""
        self.input_tokens_details = self.input_tokens_details or _CachedTokens()
        self.output_tokens_details = self.output_tokens_details or _ReasoningTokens()

    def counted(self) -> Usage:
        """The same in the words that hold for every API."""
        cached = self.input_tokens_details.cached_tokens if self.input_tokens_details else 0
        reasoning = self.output_tokens_details.reasoning_tokens if self.output_tokens_details else 0
        return Usage(self.input_tokens, self.output_tokens, cached, reasoning, self.total_tokens)


_RESPONSE_USAGE = msgspec.json.Decoder(_ResponseUsage)


def shown_response(fields: Fields, shown: Shown) -> Fields:
    """A response object, whole or as an event of its stream carries it."""
    said = text_of(fields.get("model"))
    if said:
        shown.said = said
    shows = {name: value if (value := fields.get(name)) is not None else default for name, default in _RESPONSE.items()}
    given_id = text_of(fields.get("id"))
    if given_id:
        shows["id"] = _json(shown.mark(given_id))
    created = _CREATED.match(bytes(shows["created_at"]))
    if "created_at" in fields and created is not None:
        shown.created_s = int(created[0])  # said once, it holds for the whole stream
    shows["created_at"] = _json(shown.created_s)
    shows["model"] = _json(shown.model)
    previous = text_of(fields.get("previous_response_id"))
    shows["previous_response_id"] = _json(shown.previous_id or (shown.mark(previous) if previous else None))
    shown.output = shows["output"] = _shown_output(shows["output"])
    shown.ended_as = text_of(shows["status"])
    shows["usage"] = _recounted(_RESPONSE_USAGE, fields.get("usage"), shown)
    return shows


def _shown_output(output: msgspec.Raw) -> msgspec.Raw:
    try:
        return shown_items(output)
    except MALFORMED as exc:
        raise ProtocolBroken(f"the answer's output is no list of items: {exc}") from exc


def _made_response(fields: Fields, shown: Shown) -> Fields:
    """One that has just been made: where it has failed, another backend may do better."""
    _check_response(fields)
    status = text_of(fields.get("status"))
    if status not in _ALIVE:
        raise Failed(f"the engine ended the response as {status if status in ('failed', 'cancelled') else 'unknown'}")
    return shown_response(fields, shown)


def _held_response(fields: Fields, shown: Shown) -> Fields:
    """One that is asked for again: how it ended is the answer."""
    _check_response(fields)
    return shown_response(fields, shown)


def _check_response(fields: Fields) -> None:
    if not _opens_with(fields.get("output"), b"[") or not text_of(fields.get("status")):
        raise ProtocolBroken("the answer is no response")


def _deleted_response(fields: Fields, shown: Shown) -> Fields:
    if "deleted" not in fields:
        raise ProtocolBroken("the answer does not say that the response is deleted")
    given_id = text_of(fields.get("id"))
    return {
        "id": _json(shown.mark(given_id)),
        "object": msgspec.Raw(b'"response.deleted"'),
        "deleted": fields["deleted"],
    }


def _items(fields: Fields, _shown: Shown) -> Fields:
    if not _opens_with(fields.get("data"), b"["):
        raise ProtocolBroken("the answer is no list of items")
    names = ("object", "data", "first_id", "last_id", "has_more")
    return {name: fields[name] for name in names if name in fields}


# -- messages ----------------------------------------------------------------------------------------


class MessageUsage(msgspec.Struct):
    """What a message cost; engines that cache no prompt say nothing of it, which is 0."""

    input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int = 0

    def counted(self) -> Usage:
        """The same in the words that hold for every API: here what came from a cache is no part of `input_tokens`."""
        prompt = self.input_tokens + self.cache_creation_input_tokens + self.cache_read_input_tokens
        return Usage(prompt, self.output_tokens, self.cache_read_input_tokens, 0, prompt + self.output_tokens)


_MESSAGE_USAGE = msgspec.json.Decoder(MessageUsage)


BY_SEQUENCE = "stop_sequence"  # the reason beside a sequence that was met; llama.cpp calls it `end_turn`


def shown_message(fields: Fields, shown: Shown) -> Fields:
    """A message object, whole or as the first event of its stream carries it."""
    said = text_of(fields.get("model"))
    if said:
        shown.said = said
    sequence = fields.get("stop_sequence", _NULL)
    shown.output = fields.get("content", _NO_ITEMS)
    shown.ended_as = text_of(fields.get("stop_reason"))
    return {
        "id": _json(shown.made_id),
        "type": msgspec.Raw(b'"message"'),
        "role": msgspec.Raw(b'"assistant"'),
        "model": _json(shown.model),
        "content": shown.output,
        "stop_reason": _json(BY_SEQUENCE) if is_there(sequence) else fields.get("stop_reason", _NULL),
        "stop_sequence": sequence,
        "usage": _recounted(_MESSAGE_USAGE, fields.get("usage"), shown),
    }


def _whole_message(fields: Fields, shown: Shown) -> Fields:
    if text_of(fields.get("type")) != "message" or not _opens_with(fields.get("content"), b"["):
        raise ProtocolBroken("the answer is no message")
    if not is_there(fields.get("stop_reason")):  # vLLM's form of `abort` here
        raise Failed("the engine aborted the answer")
    return shown_message(fields, shown)


def _count(fields: Fields, _shown: Shown) -> Fields:
    if not _is_number(fields.get("input_tokens")):
        raise ProtocolBroken("the answer counts no tokens")
    return {"input_tokens": fields["input_tokens"]}


# -- tokenize ----------------------------------------------------------------------------------------


def _tokens(fields: Fields, _shown: Shown) -> Fields:
    """vLLM's shape. llama.cpp has another tokenize at the same path, which does not count, and takes its text by another name."""
    if not _opens_with(fields.get("tokens"), b"[") or not _is_number(fields.get("count")):
        raise RouteMissing("the answer is not that of vLLM's tokenize")
    shows = {name: fields.get(name, _NULL) for name in ("count", "max_model_len", "tokens", "token_strs")}
    return {name: value for name, value in shows.items() if name != "max_model_len" or is_there(value)}


FORMS: Mapping[str, Callable[[Fields, Shown], Fields]] = MappingProxyType(
    {
        "responses": _made_response,
        "held response": _held_response,
        "deleted response": _deleted_response,
        "input items": _items,
        "messages": _whole_message,
        "count_tokens": _count,
        "tokenize": _tokens,
    }
)


def _json(value: str | int | None) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _opens_with(value: msgspec.Raw | None, byte: bytes) -> bool:
    return value is not None and bytes(memoryview(value)[:1]) == byte


def _is_number(value: msgspec.Raw | None) -> bool:
    return value is not None and bytes(value).isdigit()


def _recounted(
    decoder: msgspec.json.Decoder[_ResponseUsage] | msgspec.json.Decoder[MessageUsage],
    value: msgspec.Raw | None,
    shown: Shown,
) -> msgspec.Raw:
    """Usage with all of its numbers and no others; null where there is none: no answer is lost for its count."""
    if value is None or not is_there(value):
        return _NULL
    try:
        usage = decoder.decode(value)
    except MALFORMED:
        return _NULL
    shown.usage = usage.counted()
    return msgspec.Raw(msgspec.json.encode(usage))
