"""Server-sent events: bytes in, events out, in any chunking, with no I/O.

The grammar is WHATWG's (HTML, section 9.2.6): lines end in LF, CRLF or CR; `data` lines of one event are joined with LF; lines
that start with a colon are comments; an event ends at an empty line; what is unfinished at the end is dropped.
Engines send almost always one event a read, `data: {...}` and an empty line; that case takes one split and no loop over bytes.
An event may span reads; at most `MAX_EVENT_BYTES` of it are kept waiting.

Source: the split into a fast path and an exact one is httpx-sse's problem report turned around (bytes, not `str.splitlines`,
which also breaks lines at U+2028 inside JSON strings).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from backends.errors import ProtocolBroken

MAX_EVENT_BYTES = 1_048_576  # one event; a whole 128k-token tool call is about half of it

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One event: its type (b"" where none was given, which means "message") and its data."""

    type: bytes
    data: bytes


class SseDecoder:
    """Feed it what arrives; it gives back the events that are complete. One decoder a stream."""

    __slots__ = ("_carry", "_has_begun")

    def __init__(self) -> None:
        self._carry = b""
        self._has_begun = False

    @property
    def is_between_events(self) -> bool:
        """Whether the next byte begins an event."""
        return self._has_begun and not self._carry

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes, in order. Raises ProtocolBroken where one event grows beyond `MAX_EVENT_BYTES`."""
        if self._carry:
            data = self._carry + data
            self._carry = b""
        if not self._has_begun:
            data = self._begin(data)
        if data.endswith(b"\n\n") and b"\r" not in data:
            if data.startswith(b"data: ") and data.find(b"\n") == len(data) - 2:
                return [Event(b"", data[6:-2])]
            return [event for block in data[:-2].split(b"\n\n") if (event := _event(block)) is not None]
        return self._feed_exactly(data)

    def _begin(self, data: bytes) -> bytes:
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._carry = data
            return b""
        self._has_begun = True
        return data.removeprefix(_BOM)

    def _feed_exactly(self, data: bytes) -> list[Event]:
        events = []
        start = 0
        lines: list[bytes] = []
        block_start = 0
        for match in _LINE_END.finditer(data):
            if match.group() == b"\r" and match.end() == len(data):
                break  # the LF of a CRLF may be on its way
            line = data[start : match.start()]
            start = match.end()
            if line:
                lines.append(line)
                continue
            if lines:
                event = _parse(lines)
                if event is not None:
                    events.append(event)
                lines = []
            block_start = start
        self._carry = data[block_start:]
        if len(self._carry) > MAX_EVENT_BYTES:
            raise ProtocolBroken(f"one event of the stream is longer than {MAX_EVENT_BYTES} bytes")
        return events


def _event(block: bytes) -> Event | None:
    if block.startswith(b"data: ") and b"\n" not in block:
        return Event(b"", block[6:])
    return _parse(block.split(b"\n"))


def _parse(lines: list[bytes]) -> Event | None:
    """An event from its lines, or None where they hold no data (comments, `id`, `retry`)."""
    kind = b""
    data: list[bytes] = []
    for line in lines:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            kind = value
    return Event(kind, b"\n".join(data)) if data else None


def encode(event: Event) -> bytes:
    """The bytes of one event, in the form that naive line readers understand: `data: `, one line, LF."""
    if event.type:
        return b"event: %b\ndata: %b\n\n" % (event.type, event.data)
    return b"data: %b\n\n" % event.data
