"""What is wrong with a configuration: one sentence a problem, with its place and its remedy."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

KeyPath = tuple[str | int, ...]

_BARE = re.compile(r"[A-Za-z0-9_/:@-]+")  # what may stand in a dotted path without quotes
_SHOWN_CHARS = 60  # of a value in a message: enough to recognise it, short enough for one line


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault at a key: `message` reads on from the key's name, `remedy` is a sentence of its own."""

    path: KeyPath
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A finding with its place. `line` counts from 1; 0 is the file as a whole, `key` "" likewise."""

    file: str
    line: int
    key: str
    message: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.message} {self.remedy}".rstrip()


class ConfigInvalid(Exception):
    """The configuration cannot be used; every problem that could be found, in the order of the file."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def dotted(path: KeyPath) -> str:
    """The path as it is written in messages: `models.jane.rules[0].use`; odd names stand in quotes."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        name = part if _BARE.fullmatch(part) else shown(part)
        text += f".{name}" if text else name
    return text


def shown(value: object) -> str:
    """A value as it appears in a message: one line, printable, shortened."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "empty"
    text = json.dumps(value, ensure_ascii=not str(value).isprintable(), default=str)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"
