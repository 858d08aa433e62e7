"""What a client asked for, as far as it decides whether and how a broken stream may be resumed; read only once one has broken."""

from __future__ import annotations

import msgspec

from backends.faults import MALFORMED
from policies.resume import Asked
from router.reading import CallBody, value_of

_GRAMMARS = (
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "grammar",
    "json_schema",
)
_BESIDE_TEXT = (
    "logprobs",
    "top_logprobs",
    "prompt_logprobs",
    "echo",
    "suffix",
    "return_token_ids",
    "return_prompt_text",
)


def asked_in(kind: str, body: CallBody) -> Asked:
    """The facts of a call of `kind`. Nothing that a client may have put there raises: it has been answered, so a backend took it."""
    choices = [value_of(body.fields, name) for name in ("n", "best_of")]
    limits = [value_of(body.fields, name) for name in ("max_tokens", "max_completion_tokens")]
    return Asked(
        kind,
        has_many_choices=any(value not in (None, 1) for value in choices),
        has_logprobs=any(value_of(body.fields, name) not in (None, False) for name in _BESIDE_TEXT),
        is_structured=_is_structured(body),
        has_tools=body.has_tools and value_of(body.fields, "tool_choice") != "none",
        is_open=kind == "chat" and _is_open(body),
        is_one_prompt=isinstance(value_of(body.fields, "prompt"), str),
        max_tokens=min((int(limit) for limit in limits if type(limit) in (int, float)), default=None),
    )


def _is_structured(body: CallBody) -> bool:
    form, tool = value_of(body.fields, "response_format"), value_of(body.fields, "tool_choice")
    is_text = form is None or (isinstance(form, dict) and form.get("type") == "text")
    return not is_text or tool not in (None, "auto", "none") or any(value_of(body.fields, name) for name in _GRAMMARS)


def _is_open(body: CallBody) -> bool:
    try:
        last = msgspec.json.decode(msgspec.json.decode(body.messages, type=list[msgspec.Raw])[-1])
    except MALFORMED:
        return True
    return not isinstance(last, dict) or last.get("role") == "assistant"
