"""What is logged, one record a line: nobody can forge a record, reach the terminal, or end a line early."""

from __future__ import annotations

import logging

import pytest

from router.logs import OneRecord

FORMAT = OneRecord("%(levelname)s %(name)s %(message)s")


def formatted(message: str, *args: object, error: BaseException | None = None) -> str:
    info = (type(error), error, error.__traceback__) if error is not None else None
    return FORMAT.format(logging.LogRecord("crossfade", logging.WARNING, "x.py", 1, message, args, info))


FORGED: list[tuple[str, str, str]] = [
    ("a line feed", "a\nERROR crossfade all is lost", "a\\nERROR crossfade all is lost"),
    ("a carriage return", "a\rb", "a\\u000db"),
    ("both", "a\r\nb", "a\\u000d\\nb"),
    ("a colour", "\x1b[31mred", "\\u001b[31mred"),
    ("a control sequence of one byte", "\x9b31mred", "\\u009b31mred"),
    ("a bell and a backspace", "\x07\x08", "\\u0007\\u0008"),
    ("NUL", "\0", "\\u0000"),
    ("a tab", "\t", "\\u0009"),
    ("Unicode's own line ends", "a\u2028b\u2029c\x85d", "a\\u2028b\\u2029c\\u0085d"),
    ("text that is turned around", "\u202eevil\u2066", "\\u202eevil\\u2066"),
    ("half a character", "\udc80", "\\udc80"),
    ("formats", "%s %n {} {0.__class__} ${jndi:x}", "%s %n {} {0.__class__} ${jndi:x}"),
    ("words of any language", "größe 漢字", "größe 漢字"),
]


@pytest.mark.parametrize(("said", "logged"), [row[1:] for row in FORGED], ids=[row[0] for row in FORGED])
def test_what_was_said_stays_in_its_line(said: str, logged: str) -> None:
    assert formatted("%s", said) == f"WARNING crossfade {logged}"


def test_no_line_of_a_traceback_can_be_taken_for_a_record() -> None:
    try:
        raise ValueError("no\n2026-01-01 00:00:00,000 ERROR crossfade forged\x1b[31m")
    except ValueError as caught:
        first, *rest = formatted("a call failed", error=caught).split("\n")
    assert first == "WARNING crossfade a call failed"
    assert rest and all(line.startswith("    | ") for line in rest)
    assert "\x1b" not in "".join(rest) and "forged" in rest[-1]
