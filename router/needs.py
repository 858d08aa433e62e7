"""What a call needs that not every backend has, read only where a field that may ask for it is there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from backends.faults import MALFORMED
from policies.facts import NO_NEEDS, Need
from router.canonical_request import is_filled
from router.multipart import FormBody
from router.offers import has_custom
from router.reading import CallBody, value_of

# The fields of a call that may be more than text, by its kind. Where a kind is not named here, no field is read for it.
_PROMPTS = {
    "chat": "messages",
    "messages": "messages",
    "count_tokens": "messages",
    "tokenize": "messages",
    "responses": "input",
}
_OFFERING = frozenset({"chat", "responses", "messages"})  # the others only count what an offer of tools takes
_TELLING = frozenset({
    "n", "best_of", "logprobs", "top_logprobs", "prompt_logprobs", "modalities", "include", "echo", "suffix", "functions",
})  # fmt: skip
# Parts of a message by their type: OpenAI's of chat and of responses, Anthropic's, vLLM's own.
_PARTS = {
    "image_url": Need.IMAGES,
    "input_image": Need.IMAGES,
    "image": Need.IMAGES,
    "input_audio": Need.AUDIO,
    "audio_url": Need.AUDIO,
    "video_url": Need.VIDEO,
    "input_video": Need.VIDEO,
    "file": Need.FILES,
    "input_file": Need.FILES,
    "document": Need.FILES,
}
_MAY_OPEN_PARTS = frozenset(b"{ \t\r\n")
_FEW_BRACKETS = 32  # a plain conversation has one; past that, code in its text makes reading it cheaper than looking on


class _Piece(msgspec.Struct):
    """A message, or a part of one; results of tools may hold parts again."""

    type: Any = None
    content: msgspec.Raw = msgspec.Raw()
    output: msgspec.Raw = msgspec.Raw()


_PIECES = msgspec.json.Decoder(list[_Piece])


def needs_of(kind: str, body: CallBody | FormBody) -> frozenset[Need]:
    """The needs of a call of `kind`. Nothing that a client may have written raises: what is malformed is the backend's to judge."""
    if kind == "pass" or isinstance(body, FormBody):
        return NO_NEEDS
    prompt = _PROMPTS.get(kind)
    has_media = prompt is not None and _may_hold_parts(body.raw)
    if not has_media and not body.has_tools and _TELLING.isdisjoint(body.fields):
        return NO_NEEDS
    needs = set(_by_fields(kind, body.fields))
    if body.has_tools and kind in _OFFERING and not _are_forbidden(value_of(body.fields, "tool_choice")):
        needs.add(Need.TOOLS)
    if body.has_tools and kind == "chat" and has_custom(body.fields["tools"]):
        needs.add(Need.CUSTOM_TOOLS)
    if prompt is not None and has_media:
        needs.update(_of_pieces(body.fields.get(prompt)))
    return frozenset(needs) if needs else NO_NEEDS


def _by_fields(kind: str, fields: dict[str, msgspec.Raw]) -> Iterator[Need]:
    choices = value_of(fields, "n")
    if _is_above(choices, 1):
        yield Need.MANY_CHOICES
    if _is_above(value_of(fields, "best_of"), choices if _is_above(choices, 1) else 1):
        yield Need.BEST_OF
    if kind == "completions":
        yield from _around_a_prompt(fields)
    elif kind == "chat" and is_filled(fields.get("functions")):
        yield Need.FUNCTIONS
    logprobs = value_of(fields, "logprobs")
    if (
        (logprobs not in (None, False) or (kind == "completions" and logprobs == 0 and logprobs is not False))
        or _is_above(value_of(fields, "top_logprobs"), 0)
        or value_of(fields, "prompt_logprobs") is not None
        or (kind == "responses" and b"logprobs" in bytes(fields.get("include", b"")))
    ):
        yield Need.LOGPROBS
    modalities = value_of(fields, "modalities")
    if isinstance(modalities, list) and "audio" in modalities:
        yield Need.AUDIO


def _are_forbidden(tool_choice: Any) -> bool:
    """Whether no tool may be called: OpenAI's word for it, or Anthropic's."""
    return tool_choice == "none" or (isinstance(tool_choice, dict) and tool_choice.get("type") == "none")


def _around_a_prompt(fields: dict[str, msgspec.Raw]) -> Iterator[Need]:
    if value_of(fields, "echo") is True:
        yield Need.ECHO
    if value_of(fields, "suffix"):
        yield Need.SUFFIX


def _is_above(value: Any, limit: int) -> bool:
    return isinstance(value, int | float) and value is not True and value > limit


def _may_hold_parts(raw: bytes) -> bool:
    """Whether a message may be more than text: a list of parts is the second list of objects in a body at the least.

    To look for that costs 1 us for 32 KB of text; to look for the name of a part, 17 us (measured).
    """
    position = raw.find(b"[")
    for _ in range(_FEW_BRACKETS):
        position = raw.find(b"[", position + 1)
        if position < 0:
            return False
        if raw[position + 1] in _MAY_OPEN_PARTS:
            return True
    return True


def _of_pieces(raw: msgspec.Raw | None) -> Iterator[Need]:
    """The needs of a list of messages, or of the parts of one: text is passed over unread. `read_body` has bounded the depth."""
    if raw is None or memoryview(raw)[:1].tobytes() != b"[":
        return
    try:
        pieces = _PIECES.decode(raw)
    except MALFORMED:
        return
    for piece in pieces:
        if isinstance(piece.type, str) and piece.type in _PARTS:
            yield _PARTS[piece.type]
        yield from _of_pieces(piece.content)
        yield from _of_pieces(piece.output)
