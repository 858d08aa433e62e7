"""Regular expressions that strangers wrote: taken where their worst price can be told from their form, and then with that price.

An engine that backtracks tries, at worst, every combination of the choices that an expression leaves: each repetition may stop at any
of as many places as the text has, each `?` and each `|` is a choice of two. As long as no repetition stands inside another, the product of
these choices bounds the steps; where one does, `(a+)+`, it does not, and the expression is not taken.

    ^[A-Z]{2}-\\d{4}$        one way: a step for each part
    ^[^@]+@[^@]+\\.[a-z]+$   three repetitions: at most (length + 1)^3 ways, 30,000 for 30 characters
    ^(red|green|blue)$      two choices of two

What a schema means is ECMA 262: `$` is the very end, and `\\d`, `\\w` are of ASCII.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_CHARS = 1_000  # of an expression; compiling one takes a microsecond a character (measured)
MAX_WAYS = 1_000_000
MAX_REPETITIONS = 8  # a text of four characters leaves as many ways as MAX_WAYS
_ESCAPE = r"\\[dDwWsSnrt\\.\[\](){}|*+?^$/\-]"
# Between brackets nothing that another reader would take for a set inside a set.
_CLASS = rf"\[\^?(?:[^\[\]\\&~|-]|&(?!&)|~(?!~)|\|(?!\|)|-(?!-)|{_ESCAPE})+\]"
_PART = re.compile(
    rf"(?P<atom>{_ESCAPE}|{_CLASS}|[^\\\[\](){{}}|*+?^$])(?P<times>[*+?]|\{{(?P<least>\d{{1,3}})(?P<to>,(?P<most>\d{{0,3}}))?\}})?\??+(?![*+?{{])"
    r"|(?P<open>\((?:\?:)?)|(?P<close>\))(?P<maybe>\?)?(?![*+?{])|(?P<either>\|)|(?P<start>\^)|(?P<end>\$)"
)


@dataclass(frozen=True, slots=True)
class Pattern:
    """An expression that was taken. `ways` and `repetitions`: its choices, those that do not grow with the text, and those that do."""

    expression: re.Pattern[str]
    parts: int
    ways: int
    repetitions: int

    def steps(self, chars: int) -> int:
        """The most steps that a search in a text of so many characters can take."""
        ways: int = (chars + 1) ** self.repetitions
        return self.parts * self.ways * ways


def read_pattern(source: str) -> Pattern | None:
    """The expression; None where its price cannot be told, or where it is none."""
    if len(source) > MAX_CHARS:
        return None
    position, depth, parts, ways, repetitions = 0, 0, 0, 1, 0
    is_anchored = source.startswith("^")
    written = []
    while position < len(source):
        part = _PART.match(source, position)
        if part is None or part.end() == position:
            return None
        position = part.end()
        parts += 1
        depth += (part["open"] is not None) - (part["close"] is not None)
        if part["either"] is not None:
            ways *= 2
            is_anchored = is_anchored and depth > 0
        more_ways, grows = _choices(part)
        ways *= more_ways
        repetitions += grows
        if ways > MAX_WAYS or repetitions > MAX_REPETITIONS:
            return None
        written.append(r"\Z" if part["end"] is not None else part[0])
    try:
        expression = re.compile("".join(written), re.ASCII)
    except (re.error, OverflowError, RecursionError):
        return None
    return Pattern(expression, parts + 1, ways, repetitions + (not is_anchored))


def _choices(part: re.Match[str]) -> tuple[int, bool]:
    """How many ways one part leaves, and whether it leaves as many as the text is long."""
    times = part["times"]
    if times == "?" or part["maybe"] is not None:
        return 2, False
    if times is None:
        return 1, False
    if times in "*+" or part["most"] == "":
        return 1, True
    least = int(part["least"])
    most = int(part["most"]) if part["to"] is not None else least
    return max(1, most - least + 1), False
