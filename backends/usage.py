"""The tokens that an answer took, in one form: engines leave details out, say null, or add their own."""

from __future__ import annotations

import msgspec

from backends.faults import MALFORMED


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens. `cached` of the prompt's came from a cache, `reasoning` of the answer's are reasoning; 0 where the engine does not say."""

    prompt: int = 0
    answer: int = 0
    cached: int = 0
    reasoning: int = 0
    total: int = 0

    def as_json(self) -> bytes:
        """As OpenAI's API writes it."""
        return (
            b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,'
            b'"prompt_tokens_details":{"cached_tokens":%d},"completion_tokens_details":{"reasoning_tokens":%d}}'
            % (self.prompt, self.answer, self.total, self.cached, self.reasoning)
        )


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _AnswerDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class _Told(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _AnswerDetails | None = None


_TOLD = msgspec.json.Decoder(_Told | None)


def read_usage(raw: msgspec.Raw) -> Usage | None:
    """What an answer's `usage` says; None where it says nothing, or nothing that can be read: no answer is lost for its count."""
    if not raw:
        return None
    try:
        told: _Told | None = _TOLD.decode(raw)
    except MALFORMED:
        return None
    if told is None or (told.prompt_tokens is None and told.completion_tokens is None):
        return None
    prompt, answer = told.prompt_tokens or 0, told.completion_tokens or 0
    cached = told.prompt_tokens_details.cached_tokens if told.prompt_tokens_details else None
    reasoning = told.completion_tokens_details.reasoning_tokens if told.completion_tokens_details else None
    total = prompt + answer if told.total_tokens is None else told.total_tokens
    return Usage(prompt, answer, cached or 0, reasoning or 0, total)
