"""What a stream has said to its client so far, kept for the case that it breaks and another backend has to carry it on.

Most chunks are known by their shape and never parsed; of those the text's raw bytes are appended as they stand in the JSON, each
followed by a quote, which cannot stand inside: one append a chunk, and nothing is decoded unless the stream breaks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from backends.answers import Chunk, Delta

# Of content, and as much of reasoning: 60,000 tokens of English, more than an answer of gpt-oss at its highest effort. A longer stream
# is not resumed.
MAX_KEPT_BYTES = 262_144
_PIECE = re.compile(rb'([^"\\]*+(?:\\.[^"\\]*+)*+)"', re.DOTALL)
_STRING = msgspec.json.Decoder(str)
_FIRST = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SAME = ("id", "object", "created", "model", "system_fingerprint")  # what one stream says alike in each of its events


@dataclass(frozen=True, slots=True)
class Said:
    """All that a client has seen of a stream. `*_deltas` count the pieces it came in: as many as tokens, or fewer.

    `identity` holds the raw JSON of the fields that are alike in all events; `reasoning_name` what the reasoning's field is called.
    """

    content: str
    reasoning: str
    content_deltas: int
    reasoning_deltas: int
    identity: dict[str, msgspec.Raw]
    reasoning_name: str
    is_over_bound: bool
    is_plain: bool
    is_finished: bool

    @property
    def deltas(self) -> int:
        """The pieces of both, an estimate of the tokens."""
        return self.content_deltas + self.reasoning_deltas


class Transcript:
    """Kept along one call's stream, also from one backend to the next."""

    __slots__ = ("_content", "_first", "_reasoning", "_reasoning_name", "is_finished", "is_plain")

    def __init__(self) -> None:
        self._content = bytearray()
        self._reasoning = bytearray()
        self._reasoning_name = "reasoning"
        self._first = b""
        self.is_plain = True  # nothing but text and reasoning of one choice
        self.is_finished = False

    def see(self, chunk: Chunk, data: bytes) -> None:
        """Take note of an event that was read in full, in the client's form."""
        if not self._first:
            self._first = data
        for choice in chunk.choices or ():
            if choice.index:
                self.is_plain = False
            if choice.finish_reason:
                self.is_finished = True
            if choice.text:
                self._add("text", choice.text)
            if choice.delta is not None:
                self._see_delta(choice.delta)
        if chunk.has_other_than_text:
            self.is_plain = False

    def _see_delta(self, delta: Delta) -> None:
        if delta.reasoning:  # some servers say the same under both names
            self._add("reasoning", delta.reasoning)
        elif delta.reasoning_content:
            self._add("reasoning_content", delta.reasoning_content)
        if delta.content and isinstance(delta.content, str):
            self._add("content", delta.content)

    def _add(self, name: str, text: str) -> None:
        kept = self.keep(name)
        if kept is not None:
            kept += msgspec.json.encode(text)[1:]

    def keep(self, name: str) -> bytearray | None:
        """Where text of this field goes, each piece followed by a quote; None once there is too much of it."""
        if name.startswith("reasoning"):
            self._reasoning_name = name
            kept = self._reasoning
        else:
            kept = self._content
        return kept if len(kept) <= MAX_KEPT_BYTES else None

    def said(self) -> Said:
        """Everything so far, decoded."""
        content, content_deltas = _decoded(self._content)
        reasoning, reasoning_deltas = _decoded(self._reasoning)
        first = _FIRST.decode(self._first) if self._first else {}
        return Said(
            content,
            reasoning,
            content_deltas,
            reasoning_deltas,
            {name: first[name] for name in _SAME if name in first},
            self._reasoning_name,
            is_over_bound=max(len(self._content), len(self._reasoning)) > MAX_KEPT_BYTES,
            is_plain=self.is_plain,
            is_finished=self.is_finished,
        )


def _decoded(kept: bytearray) -> tuple[str, int]:
    pieces = _PIECE.findall(kept)
    return _STRING.decode(b'"%b"' % b"".join(pieces)), len(pieces)
