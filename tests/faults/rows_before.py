"""Faults before the first content: each is a failure of the attempt, and the call moves (facts B5, 1, 2, 6, 8-12, 14-16, 37)."""

from __future__ import annotations

from tests.faults.scripts import (
    CLOSES,
    ROLE,
    drips_after,
    ends_after,
    error_event,
    repeats_after,
    resets_after,
    says_error,
    silent_after,
    streamed,
)
from tests.faults.stage import INTERNALS, SHORT_S
from tests.faults.table import LATE, OVERLOADED, UNAVAILABLE, Row, joined, moves
from tests.upstream import END, STREAM_HEAD, answer, chat_answer, chunked, event, says, sends

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
SOON = (SHORT_S - 0.01, SHORT_S + 2)
BODY = answer(chat_answer())
REDIRECT = answer(b"", "307 Temporary Redirect", "location: http://169.254.169.254/latest/")


def broken(fault: str, *pieces: bytes, forms: str = "ws") -> list[Row]:
    """What is no answer, followed by the end of the connection."""
    return list(moves(fault, ends_after(*pieces), "protocol_broken", UNAVAILABLE, forms))


CONNECTION = joined(
    moves("refuses connections", says("x"), "connect_failed", UNAVAILABLE, model="closed", takes_s=(0, 1)),
    moves("is killed before the head", resets_after(), "protocol_broken", UNAVAILABLE),
    moves("is killed in the head", resets_after(HEAD), "protocol_broken", UNAVAILABLE),
    moves("resets after the head of a stream", resets_after(STREAM_HEAD), "protocol_broken", UNAVAILABLE, "s"),
    moves("resets in mid-chunk", resets_after(STREAM_HEAD, b"ff\r\ndata: {"), "protocol_broken", UNAVAILABLE, "s"),
    moves("resets in mid-body", resets_after(BODY[:-9]), "protocol_broken", UNAVAILABLE, "w"),
    broken("hangs up without a word"),
    broken("ends a stream after the role", STREAM_HEAD, chunked(ROLE), forms="s"),
    broken("ends a stream that its close delimits, before content", CLOSES, ROLE, forms="s"),
)

SILENCE = joined(
    moves("accepts and never answers", silent_after(), "answer_timeout", LATE, "w", "hasty", takes_s=SOON),
    moves("accepts and never answers", silent_after(), "first_token_timeout", LATE, "s", "hasty", takes_s=SOON),
    moves("stops in the head", silent_after(HEAD), "answer_timeout", LATE, "w", "hasty", takes_s=SOON),
    moves("stops in the body", silent_after(BODY[:-9]), "answer_timeout", LATE, "w", "hasty", takes_s=SOON),
    moves("stops after the head", silent_after(STREAM_HEAD), "first_token_timeout", LATE, "s", "hasty"),
    moves("stops after the role", silent_after(STREAM_HEAD, chunked(ROLE)), "first_token_timeout", LATE, "s", "hasty"),
    moves(
        "drips single bytes of its first event",
        drips_after(STREAM_HEAD, dripped=event({"content": "x" * 500})),
        "first_token_timeout",
        LATE,
        "s",
        "hasty",
        takes_s=SOON,
    ),
    moves(
        "sends comments only",
        repeats_after(STREAM_HEAD, again=chunked(b": keep-alive\n\n")),
        "first_token_timeout",
        LATE,
        "s",
        "hasty",
        takes_s=SOON,
    ),
    moves(
        "sends events without content only",
        repeats_after(STREAM_HEAD, again=chunked(ROLE)),
        "first_token_timeout",
        LATE,
        "s",
        "hasty",
    ),
)

SAID = BODY.partition(b"\r\n\r\n")[2]  # a sound answer: only its framing is at fault
LENGTH = b"content-length: %d\r\n" % len(SAID)


def framed(lines: bytes, body: bytes = SAID) -> bytes:
    """A sound answer under these header lines."""
    return b"%b%b\r\n%b" % (HEAD, lines, body)


