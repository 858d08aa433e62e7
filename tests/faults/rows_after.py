"""Faults after the first content: whole, carried on or ended by one error event; and streams that are odd but sound (B5, 3, 4, 7, 9-14)."""

from __future__ import annotations

from dataclasses import replace

from tests.faults.scripts import (
    CLOSES,
    COMMITTED,
    ROLE,
    drips_after,
    ends_after,
    error_event,
    repeats_after,
    resets_after,
    silent_after,
)
from tests.faults.stage import INTERNALS, SHORT_S, Told
from tests.faults.table import BROKEN, Row, joined, stays
from tests.upstream import END, STREAM_HEAD, Script, chunked, event, sends, stream

ONE, TWO = event({"content": "one "}), event({"content": "two "})
STOP, DONE = event({}, "stop"), b"data: [DONE]\n\n"
SOON = (SHORT_S - 0.01, SHORT_S + 2)
EURO = event({"content": "€"}).replace(b"\\u20ac", "€".encode())


def breaks(fault: str, plays: Script, told: Told = BROKEN) -> list[Row]:
    """A stream that ends with one error event, and goes nowhere else."""
    return list(stays(fault, plays, told, "stream_broken", "s"))


def hasty(fault: str, plays: Script) -> list[Row]:
    """The same, because nothing came in time."""
    told = Told(200, "one two", code="stream_broken", backend="hasty")
    return [Row(fault, plays, told, "hasty stream_broken", True, "hasty", takes_s=SOON)]


def whole(fault: str, *pieces: bytes, text: str = "one two") -> list[Row]:
    """A stream that is odd and sound."""
    return list(stays(fault, sends(*pieces), Told(200, text, backend="a"), "ok", "s"))


def sound(*events: bytes) -> tuple[bytes, ...]:
    """These bytes of events, each in a chunk of its own, as a whole message."""
    return (STREAM_HEAD, *map(chunked, events), END)


BREAKS = joined(
    breaks("is killed in mid-stream", resets_after(*COMMITTED)),
    breaks("resets in mid-chunk", resets_after(*COMMITTED, b"ff\r\ndata: {")),
    breaks("ends the connection in mid-stream", ends_after(*COMMITTED)),
    breaks("ends a stream that its close delimits, without finish_reason", ends_after(CLOSES, ROLE, ONE, TWO)),
    breaks("ends the message without finish_reason", sends(*COMMITTED, END)),
    breaks("says [DONE] without finish_reason", sends(*COMMITTED, chunked(DONE), END)),
    breaks("sends an error event", error_event(500, INTERNALS, *COMMITTED)),
    breaks("sends a refusal as an event", error_event(503, INTERNALS, *COMMITTED)),
    breaks("aborts", sends(*COMMITTED, chunked(event({}, "abort")), chunked(DONE), END)),
    breaks("sends malformed JSON", sends(*COMMITTED, chunked(b"data: {oops\n\n"), chunked(STOP), chunked(DONE), END)),
    breaks("sends a NUL", sends(*COMMITTED, chunked(b"data: {\0}\n\n"), END)),
    breaks("sends an event of over 1 MiB", sends(*COMMITTED, chunked(b"data: " + b"x" * 1_100_000), END)),
    breaks("sends a size of chunk that is no number", sends(*COMMITTED, b"xyz\r\n")),
    breaks("sends invalid UTF-8", sends(*COMMITTED, chunked(ONE.replace(b"one", b"\xff")), END)),
    hasty("stops in mid-stream", silent_after(*COMMITTED)),
    hasty("stops in mid-event", silent_after(*COMMITTED, chunked(ONE[:-5]))),
    hasty("sends comments only from then on", repeats_after(*COMMITTED, again=chunked(b": keep-alive\n\n"))),
    hasty("drips single bytes of an event", drips_after(*COMMITTED, dripped=event({"content": "x" * 500}))),
)

SOUND = joined(
    whole("ends with finish_reason and without [DONE]", *sound(ROLE, ONE, TWO, STOP)),
    whole("goes on after [DONE]", *sound(ROLE, ONE, TWO, STOP, DONE, event({"content": "ghost"}))),
    whole("ends its lines in CRLF", *sound(*(one.replace(b"\n", b"\r\n") for one in (ROLE, ONE, TWO, STOP, DONE)))),
    whole("ends its lines in CR", *sound(*(one.replace(b"\n", b"\r") for one in (ROLE, ONE, TWO, STOP, DONE)))),
    whole("mixes LF, CRLF and CR", *sound(ROLE[:-2] + b"\r\n\n", ONE[:-2] + b"\r\r", TWO[:-2] + b"\n\r\n", STOP, DONE)),
    whole("begins with a byte order mark", *sound(b"\xef\xbb\xbf" + ROLE, ONE, TWO, STOP, DONE)),
    whole("spreads data over two lines", *sound(ONE.replace(b',"choices"', b',\ndata: "choices"'), TWO, STOP, DONE)),
    whole("sends data: without a space", *sound(ONE.replace(b"data: ", b"data:"), TWO, STOP, DONE)),
    whole("sends comments, ids and retries between", *sound(b": x\n\nid: 1\nretry: 9\n\n" + ONE, b":\n\n", TWO, STOP, DONE)),
    whole("splits a character of several bytes", *sound(*(bytes([byte]) for byte in EURO), STOP), text="€"),
    whole("sends many events in one packet", *sound(ROLE + ONE + TWO + STOP + DONE)),
    whole("sends every byte in a chunk of its own", *sound(*(bytes([byte]) for byte in ONE + TWO + STOP + DONE))),
    stays("ends a stream that its close delimits, with finish_reason", ends_after(CLOSES, ONE, TWO, STOP), Told(200, "one two"), "ok", "s"),
)  # fmt: skip


def resumed(row: Row) -> Row:
    """The same break where a stream may be carried on: its client sees one whole answer, of both backends."""
    told = Told(200, "one two three", backend=row.told.backend)
    third = sends(*stream("one ", "two ", "three "))
    return replace(row, model=f"{row.model} resumed", told=told, tries=f"{row.tries}, b ok", b=third)


AFTER = [*BREAKS, *map(resumed, BREAKS), *SOUND]
