"""What pydantic found, in sentences: the value, what it should be, and the remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from router.config.problems import Finding, KeyPath, dotted, shown
from router.config.shape import field_of, keys, section_at

_SECRET_ENDINGS = ("_env",)  # people paste the secret itself where its variable's name belongs
_SECRET_PATHS = ("store.url", "webhooks")

_QUOTED = re.compile("'([^']*)'")

_Expectation = Callable[[Mapping[str, Any]], str]

# pydantic's error types -> what the key needs. A type that is missing here keeps pydantic's own words.
_EXPECTED: Mapping[str, _Expectation] = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), lambda _: "a whole number is needed"),
    "int_parsing_size": lambda _: "it is too large",
    **dict.fromkeys(("float_type", "float_parsing"), lambda _: "a number is needed"),
    "finite_number": lambda _: "a finite number is needed",
    **dict.fromkeys(("bool_type", "bool_parsing"), lambda _: "true or false is needed"),
    **dict.fromkeys(("string_type", "string_unicode"), lambda _: "text is needed"),
    **dict.fromkeys(("tuple_type", "list_type"), lambda _: "a list is needed"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), lambda _: "a mapping of keys is needed"),
    "literal_error": lambda ctx: f"it must be {ctx['expected']}",
    "greater_than": lambda ctx: f"it must be more than {_plain(ctx['gt'])}",
    "greater_than_equal": lambda ctx: f"it must be at least {_plain(ctx['ge'])}",
    "less_than": lambda ctx: f"it must be less than {_plain(ctx['lt'])}",
    "less_than_equal": lambda ctx: f"it must be at most {_plain(ctx['le'])}",
    "too_short": lambda _: "at least one entry is needed",
    "string_too_short": lambda _: "it must not be empty",
    "string_too_long": lambda ctx: f"it must have at most {ctx['max_length']} characters",
}


def findings(errors: Iterable[ErrorDetails]) -> list[Finding]:
    """pydantic's errors as findings; a default that could not be made follows from another error, and is none."""
    return [_finding(error) for error in errors if error["type"] != "default_factory_not_called"]


def _finding(error: ErrorDetails) -> Finding:
    path: KeyPath = tuple(part for part in error["loc"] if part != "[key]")
    kind, ctx, given = error["type"], error.get("ctx", {}), error["input"]
    if kind == "crossfade":
        return Finding(path, ctx["message"], ctx["remedy"])
    if kind == "extra_forbidden":
        return Finding(path, "is not a key of the configuration.", unknown_key_remedy(path))
    if kind == "missing":
        return Finding(path, "is missing.", _add_it(path))
    expected = _EXPECTED.get(kind)
    needs = expected(ctx) if expected else error["msg"]
    value = "of the wrong kind" if _is_secret(path) else shown(given)
    return Finding(path, f"is {value}; {needs}.", _remedy(path, kind, given, ctx))


def unknown_key_remedy(path: KeyPath) -> str:
    """Where the unknown key may have been meant to stand."""
    name, section = str(path[-1]), section_at(path[:-1])
    known = _names(section) if section is not None else []
    near = did_you_mean(name, known)
    if near:
        return near
    elsewhere = [key.path for key in keys() if key.name == name]
    if elsewhere:
        return f"It belongs at {' or '.join(elsewhere[:3])}."
    return f"Remove it; known here are {', '.join(known)}." if known else "Remove it."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question that names the nearest known name, or "" if none is near."""
    candidates = list(known)
    folded = {candidate.lower().replace("-", "_"): candidate for candidate in candidates}
    near = difflib.get_close_matches(name.lower().replace("-", "_")[:100], folded, n=1, cutoff=0.6)
    return f"Did you mean `{folded[near[0]]}`?" if near else ""


def _names(section: type[BaseModel]) -> list[str]:
    return [field.alias or key for key, field in section.model_fields.items()]


def _add_it(path: KeyPath) -> str:
    section = section_at(path[:-1])
    field = field_of(section, path[-1]) if section is not None else None
    meaning = f" {field.description}" if field is not None and field.description else ""
    return f"Add {dotted(path[-1:])}:{meaning}"


def _remedy(path: KeyPath, kind: str, given: object, ctx: Mapping[str, Any]) -> str:
    name = next((str(part) for part in reversed(path) if isinstance(part, str)), "")
    if kind == "literal_error":
        return did_you_mean(str(given), _QUOTED.findall(ctx["expected"])) or "Choose one of these."
    if kind == "string_type" and isinstance(given, bool | int | float):
        return f'Put it in quotes: "{str(given).lower()}".'
    if kind in ("tuple_type", "list_type"):
        return "Write it as [first, second]." if isinstance(given, dict) or given is None else "Put it in [ ]."
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return _mapping_remedy(path)
    if kind.startswith(("int_", "float_")) and name.endswith("_s"):
        return "Write seconds as a number, such as 30."
    if kind.startswith("less_than") and name.endswith("_s"):
        return "The unit is seconds; correct the number."
    if kind == "less_than_equal" and ctx.get("le") == 1:
        return "A share is a fraction: 5 % is 0.05."
    return "Correct the value."


def _mapping_remedy(path: KeyPath) -> str:
    section = section_at(path)
    return f"Keys of it are {', '.join(_names(section)[:6])}." if section is not None else "Write it as NAME: VALUE."


def _is_secret(path: KeyPath) -> bool:
    text = dotted(path)
    return text.endswith(_SECRET_ENDINGS) or any(part in text for part in _SECRET_PATHS)


def _plain(number: object) -> str:
    return f"{number:.15g}" if isinstance(number, float) else str(number)