CHUNKED = b"transfer-encoding: chunked\r\n"
FRAMING = joined(
    broken("sends a garbage status line", b"\x00\x01\x02 not http\r\n\r\n"),
    broken("speaks TLS", bytes([21, 3, 1, 0, 2, 2, 40])),
    broken("sends a size of chunk that is no number", framed(CHUNKED, b"xyz\r\n" + SAID)),
    broken("sends a longer chunk than it says", STREAM_HEAD, b"2\r\nhello\r\n", forms="s"),
    broken("sends less than its content-length", framed(b"content-length: 999\r\n")),
    broken("sends more than its content-length", framed(b"content-length: 9\r\n"), forms="w"),
    broken("sends content-length and transfer-encoding", framed(LENGTH + CHUNKED, chunked(SAID) + END)),
    broken("sends two lengths", framed(LENGTH + b"content-length: 3\r\n")),
    broken("sends 5,000 headers", framed(b"x: y\r\n" * 5000 + LENGTH)),
    broken("sends a header of 200 KB", framed(b"x: " + b"y" * 200_000 + b"\r\n" + LENGTH)),
    broken("sends 2,000 interim answers", b"HTTP/1.1 100 Continue\r\n\r\n" * 2000 + BODY),
    broken("switches protocols", b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"),
    broken("sends a NUL in a header", framed(b"x: a\x00b\r\n" + LENGTH)),
    broken("says that it answers in gzip", framed(b"content-encoding: gzip\r\n" + LENGTH)),
    broken("redirects to where the cloud keeps its keys", REDIRECT),
)

CONTENT = joined(
    broken("answers 200 with HTML", answer(b"<html>oops</html>", content_type="text/html")),
    broken("answers 200 with nothing", answer(b"")),
    broken("answers 200 with choices: []", answer({"id": "x", "choices": []})),
    broken("answers 200 with malformed JSON", answer(b'{"choices": [')),
    broken("sends a stream of nothing", STREAM_HEAD, END, forms="s"),
    broken("sends comments and ends", STREAM_HEAD, chunked(b": ping\n\n"), END, forms="s"),
    broken("sends [DONE] alone", STREAM_HEAD, chunked(b"data: [DONE]\n\n"), END, forms="s"),
    broken("sends malformed JSON as its first event", STREAM_HEAD, chunked(b"data: {oops\n\n"), END, forms="s"),
    broken("sends a NUL in its first event", STREAM_HEAD, chunked(event({"content": "x"})[:-9] + b"\0\n\n"), forms="s"),
    broken("sends events without data:", STREAM_HEAD, chunked(event({"content": "x"})[6:]), END, forms="s"),
    broken("sends a first event of over 1 MiB", STREAM_HEAD, chunked(b"data: " + b"x" * 1_100_000), END, forms="s"),
    broken("sends invalid UTF-8", STREAM_HEAD, chunked(event({"content": "x"}).replace(b'"x"', b'"\xff"')), forms="s"),
)

ERRORS = joined(
    moves("answers 500", says_error("500 Oh", INTERNALS), "failed", UNAVAILABLE),
    moves("answers 502 with HTML", sends(answer(INTERNALS.encode(), "502 Bad")), "failed", UNAVAILABLE),
    moves("answers 200 with an error of 500", says_error("200 OK", INTERNALS, code=500), "failed", UNAVAILABLE),
    moves("answers 200 with an error of 503", says_error("200 OK", INTERNALS, code=503), "refused", OVERLOADED),
    moves("sends an error of 500 first", error_event(500, INTERNALS), "failed", UNAVAILABLE, "s"),
    moves("sends an error of 503 first", error_event(503, INTERNALS), "refused", OVERLOADED, "s"),
    moves(
        "sends an error after the role",
        error_event(500, INTERNALS, STREAM_HEAD, chunked(ROLE)),
        "failed",
        UNAVAILABLE,
        "s",
    ),
    moves("aborts before content", streamed(ROLE, event({}, "abort"), b"data: [DONE]\n\n"), "failed", UNAVAILABLE, "s"),
    moves(
        "aborts a whole answer",
        sends(answer({"choices": [{"finish_reason": "abort", "message": {"content": "half"}}]})),
        "failed",
        UNAVAILABLE,
        "w",
    ),
    moves("answers 404", says_error("404 No", INTERNALS), "not_served", UNAVAILABLE),
    moves("has no models loaded", says_error("400 Bad", f"No models loaded. {INTERNALS}"), "not_served", UNAVAILABLE),
    moves(
        "answers 200 to a route that it lacks",
        sends(answer({"error": "Unexpected endpoint or method. (POST /v1/x)"})),
        "not_served",
        UNAVAILABLE,
    ),
)

BEFORE = [*CONNECTION, *SILENCE, *FRAMING, *CONTENT, *ERRORS]
