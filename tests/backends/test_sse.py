"""Server-sent events against the grammar of WHATWG, in every chunking."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backends.errors import ProtocolBroken
from backends.sse import MAX_EVENT_BYTES, Event, SseDecoder, encode

A, B = Event(b"", b"a"), Event(b"", b"b")

GRAMMAR: list[tuple[str, bytes, list[Event]]] = [
    ("one event", b"data: a\n\n", [A]),
    ("two events", b"data: a\n\ndata: b\n\n", [A, B]),
    ("lines that end in CRLF", b"data: a\r\n\r\ndata: b\r\n\r\n", [A, B]),
    ("lines that end in CR", b"data: a\r\rdata: b\r\r", [A, B]),
    ("CRLF inside an event", b"data: a\r\ndata: b\r\n\r\n", [Event(b"", b"a\nb")]),
    ("CR inside an event", b"data: a\rdata: b\n\n", [Event(b"", b"a\nb")]),
    ("CR before an event that ends in LF", b"data: a\r\rdata: b\n\n", [A, B]),
    ("LF, then CR", b"data: a\n\rdata: b\n\n", [A, B]),
    ("CRLF, then LF", b"data: a\r\n\ndata: b\n\r\n", [A, B]),
    ("CR, then CRLF", b"data: a\r\r\ndata: b\n\n", [A, B]),
    ("no space after the colon", b"data:a\n\n", [A]),
    ("two spaces, of which one is data", b"data:  a\n\n", [Event(b"", b" a")]),
    ("several data lines", b"data: a\ndata: b\n\n", [Event(b"", b"a\nb")]),
    ("data of one empty line", b"data:\n\n", [Event(b"", b"")]),
    ("data without a colon", b"data\n\n", [Event(b"", b"")]),
    ("two empty data lines", b"data\ndata\n\n", [Event(b"", b"\n")]),
    ("a colon in the data", b"data: a: b\n\n", [Event(b"", b"a: b")]),
    ("a type before the data", b"event: error\ndata: a\n\n", [Event(b"error", b"a")]),
    ("a type after the data", b"data: a\nevent: error\n\n", [Event(b"error", b"a")]),
    ("a type without data says nothing", b"event: error\n\ndata: a\n\n", [A]),
    ("a comment alone", b": ping\n\n", []),
    ("a comment without its empty line", b": ping\ndata: a\n\n", [A]),
    ("a comment inside an event", b"data: a\n: ping\ndata: b\n\n", [Event(b"", b"a\nb")]),
    ("an empty comment", b":\n\ndata: a\n\n", [A]),
    ("an id and a retry", b"id: 1\nretry: 5\ndata: a\n\n", [A]),
    ("an id alone", b"id: 1\n\n", []),
    ("an unknown field", b"foo: a\ndata: a\n\n", [A]),
    ("a field that only begins like data", b"data2: x\ndata: a\n\n", [A]),
    ("empty lines in a row", b"\n\n\ndata: a\n\n\n\n\ndata: b\n\n", [A, B]),
    ("a byte order mark", b"\xef\xbb\xbfdata: a\n\n", [A]),
    ("a second byte order mark belongs to the line", b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", [B]),
    ("a byte order mark further on belongs to the line", b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [A]),
    ("an unfinished event at the end", b"data: a\n\ndata: b\n", [A]),
    ("an unfinished line at the end", b"data: a\n\ndata: b", [A]),
    ("characters of several bytes", "data: é€😀\n\n".encode(), [Event(b"", "é€😀".encode())]),
    ("Unicode's own line breaks are no line ends", "data: a\u2028b\x0b\u0085\n\n".encode(), [Event(b"", "a\u2028b\x0b\u0085".encode())]),
    ("a NUL", b"data: a\x00\n\n", [Event(b"", b"a\x00")]),
    ("nothing", b"", []),
]  # fmt: skip

PIECES = st.sampled_from(
    [
        b"data: a",
        b"data:b",
        b"data",
        b"event: e",
        b": c",
        b":",
        b"id: 1",
        b"\n",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"x",
        b"\xef",
    ]
)
STREAMS = st.lists(PIECES, max_size=25).map(b"".join) | st.binary(max_size=60)


def fed(stream: bytes, sizes: list[int], *first: bytes) -> list[Event]:
    """What comes of a stream in pieces of these sizes, the rest at once; `first` is read before."""
    decoder = SseDecoder()
    events: list[Event] = []
    for read in first:
        decoder.feed(read)
    for size in sizes:
        events += decoder.feed(stream[:size])
        stream = stream[size:]
    return events + decoder.feed(stream)


def by_the_book(stream: bytes) -> list[Event]:
    """WHATWG's algorithm as it is written, over a whole stream."""
    events, data, kind = [], b"", b""
    for line in re.split(rb"\r\n|\n|\r", stream.removeprefix(b"\xef\xbb\xbf"))[:-1]:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            if data:
                events.append(Event(kind, data[:-1]))
            data, kind = b"", b""
        elif field == b"data":
            data += value + b"\n"
        elif field == b"event":
            kind = value
    return events


@pytest.mark.parametrize(("stream", "events"), [row[1:] for row in GRAMMAR], ids=[row[0] for row in GRAMMAR])
def test_the_grammar_whole_byte_by_byte_and_cut_anywhere(stream: bytes, events: list[Event]) -> None:
    assert by_the_book(stream) == events
    assert fed(stream, []) == events
    assert fed(stream, [1] * len(stream)) == events
    if not stream.startswith(b"\xef"):
        assert fed(stream, [], b": the fast path is open\n\n") == events
    for cut in range(len(stream)):
        assert fed(stream, [cut]) == events, f"cut after {cut} bytes"


