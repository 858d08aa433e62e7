"""Log probabilities in OpenAI's form; engines add tokens' numbers, and llama-server tells those of completions as it does a chat's."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from backends.answers import has_value
from backends.errors import ProtocolBroken
from backends.faults import MALFORMED


class _Token(msgspec.Struct, gc=False):
    token: str
    logprob: float | None
    bytes: list[int] | None = None


class _Place(msgspec.Struct, gc=False):
    token: str
    logprob: float | None
    bytes: list[int] | None = None
    top_logprobs: list[_Token] = []


class _Chat(msgspec.Struct, gc=False):
    content: list[_Place] | None = None
    refusal: list[_Place] | UnsetType | None = UNSET


class _Completions(msgspec.Struct, gc=False):
    tokens: msgspec.Raw | UnsetType = UNSET
    token_logprobs: msgspec.Raw | UnsetType = UNSET
    top_logprobs: msgspec.Raw | UnsetType = UNSET
    text_offset: msgspec.Raw | UnsetType = UNSET


class _Either(_Completions, gc=False):
    content: list[_Place] | None = None


_CHAT = msgspec.json.Decoder(_Chat)
_EITHER = msgspec.json.Decoder(_Either)


def chat_logprobs(raw: msgspec.Raw) -> msgspec.Raw | None:
    """Those of a chat, None where there are none. Raises ProtocolBroken where they are of another form."""
    if not has_value(raw):
        return None
    try:
        said = _CHAT.decode(raw)
        return msgspec.Raw(msgspec.json.encode(said)) if said.content or said.refusal else None
    except MALFORMED as exc:
        raise ProtocolBroken(f"the answer's logprobs are not a chat's: {exc}") from exc


def completions_logprobs(raw: msgspec.Raw) -> msgspec.Raw | None:
    """Those of a completion, None where there are none. Raises ProtocolBroken where they are of another form."""
    if not has_value(raw):
        return None
    try:
        said = _EITHER.decode(raw)
    except MALFORMED as exc:
        raise ProtocolBroken(f"the answer's logprobs are not a completion's: {exc}") from exc
    if said.content is not None:
        return _from_chat(said.content)
    return msgspec.Raw(
        msgspec.json.encode(_Completions(said.tokens, said.token_logprobs, said.top_logprobs, said.text_offset))
    )


def _from_chat(places: list[_Place]) -> msgspec.Raw:
    offsets, at = [], 0
    for place in places:
        offsets.append(at)
        at += len(place.token)
    form = {
        "tokens": [place.token for place in places],
        "token_logprobs": [place.logprob for place in places],
        "top_logprobs": [{top.token: top.logprob for top in place.top_logprobs} for place in places],
        "text_offset": offsets,
    }
    return msgspec.Raw(msgspec.json.encode(form))
