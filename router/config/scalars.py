"""Scalars of the file: YAML 1.2's core types, and `${NAME}` from the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

# YAML 1.2, chapter 10.3.2 (core schema). 18 digits: what fits 64 bits for certain; longer ones become floats.
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_INT = re.compile(r"[-+]?[0-9]{1,18}", re.ASCII)
_BASED = re.compile(r"0o[0-7]{1,18}|0x[0-9a-fA-F]{1,15}", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,4})?", re.ASCII)
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_BODY = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)

Scalar = None | bool | int | float | str


class FromEnvironment(str):
    """Text that came (partly) from the environment: the key it stands at decides its type."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Replacement:
    """A scalar after `${…}`: its text, whether a variable was read, and what stood in the way."""

    text: str
    is_replaced: bool
    missing: tuple[str, ...]
    malformed: tuple[str, ...]


def interpreted(text: str) -> Scalar:
    """A plain scalar's value: null, a boolean, a number, or the text itself."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INT.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def is_null(value: object) -> bool:
    return value is None or (isinstance(value, FromEnvironment) and value in _NULL)


def replaced(text: str, env: Mapping[str, str]) -> Replacement:
    """Puts variables in: `${NAME}`, `${NAME:-default}` (unset or empty: the default), `$${` is a plain `${`."""
    missing: list[str] = []
    malformed: list[str] = []
    is_replaced = False

    def value_of(match: re.Match[str]) -> str:
        nonlocal is_replaced
        if match[0] == "$${":
            return "${"
        body = _BODY.fullmatch(match[1])
        if body is None or not match[2]:
            malformed.append(match[0])
            return match[0]
        is_replaced = True
        name, default = body[1], body[2]
        if default is not None:
            return env.get(name) or default
        if name not in env:
            missing.append(name)
        return env.get(name, match[0])

    text = _REFERENCE.sub(value_of, text)
    return Replacement(text, is_replaced, tuple(missing), tuple(malformed))