@given(stream=STREAMS, sizes=st.lists(st.integers(0, 9), max_size=30))
@example(stream=b"data: a\n\n: c\ndata: a\n\n", sizes=[9, 4])
@example(stream=b"data: a\n\n\rdata: a\n\n", sizes=[9, 1])
@example(stream=b"data: a\n\r\ndata: b\n\n", sizes=[8, 1])
def test_any_chunking_of_a_stream_gives_the_same_events(stream: bytes, sizes: list[int]) -> None:
    assert fed(stream, sizes) == by_the_book(stream)
    assert fed(b"\n" + stream, sizes, b": the fast path is open\n\n") == by_the_book(b"\n" + stream)


@given(reads=st.lists(st.binary(max_size=40) | PIECES, max_size=20))
def test_nothing_that_arrives_raises_anything_but_protocol_broken(reads: list[bytes]) -> None:
    decoder = SseDecoder()
    with contextlib.suppress(ProtocolBroken):
        for read in reads:
            decoder.feed(read)


@given(stream=STREAMS, sizes=st.lists(st.integers(0, 9), max_size=30), event=STREAMS)
def test_between_events_whatever_comes_next_is_read_as_if_the_stream_began_there(
    stream: bytes, sizes: list[int], event: bytes
) -> None:
    decoder = SseDecoder()
    for size in sizes:
        decoder.feed(stream[:size])
        stream = stream[size:]
    if decoder.is_between_events:
        fresh = SseDecoder()
        fresh.feed(b"\n")  # past the byte order mark
        assert decoder.feed(event) == fresh.feed(event)


BETWEEN: list[tuple[str, list[bytes], bool]] = [
    ("at the start, where a byte order mark may come", [], False),
    ("after an event", [b"data: a\n\n"], True),
    ("after a read that ends in a comment", [b"data: a\n\n", b": ping\n"], True),
    ("in mid-line", [b"data: a\n\n", b"dat"], False),
    ("after a line of an event", [b"data: a\n\n", b"data: b\n"], False),
    ("after an event that ends in CR: a LF may follow", [b"data: a\n\n", b"data: b\r\r"], False),
    ("after that LF", [b"data: a\n\n", b"data: b\r\r", b"\n"], True),
    ("after an event of CRLF", [b"data: a\r\n\r\n"], True),
]


@pytest.mark.parametrize(("reads", "expected"), [row[1:] for row in BETWEEN], ids=[row[0] for row in BETWEEN])
def test_a_decoder_knows_whether_it_stands_between_two_events(reads: list[bytes], expected: bool) -> None:
    decoder = SseDecoder()
    for read in reads:
        decoder.feed(read)
    assert decoder.is_between_events is expected


def test_an_event_that_ends_in_cr_is_given_at_once_and_not_with_the_next() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"data: a\r\r") == [A]
    assert decoder.feed(b"\ndata: b\n\n") == [B]


@pytest.mark.parametrize(
    "beginning", [b"data: ", b"data: a\ndata: ", b"data", b": ", b"event: e\ndata: x\nid: "],
    ids=["one line", "a second line", "a name that never ends", "a comment that never ends", "an id that never ends"],
)  # fmt: skip
def test_an_event_that_never_ends_is_refused_at_one_mebibyte(beginning: bytes) -> None:
    decoder = SseDecoder()
    decoder.feed(beginning)
    fed_bytes = 0
    with pytest.raises(ProtocolBroken, match="1048576 bytes"):
        while fed_bytes < 2 * MAX_EVENT_BYTES:
            decoder.feed(b"x" * 65_536)
            fed_bytes += 65_536
    assert fed_bytes <= MAX_EVENT_BYTES


def test_many_short_lines_without_an_empty_one_are_refused_at_one_mebibyte() -> None:
    decoder = SseDecoder()
    with pytest.raises(ProtocolBroken):
        for _ in range(3 * MAX_EVENT_BYTES // 6000):
            decoder.feed(b"data:x" * 999 + b"\n")


def test_comments_and_whole_events_never_add_up_to_the_limit() -> None:
    decoder = SseDecoder()
    for _ in range(40):
        assert decoder.feed(b": " + b"x" * 65_000 + b"\n") == []
        assert len(decoder.feed(b"data: " + b"y" * 65_000 + b"\n\n")) == 1


def test_an_event_in_pieces_of_one_byte_costs_no_more_than_its_length() -> None:
    decoder = SseDecoder()
    decoder.feed(b"data: ")
    for _ in range(300_000):  # joined anew at every byte, this would be 45 GB of copying
        decoder.feed(b"x")
    assert [len(event.data) for event in decoder.feed(b"\n\n")] == [300_000]


@pytest.mark.parametrize(
    ("kind", "data", "written"),
    [
        (b"", b"{}", b"data: {}\n\n"),
        (b"error", b"{}", b"event: error\ndata: {}\n\n"),
        (b"", b'{"a":1,\n"b":2}', b'data: {"a":1, "b":2}\n\n'),
    ],
    ids=["plain", "with a type", "data of two lines is written as one"],
)
def test_events_are_written_for_naive_line_readers(kind: bytes, data: bytes, written: bytes) -> None:
    assert encode(kind, data) == written
