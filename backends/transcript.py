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


@dataclass(frozen=True, slots=True)
class Said:
    """All that a client has seen of a stream. `*_deltas` count the pieces it came in: as many as tokens, or fewer."""

    content: str
    reasoning: str
    content_deltas: int
    reasoning_deltas: int
    is_over_bound: bool
    is_plain: bool
    is_finished: bool

    @property
    def deltas(self) -> int:
        """The pieces of both, an estimate of the tokens."""
        return self.content_deltas + self.reasoning_deltas


class Transcript:
    """Kept along one call's stream, also from one backend to the next."""

    __slots__ = ("_content", "_reasoning", "is_finished", "is_plain")

    def __init__(self) -> None:
        self._content = bytearray()
        self._reasoning = bytearray()
        self.is_plain = True  # nothing but text and reasoning of one choice
        self.is_finished = False

    def see(self, chunk: Chunk) -> None:
        """Take note of an event that was read in full."""
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
        if thought := delta.thought:
            self._add("reasoning", thought)
        if delta.content and isinstance(delta.content, str):
            self._add("content", delta.content)

    def _add(self, name: str, text: str) -> None:
        kept = self.keep(name)
        if kept is not None:
            kept += msgspec.json.encode(text)[1:]

    def keep(self, name: str) -> bytearray | None:
        """Where text of this field goes, each piece followed by a quote; None once there is too much of it."""
        kept = self._reasoning if name.startswith("reasoning") else self._content
        return kept if len(kept) <= MAX_KEPT_BYTES else None

    @property
    def has_content(self) -> bool:
        """Whether any text was said that is no reasoning."""
        return bool(self._content)

    @property
    def is_silent(self) -> bool:
        """Whether nothing was said at all, of no kind."""
        return self.is_plain and not self._content and not self._reasoning

    def has_edge(self, openings: frozenset[int], ending: bytes) -> bool:
        """Whether the content begins with one of these bytes, or ends with these; approximate, and quick."""
        kept = self._content
        return bool(kept) and (kept[0] in openings or kept.endswith(ending))

    def said(self) -> Said:
        """Everything so far, decoded."""
        content, content_deltas = _decoded(self._content)
        reasoning, reasoning_deltas = _decoded(self._reasoning)
        return Said(
            content,
            reasoning,
            content_deltas,
            reasoning_deltas,
            is_over_bound=max(len(self._content), len(self._reasoning)) > MAX_KEPT_BYTES,
            is_plain=self.is_plain,
            is_finished=self.is_finished,
        )


def _decoded(kept: bytearray) -> tuple[str, int]:
    pieces = _PIECE.findall(kept)
    return _STRING.decode(b'"%b"' % b"".join(pieces)), len(pieces)
