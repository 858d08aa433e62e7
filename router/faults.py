"""What a client is told when a call fails: OpenAI's error envelope, the right status, and headers that keep SDKs from making it worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from backends.errors import (
    AnswerTimeout,
    BackendError,
    DeadlinePassed,
    FirstTokenTimeout,
    KeyRefused,
    NotAccepted,
    NotServed,
    Overflow,
    Refused,
    Rejected,
)
from backends.faults import context_limit_tokens, error_text
from policies.choose import Choice
from policies.facts import MEDIA, CallFacts, Need
from router.reading import BadCall

MAX_RETRY_AFTER_S = 59  # more is ignored, and its client back sooner: above 60 by openai-node, from 60 by the AI SDK
OUT_OF_MEMORY_S = 5.0  # a large body is read and sent on in less
DEFAULT_RETRY_AFTER_S = 5  # the shortest ejection: before that nothing can have changed


@dataclass(frozen=True, slots=True)
class Fault:
    """An answer that is an error. `retry_after_s` says when to come back, None where waiting does not help."""

    status: int
    message: str
    type: str
    code: str | None = None
    param: str | None = None
    retry_after_s: float | None = None
    may_retry: bool = True
    headers: tuple[tuple[bytes, bytes], ...] = field(default=())
    is_ours: bool = True  # False: `code` is a backend's word, of which there may be any number

    @property
    def result(self) -> str:
        """How the call ended, as a metric's label."""
        return self.code if self.is_ours and self.code else "rejected"

    def body(self) -> bytes:
        """OpenAI's envelope."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})

    def all_headers(self) -> list[tuple[bytes, bytes]]:
        """Content type, and what tells a client whether and when to come back."""
        lines = [(b"content-type", b"application/json"), *self.headers]
        if self.retry_after_s is not None:
            wait_s = max(1, min(MAX_RETRY_AFTER_S, round(self.retry_after_s)))
            lines.append((b"retry-after", str(wait_s).encode()))
        if not self.may_retry:
            lines.append((b"x-should-retry", b"false"))
        return lines


class CallFailed(Exception):
    """Raised where a call ends with an error before anything was sent to the client; the edge renders `fault`."""

    def __init__(self, fault: Fault):
        super().__init__(fault.message)
        self.fault = fault


def bad_call(error: BadCall) -> Fault:
    """400 for a body that the router itself cannot accept."""
    return Fault(400, str(error), "invalid_request_error", error.code, error.param)


def crashed() -> Fault:
    """500 where the router itself has stumbled; the log says over what."""
    return Fault(500, "The router failed to handle this call.", "server_error", "internal_error", may_retry=False)


def stopping() -> Fault:
    """503 where the router is stopped and the time to finish is over."""
    return Fault(503, "The server is stopping.", "server_error", "stopping", None, 1)


def unsupported(message: str) -> Fault:
    """415 for a body in a form that is not read."""
    return Fault(415, message, "invalid_request_error", "unsupported_media_type")


def unknown_model(name: str) -> Fault:
    """404 as OpenAI words it. The names of other models are not given away."""
    shown = name if len(name) <= 100 else f"{name[:100]}…"
    message = f"The model `{shown}` does not exist or you do not have access to it."
    return Fault(404, message, "invalid_request_error", "model_not_found", "model")


def no_backend(model: str) -> Fault:
    """503 where no backend of the model can take this kind of call."""
    message = f"No backend of the model `{model}` can answer this kind of call."
    return Fault(503, message, "server_error", "no_backend", None, DEFAULT_RETRY_AFTER_S, may_retry=False)


_ASKED = {
    Need.MANY_CHOICES: "so many choices (`n`)",
    Need.BEST_OF: "the best of several answers (`best_of`)",
    Need.ECHO: "its prompt in the answer (`echo`)",
    Need.SUFFIX: "a text that ends with its `suffix`",
    Need.FUNCTIONS: "`functions` (send `tools`)",
    Need.LOGPROBS: "`logprobs`",
    Need.IMAGES: "images",
    Need.AUDIO: "audio",
    Need.VIDEO: "video",
    Need.FILES: "files",
    Need.TOOLS: "tools",
    Need.CUSTOM_TOOLS: "`tools` of another type than `function`",
}

_FIELDS = {Need.CUSTOM_TOOLS: "tools"}  # of the needs that are not named as the field is


def nobody_can(facts: CallFacts, choice: Choice) -> Fault:
    """Where the choice leaves nobody: what the call asks for that no backend has, or not the one that it names. Waiting does not help."""
    lacking = dict.fromkeys(name for passed in choice.passed_over for name in passed.lacking)
    if not lacking:
        return no_backend(facts.model)
    if facts.api in lacking:
        return no_api(facts)
    return unable(facts, [Need(name) for name in lacking])


def unable(facts: CallFacts, needs: Sequence[Need]) -> Fault:
    """400 for what the call asks for beyond its API and nobody has, or not the one that it names."""
    asked = " and ".join(_ASKED[need] for need in needs)
    message = f"{_who(facts)} cannot do all that this call asks for: {asked}."
    param = _prompt_of(facts.kind) if needs[0] in MEDIA else _FIELDS.get(needs[0], needs[0].value)
    return Fault(400, message, "invalid_request_error", "unsupported", param)


def no_api(facts: CallFacts) -> Fault:
    """404 where no backend of the model has the API that was called: OpenAI's own answer to chat with a model of another kind.

    400 where the call names a backend that has not: another may have it.
    """
    message = f"{_who(facts)} does not offer the API that was called: {facts.api}."
    return Fault(400 if facts.pin else 404, message, "invalid_request_error", "unsupported", "model")


def _who(facts: CallFacts) -> str:
    pin = f" on the backend `{facts.pin}`, which x-crossfade-backend names," if facts.pin else ""
    return f"The model `{facts.model}`{pin}"


def overloaded(wait_s: float) -> Fault:
    """503 where the router's own queue, or its queue for the last backend, is full or too slow; the client may come back."""
    message = "The server is busy; try again shortly."
    return Fault(503, message, "server_error", "overloaded", None, wait_s)


