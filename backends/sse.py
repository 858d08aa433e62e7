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
    """Feed it what arrives; it gives back the events that are complete. One decoder a stream.

    `is_between_events`: whether the next byte begins a line of a new event.
    """

    __slots__ = ("_bom", "_follows_cr", "_has_begun", "_kept_bytes", "_lines", "_parts", "is_between_events")

    def __init__(self) -> None:
        self.is_between_events = False  # a byte order mark may come first
        self._has_begun = False
        self._bom = b""
        self._follows_cr = False
        self._lines: list[bytes] = []  # of the event that is not complete yet, comments left out
        # Of the line that is not complete yet; joined once, because joining at every read makes one byte a read cost a square.
        self._parts: list[bytes] = []
        self._kept_bytes = 0

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes, in order. Raises ProtocolBroken where one event grows beyond `MAX_EVENT_BYTES`."""
        if self.is_between_events and data.endswith(b"\n\n") and b"\r" not in data:
            if data.startswith(b"data: ") and data.find(b"\n") == len(data) - 2:
                return [Event(b"", data[6:-2])]
            return [event for block in data[:-2].split(b"\n\n") if (event := _event(block)) is not None]
        events = self._feed_exactly(data if self._has_begun else self._begin(data))
        self.is_between_events = self._has_begun and not (self._lines or self._parts or self._follows_cr)
        return events

    def _begin(self, data: bytes) -> bytes:
        data = self._bom + data
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._bom = data
            return b""
        self._has_begun = True
        return data.removeprefix(_BOM)

    def _feed_exactly(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        if self._follows_cr and data:  # a CR ends its line at once; the LF of a CRLF may come in the next read
            self._follows_cr = False
            data = data.removeprefix(b"\n")
        start = 0
        for match in _LINE_END.finditer(data):
            self._take_line(data[start : match.start()], events)
            start = match.end()
        self._follows_cr = self._follows_cr or (data.endswith(b"\r") and start == len(data))
        if start < len(data):
            self._parts.append(data[start:])
            self._kept_bytes += len(data) - start
        if self._kept_bytes > MAX_EVENT_BYTES:
            raise ProtocolBroken(f"one event of the stream is longer than {MAX_EVENT_BYTES} bytes")
        return events

    def _take_line(self, line: bytes, events: list[Event]) -> None:
        if self._parts:
            self._kept_bytes -= sum(map(len, self._parts))
            self._parts.append(line)
            line = b"".join(self._parts)
            self._parts.clear()
        if line:
            if not line.startswith(b":"):
                self._lines.append(line)
                self._kept_bytes += len(line)
            return
        event = _parse(self._lines)
        self._lines.clear()
        self._kept_bytes = 0
        if event is not None:
            events.append(event)


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


def encode(kind: bytes, data: bytes) -> bytes:
    """The bytes of one event, in the form that naive line readers understand: `data: `, one line, LF.

    `data` is JSON: a line break between its tokens means what a space does, and in its strings none can stand.
    """
    if b"\n" in data:
        data = data.replace(b"\n", b" ")
    return b"event: %b\ndata: %b\n\n" % (kind, data) if kind else b"data: %b\n\n" % data
