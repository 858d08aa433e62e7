"""One connection's reading of HTTP/1.1: what is an answer, what is refused, in any chunking; no socket is needed for that."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import BackendError, ProtocolBroken
from backends.http1 import MAX_HEAD_BYTES, MAX_INTERIM, Connection
from tests.upstream import STREAM_HEAD, answer, chunked


class Sink(asyncio.Transport):
    """The socket's end of a connection that is fed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.unsent = 0
        self.is_aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True


@dataclass
class Heard:
    """A receiver that writes down what it was told."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ends: int = 0
    errors: list[BackendError] = field(default_factory=list)

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status, self.headers = (
            status,
            {name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items()},
        )

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_end(self) -> None:
        self.ends += 1

    def on_broken(self, error: BackendError) -> None:
        self.errors.append(error)


def opened() -> tuple[Connection, Sink, Heard]:
    """A connection on which a request has been sent."""
    connection, sink, heard = Connection(), Sink(), Heard()
    connection.connection_made(sink)
    connection.send((b"GET / HTTP/1.1\r\n\r\n",), heard)
    return connection, sink, heard


def heard_of(raw: bytes, sizes: list[int], *, hangs_up: bool = False) -> tuple[Connection, Heard]:
    """What a receiver hears of these bytes, read in pieces of these sizes, the rest at once."""
    connection, sink, heard = opened()
    for size in [*sizes, len(raw)]:
        if raw[:size] and not sink.is_aborted:
            connection.data_received(raw[:size])
        raw = raw[size:]
    if hangs_up:
        connection.connection_lost(None)
    return connection, heard


def response(*lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode("latin-1") + body


GOOD: list[tuple[str, bytes, bytes, bool]] = [
    ("a length", answer(b"hello"), b"hello", True),
    ("chunks", STREAM_HEAD + chunked(b"hel") + chunked(b"lo") + b"0\r\n\r\n", b"hello", True),
    ("chunks with extensions", STREAM_HEAD + b"5;a=b\r\nhello\r\n0;c\r\n\r\n", b"hello", True),
    ("chunks with trailers", STREAM_HEAD + chunked(b"hello") + b"0\r\nx-sum: 1\r\n\r\n", b"hello", True),
    ("a chunked coding in capitals", response("Transfer-Encoding: Chunked", body=b"1\r\nx\r\n0\r\n\r\n"), b"x", True),
    ("an empty body", answer(b""), b"", True),
    ("no content", b"HTTP/1.1 204 No Content\r\n\r\n", b"", False),
    ("the server will close", answer(b"hello", "200 OK", "connection: close"), b"hello", False),
    ("HTTP/1.0", b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", b"hi", False),
    ("100 before it", b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"hello"), b"hello", True),
    ("103 before it", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + answer(b"hello"), b"hello", True),
    ("an identity coding", answer(b"hello", "200 OK", "content-encoding: identity"), b"hello", True),
    ("no reason phrase", b"HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nhi", b"hi", True),
    ("100 headers", response("content-length: 2", *(f"x-{n}: 1" for n in range(99)), body=b"hi"), b"hi", True),
]  # fmt: skip

BAD: list[tuple[str, bytes, str]] = [
    ("both framings", response("content-length: 2", "transfer-encoding: chunked"), ""),
    ("both framings, the other way round", response("transfer-encoding: chunked", "content-length: 2"), ""),
    ("the length twice, different", response("content-length: 2", "content-length: 3"), ""),
    ("the length twice, the same", response("content-length: 2", "content-length: 2"), ""),
    ("two codings of the transfer", response("transfer-encoding: gzip, chunked"), "framed as"),
    ("a coding of the transfer that is not chunked", response("transfer-encoding: gzip"), "framed as"),
    ("the transfer's coding twice", response("transfer-encoding: chunked", "transfer-encoding: chunked"), "twice"),
    ("gzip", response("content-encoding: gzip", "content-length: 2"), "encoded as 'gzip'"),
    ("gzip behind identity", response("content-encoding: gzip", "content-encoding: identity"), "twice"),
    ("5000 headers", response("content-length: 2", *(f"x-{n}: 1" for n in range(5000))), "more than 100 headers"),
    ("5000 headers of one name", response("content-length: 2", *(["x: 1"] * 5000)), "more than 100 headers"),
    ("a header of 200 KB", response("content-length: 2", f"x: {'y' * 200_000}"), "64 KiB"),
    ("a header of 200 KB and the body in one read", response("content-length: 2", f"x: {'y' * 200_000}", body=b"hi"), "64 KiB"),
    ("a header of 200 KB that never ends", b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000, "64 KiB"),
    ("a name of 200 KB that never ends", b"HTTP/1.1 200 OK\r\n" + b"y" * 200_000, "64 KiB"),
    ("2000 interim answers", b"HTTP/1.1 100 Continue\r\n\r\n" * 2000 + answer(b"hello"), "interim"),
    ("a chunk's size that is no number", STREAM_HEAD + b"xyz\r\n", ""),
    ("a chunk's size that is negative", STREAM_HEAD + b"-5\r\nhello\r\n", ""),
    ("a chunk's size beyond 64 bits", STREAM_HEAD + b"f" * 17 + b"\r\n", ""),
    ("a chunk longer than its size", STREAM_HEAD + b"2\r\nhello\r\n", ""),
    ("an extension of a chunk that never ends", STREAM_HEAD + b"5;" + b"x" * 200_000, "64 KiB"),
    ("a trailer that never ends", STREAM_HEAD + b"0\r\nx: " + b"y" * 200_000, "64 KiB"),
    ("garbage", b"\x00\x01\x02 not http\r\n\r\n", ""),
    ("a request", b"GET / HTTP/1.1\r\n\r\n", ""),
    ("TLS", bytes([21, 3, 1, 0, 2, 2, 40]), ""),
    ("a NUL in a header", response("x: a\x00b"), ""),
    ("another protocol", b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", ""),
]  # fmt: skip

AFTER: list[tuple[str, bytes]] = [
    ("a second answer", answer(b"poison")),
    ("the beginning of a second answer", b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoi"),
    ("one byte of a second answer", b"H"),
    ("garbage", b"\x00\x01"),
]


@pytest.mark.parametrize(("raw", "body", "is_kept"), [row[1:] for row in GOOD], ids=[row[0] for row in GOOD])
def test_an_answer_is_read_whole_byte_by_byte_and_cut_anywhere(raw: bytes, body: bytes, is_kept: bool) -> None:
    for sizes in ([], [1] * len(raw), *([cut] for cut in range(len(raw)))):
        connection, heard = heard_of(raw, sizes)
        assert (heard.body, heard.ends, heard.errors) == (body, 1, []), sizes
        assert heard.status == (204 if not raw.startswith(b"HTTP/1.1 100") and b" 204 " in raw[:20] else 200)
        assert connection.is_idle is is_kept


@pytest.mark.parametrize(("raw", "says"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
@pytest.mark.parametrize("read_bytes", [1 << 20, 4096, 7], ids=["one read", "reads of 4 KiB", "tiny reads"])
def test_what_is_no_answer_is_refused_once_and_the_connection_closed(raw: bytes, says: str, read_bytes: int) -> None:
    connection, heard = heard_of(raw, [read_bytes] * (len(raw) // read_bytes))
    assert [type(error) for error in heard.errors] == [ProtocolBroken] and heard.ends == 0
    assert says in str(heard.errors[0])
    assert not connection.is_idle and connection.transport is not None and connection.transport.is_closing()


@pytest.mark.parametrize("after", [row[1] for row in AFTER], ids=[row[0] for row in AFTER])
@pytest.mark.parametrize("in_one_read", [True, False], ids=["in the same read", "in a read of its own"])
def test_bytes_after_the_message_end_the_connection_and_not_the_answer(after: bytes, in_one_read: bool) -> None:
    first = answer(b"hello")
    connection, heard = heard_of(first + after, [] if in_one_read else [len(first)])
    assert (heard.body, heard.ends, heard.errors) == (b"hello", 1, [])
    assert not connection.is_idle


def test_an_answer_of_200_kb_in_one_read_is_no_head_of_200_kb() -> None:
    _, heard = heard_of(answer(b"x" * 200_000), [])
    assert len(heard.body) == 200_000 and heard.ends == 1


def test_a_long_answer_of_many_chunks_never_adds_up_to_the_limit_of_heads() -> None:
    connection, _, heard = opened()
    connection.data_received(STREAM_HEAD)
    for _ in range(MAX_HEAD_BYTES // 6 + 10):
        connection.data_received(chunked(b"x"))
    assert not heard.errors


def test_as_many_interim_answers_as_are_allowed_are_read_past_in_every_exchange() -> None:
    connection, _, heard = opened()
    for _ in range(2):
        connection.data_received(b"HTTP/1.1 102 Processing\r\n\r\n" * MAX_INTERIM + answer(b"x"))
        assert not heard.errors and connection.is_idle
        connection.send((b"",), heard)


def test_a_trailer_does_not_rewrite_the_head() -> None:
    raw = STREAM_HEAD + chunked(b"hi") + b"0\r\ncontent-type: text/html\r\ncontent-length: 9\r\n\r\n"
    _, heard = heard_of(raw, [])
    assert heard.headers["content-type"].startswith("text/event-stream") and "content-length" not in heard.headers


def test_lines_of_one_header_are_read_as_one_value() -> None:
    raw = response("retry-after: 0", "x: y", "Retry-After: 30", "content-length: 2", body=b"hi")
    _, heard = heard_of(raw, [])
    assert heard.headers == {"retry-after": "0, 30", "x": "y", "content-length": "2"} and heard.ends == 1


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    connection, heard = heard_of(response(body=b"hello"), [], hangs_up=True)
    assert (heard.body, heard.ends, heard.errors) == (b"hello", 1, []) and not connection.is_idle


def test_a_body_without_a_length_that_ends_with_a_reset_is_broken() -> None:
    connection, _, heard = opened()
    connection.data_received(response(body=b"hello"))
    connection.connection_lost(ConnectionResetError())
    assert heard.ends == 0 and len(heard.errors) == 1


CUT_SHORT: list[tuple[str, bytes]] = [
    ("nothing", b""),
    ("in the head", b"HTTP/1.1 200 OK\r\ncont"),
    ("in the body", answer(b"hello")[:-1]),
    ("in a chunk", STREAM_HEAD + b"5\r\nhel"),
    ("between two chunks", STREAM_HEAD + chunked(b"hello")),
    ("after an interim answer", b"HTTP/1.1 100 Continue\r\n\r\n"),
]


@pytest.mark.parametrize("raw", [row[1] for row in CUT_SHORT], ids=[row[0] for row in CUT_SHORT])
def test_an_answer_that_is_cut_short_is_broken(raw: bytes) -> None:
    connection, heard = heard_of(raw, [], hangs_up=True)
    assert heard.ends == 0 and [type(error) for error in heard.errors] == [ProtocolBroken]
    assert connection.has_answered is bool(raw)


def test_an_answer_that_comes_before_the_whole_request_is_sent_does_not_keep_the_connection() -> None:
    connection, sink, heard = opened()
    sink.unsent = 1
    connection.data_received(answer(b"too large", "413 Content Too Large"))
    assert heard.status == 413 and heard.ends == 1 and not connection.is_idle


@given(
    raw=st.binary(max_size=200),
    head=st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", STREAM_HEAD, STREAM_HEAD + b"5\r\n"]),
)
def test_whatever_arrives_ends_at_most_once_and_raises_nothing(raw: bytes, head: bytes) -> None:
    _, heard = heard_of(head + raw, [3] * 20, hangs_up=True)
    assert heard.ends + len(heard.errors) == 1


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=8),
    sizes=st.lists(st.integers(1, 40), max_size=30),
    takes=st.booleans(),
)
def test_a_tap_is_offered_only_what_begins_at_a_chunk_and_what_it_leaves_is_parsed(
    chunks: list[bytes], sizes: list[int], takes: bool
) -> None:
    raw = b"".join(chunked(chunk) for chunk in chunks) + b"0\r\n\r\n"
    boundaries = {0}
    for chunk in chunks:
        boundaries.add(max(boundaries) + len(chunked(chunk)))
    connection, _, heard = opened()
    connection.data_received(STREAM_HEAD)
    position = 0

    def tap(read: bytes) -> int:
        assert position in boundaries
        size_end = read.find(b"\r\n")
        if not takes or size_end < 0 or read.startswith(b"0"):
            return 0
        size = int(read[:size_end], 16)
        if len(read) < size_end + 4 + size:
            return 0
        heard.body += read[size_end + 2 : size_end + 2 + size]
        return size_end + 4 + size

    connection.tap = tap
    for size in [*sizes, len(raw)]:
        piece = raw[position : position + size]
        if piece:
            connection.data_received(piece)
        position += size
    assert heard.body == b"".join(chunks) and heard.ends == 1 and not heard.errors
    assert connection.tap is None