def _prompt_of(kind: str) -> str:
    """The field that holds the prompt of a call of this kind."""
    return _PROMPTS.get(kind, "messages")


_PROMPTS = {"completions": "prompt", "embeddings": "input", "responses": "input"}


def fault_of(error: BackendError, kind: str = "chat") -> Fault:
    """What the client of such a call is told when the ladder ends with `error`; a backend's own words only where the call is at fault."""
    if isinstance(error, Overflow):
        prompt = _prompt_of(kind)
        return Fault(400, _context_words(error, prompt), "invalid_request_error", "context_length_exceeded", prompt)
    if isinstance(error, Rejected):
        return _rejected(error)
    if isinstance(error, Refused) and error.room_in_s is not None:
        return overloaded(error.room_in_s)
    if isinstance(error, Refused):
        wait_s = error.retry_after_s if error.retry_after_s is not None else DEFAULT_RETRY_AFTER_S
        status = 429 if error.status == 429 else 503
        kind = "rate_limit_error" if status == 429 else "server_error"
        return Fault(
            status, "The model is overloaded; try again shortly.", kind, "overloaded", None, wait_s, may_retry=False
        )
    if isinstance(error, (FirstTokenTimeout, AnswerTimeout, DeadlinePassed)):
        return Fault(504, "The model did not answer in time.", "server_error", "timeout", may_retry=False)
    if isinstance(error, KeyRefused):
        return Fault(
            502,
            "The model's backend refused the router's credentials.",
            "server_error",
            "backend_auth",
            may_retry=False,
        )
    if isinstance(error, NotAccepted):
        message = f"No backend gave an answer that could be accepted: {error}."
        return Fault(502, message, "server_error", "answer_not_accepted", may_retry=False)
    if isinstance(error, NotServed):
        return _unavailable("The model is not available at the moment.")
    return _unavailable("The model's backends failed to answer.")


def _rejected(error: Rejected) -> Fault:
    text = error_text(error.body)
    status = error.status if error.status is not None and 400 <= error.status < 500 else 400
    code = text.code if text is not None and isinstance(text.code, str) else None
    message = text.message if text is not None else "the backend rejected the call"
    return Fault(status, message, "invalid_request_error", code, text.param if text else None, is_ours=False)


def _context_words(error: Overflow, prompt: str) -> str:
    """One message, whatever backend says it and how. LangChain.js keys on `maximum context length` in it, as OpenAI words it."""
    tokens = context_limit_tokens(error)
    if tokens is None:
        return f"The prompt exceeds this model's maximum context length. Please reduce the length of the {prompt}."
    return f"This model's maximum context length is {tokens} tokens. Please reduce the length of the {prompt}."


def _unavailable(message: str) -> Fault:
    return Fault(503, message, "server_error", "backend_unavailable", None, DEFAULT_RETRY_AFTER_S, may_retry=False)


def stream_error(error: BackendError | None) -> bytes:
    """The one event that ends a stream which cannot go on: every SDK raises on it, none takes it for an end."""
    message = "The stream broke off before the answer was complete."
    kind = "timeout" if isinstance(error, DeadlinePassed) else "stream_broken"
    body = {"error": {"message": message, "type": "server_error", "param": None, "code": kind}}
    return b"data: %b\n\n" % msgspec.json.encode(body)
