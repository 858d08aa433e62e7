"""Whole answers in the one form that clients get: slices of the engine's bytes in a frame of ours, nothing long of it parsed."""

from __future__ import annotations

import msgspec

from backends.answers import Message, Whole, WholeChoice, has_value
from backends.canonical_forms import Answer, call_form, reason_of
from backends.errors import ProtocolBroken
from backends.logprobs import chat_logprobs, completions_logprobs
from backends.usage import Usage

_NULL = msgspec.Raw(b"null")
_NO_TEXT = msgspec.Raw(b'""')
_OPENINGS = frozenset(b'"[n')  # of a text, a list of parts, null
_Parts = list[bytes | msgspec.Raw]  # joined once, since an answer may be long


def whole_form(kind: str, whole: Whole, answer: Answer, shown: bytes) -> bytes:
    """The body for the client; `shown` is the model's name for it, as JSON. Raises ProtocolBroken where what must be text is none."""
    if kind == "embeddings":
        return _embeddings(whole, answer, shown)
    is_chat = kind == "chat"
    said = b"chat.completion" if is_chat else b"text_completion"
    parts: _Parts = [
        b'{"id":"%b","object":"%b","created":%d,"model":%b,"choices":['
        % (answer.id.encode(), said, answer.created, shown)
    ]
    for place, choice in enumerate(whole.choices or ()):
        parts.append(b'%b{"index":%d,' % (b"," if place else b"", choice.index))
        if is_chat:
            _put_chat(choice, answer, parts)
        else:
            _put_text(choice, parts)
    parts.append(b"]}" if answer.usage is None else b'],"usage":%b}' % answer.usage.as_json())
    return b"".join(parts)


def plain_form(plain: tuple[bytes, ...], answer: Answer, shown: bytes) -> bytes:
    """The body for the client of an answer that `WholeShape` has read."""
    text, thought, reason, prompt, completion, total, cached, reasoning = plain
    usage = answer.usage = Usage(int(prompt), int(completion), int(cached or 0), int(reasoning or 0), int(total))
    return (
        b'{"id":"%b","object":"chat.completion","created":%d,"model":%b,"choices":[{"index":0,"message":{"role":"assistant","content":"%b"'
        b'%b},"logprobs":null,"finish_reason":"%b"}],"usage":%b}'
        % (
            answer.id.encode(),
            answer.created,
            shown,
            text,
            b',"reasoning":"%b"' % thought if thought else b"",
            reason,
            usage.as_json(),
        )
    )


def _put_chat(choice: WholeChoice, answer: Answer, parts: _Parts) -> None:
    said = choice.message
    if said is None:
        raise ProtocolBroken("a choice of the answer has no message")
    content = _text(said.content)
    parts.append(b'"message":{"role":"assistant","content":')
    parts.append(content if not said.tool_calls or has_value(content) else _NULL)
    if has_value(reasoning := said.reasoning) or has_value(reasoning := said.reasoning_content):
        parts += b',"reasoning":', reasoning
    has_function = _put_rest(said, parts)
    if said.tool_calls:
        calls = said.tool_calls[:1] if answer.one_tool_only else said.tool_calls
        forms = [call_form(call, answer.call_id(call.id, choice.index, place)) for place, call in enumerate(calls)]
        parts.append(b',"tool_calls":%b' % msgspec.json.encode(forms))
    reason = reason_of(choice.finish_reason, has_calls=bool(said.tool_calls), has_function=has_function)
    logprobs = chat_logprobs(choice.logprobs) or _NULL
    parts += b'},"logprobs":', logprobs, b',"finish_reason":"%b"}' % reason.encode()


def _put_rest(said: Message, parts: _Parts) -> bool:
    """What few messages have; whether they call a function in the form before tools."""
    for name, value in (
        (b"refusal", said.refusal),
        (b"annotations", said.annotations),
        (b"audio", said.audio),
        (b"function_call", said.function_call),
    ):
        if has_value(value):
            parts += b',"%b":' % name, value
    return has_value(said.function_call)


def _put_text(choice: WholeChoice, parts: _Parts) -> None:
    logprobs = completions_logprobs(choice.logprobs) or _NULL
    reason = reason_of(choice.finish_reason)
    parts += b'"text":', _text(choice.text or _NO_TEXT), b',"logprobs":', logprobs
    parts.append(b',"finish_reason":"%b"}' % reason.encode())


def _text(raw: msgspec.Raw) -> msgspec.Raw:
    """A field that holds text; null where it is missing."""
    if not raw:
        return _NULL
    if memoryview(raw)[0] not in _OPENINGS:
        raise ProtocolBroken("what should be the answer's text is none")
    return raw


def _embeddings(whole: Whole, answer: Answer, shown: bytes) -> bytes:
    parts: _Parts = []
    for place, vector in enumerate(whole.data or ()):
        index = place if vector.index is None else vector.index
        opening = b'{"object":"list","data":[' if not place else b"},"
        parts += b'%b{"object":"embedding","index":%d,"embedding":' % (opening, index), vector.embedding
    usage = answer.usage
    counted = b"" if usage is None else b',"usage":{"prompt_tokens":%d,"total_tokens":%d}' % (usage.prompt, usage.total)
    parts.append(b'}],"model":%b%b}' % (shown, counted))
    return b"".join(parts)
