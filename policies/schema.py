"""Whether a JSON value satisfies a schema that a client made, for a bounded price: what would cost more is not judged.

The evaluation is jsonschema's. Around it stands what makes it fit for a schema and a value that strangers wrote, in one event loop
with everybody else's calls:

- Nothing is fetched: a `$ref` is a pointer into its own document and is resolved here, when the schema is first met.
- Work is counted, not timed: each keyword that is applied costs a unit (4 µs, measured) and what it has to look at; each error what
  its message cost. A judgement has MAX_WORK units, whatever it has to judge, and ends with NOT_JUDGED when they are used up.
- Regular expressions are charged with the steps that the worst string of that length would cost; those that nest repetitions, whose
  price cannot be told from their form, are not judged.
- Keywords that work outside the count (`unevaluated*`, `patternProperties`, dynamic references) are not judged, nor is OpenAPI's
  `nullable`, nor what is no schema in any draft from 6 on.

Worked numbers: a tool call with ten fields costs 14 units, a list of 100 objects with ten fields 1,400. A chain of 30 definitions that
each refer twice to the next stands for 2^30 steps, and is given up after MAX_WORK.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Any

import msgspec

from policies.pattern import Pattern, read_pattern

MAX_WORK = 5_000  # 20 ms (measured on hostile schemas): what an event loop may stand still for a judgement
MAX_SCHEMA_BYTES = 65_536  # the largest tool schemas of public agents are 20 KB
MAX_INSTANCE_BYTES = 131_072  # 30,000 tokens
MAX_KEPT_BYTES = 1_048_576  # of schemas that are kept ready; decoded they take ten times as much
MAX_NODES = 4_096
MAX_DEPTH = 48  # of schemas inside each other; jsonschema descends by recursion

# Where schemas stand inside a schema: one, a list of them, or by name.
_ONE = frozenset(
    {"additionalItems", "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then"}
)
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED = frozenset({"$defs", "definitions", "dependentSchemas", "properties"})
_FALSE_IS_CHEAP = frozenset(
    {"additionalItems", "additionalProperties", "items"}
)  # they say so once, for all that is too much
_COUNTS = frozenset(
    f"{least}{what}" for least in ("max", "min") for what in ("Contains", "Items", "Length", "Properties")
)
_NUMBERS = frozenset({"exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum"})
_NEVER = frozenset(
    {"$dynamicRef", "$recursiveRef", "$id", "$schema", "id", "nullable", "patternProperties"}
    | {"unevaluatedItems", "unevaluatedProperties"}
)
_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
_LATEST = "https://json-schema.org/draft/2020-12/schema"
_DIALECTS = {  # those before 2019 differ in nothing that is judged here
    _LATEST: "Draft202012Validator",
    "https://json-schema.org/draft/2019-09/schema": "Draft201909Validator",
    "http://json-schema.org/draft-07/schema": "Draft7Validator",
    "http://json-schema.org/draft-06/schema": "Draft7Validator",
}


class Fit(StrEnum):
    """What a judgement says."""

    FITS = "fits"
    MISFITS = "misfits"
    NOT_JUDGED = "not_judged"


class NotJudged(Exception):
    """The price is too high, or the schema is none that can be judged here."""


class Work:
    """What one judgement may still cost, in units of one keyword applied."""

    __slots__ = ("left",)

    def __init__(self, left: int = MAX_WORK):
        self.left = left

    def spend(self, units: int) -> None:
        """Raises NotJudged where there is not that much left."""
        self.left -= units
        if self.left < 0:
            raise NotJudged("the work for one answer is used up")


class Compiled:
    """A schema that was read: what its references point to, and the expressions that were met so far."""

    __slots__ = ("dialect", "patterns", "schema", "targets")

    def __init__(self, schema: Any, dialect: str, targets: Mapping[str, Any]):
        self.schema = schema
        self.dialect = dialect
        self.targets = targets
        self.patterns: dict[str, Pattern | None] = {}


class Schemas:
    """Judges values; keeps the schemas that were met last, because agents send the same tools with each call."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, Compiled | None] = OrderedDict()
        self.kept_bytes = 0
        self._classes: dict[str, Any] = {}
        self._work = Work()
        self._compiled: Compiled | None = None
        self._instance_bytes = 0

    def load(self) -> None:
        """Import what the first judgement would stand still for, 130 ms (measured)."""
        self._class(_DIALECTS[_LATEST])

    def fit(self, schema: bytes, instance: Any, instance_bytes: int, work: Work) -> tuple[Fit, str]:
        """Whether the decoded `instance`, which was `instance_bytes` of JSON, satisfies the JSON `schema`; and the keyword it fails of."""
        try:
            if instance_bytes > MAX_INSTANCE_BYTES:
                raise NotJudged("the value is too large")
            compiled = self._compile(schema, work)
            error = self._first_error(compiled, instance, instance_bytes, work)
        except (
            NotJudged,
            RecursionError,
            ArithmeticError,
            ValueError,
        ):  # the last two of integers that no float can hold
            return Fit.NOT_JUDGED, ""
        if error is None:
            return Fit.FITS, ""
        keyword = error.validator if isinstance(error.validator, str) else "false"
        return Fit.MISFITS, keyword

    def _first_error(self, compiled: Compiled, instance: Any, instance_bytes: int, work: Work) -> Any:
        import referencing

        self._work, self._compiled, self._instance_bytes = work, compiled, instance_bytes
        validator = self._class(compiled.dialect)(compiled.schema, registry=referencing.Registry())
        return next(validator.iter_errors(instance), None)

    # -- schemas that were met before --------------------------------------------------------------

    def _compile(self, schema: bytes, work: Work) -> Compiled:
        if schema in self._kept:
            self._kept.move_to_end(schema)
            compiled = self._kept[schema]
        else:
            compiled = self._keep(schema, work)
        if compiled is None:
            raise NotJudged("no schema that can be judged here")
        return compiled

    def _keep(self, schema: bytes, work: Work) -> Compiled | None:
        if len(schema) > MAX_SCHEMA_BYTES:
            raise NotJudged("the schema is too large")
        work.spend(len(schema) // 32)  # reading one takes 8 ms for MAX_SCHEMA_BYTES (measured)
        try:
            compiled = compile_schema(schema)
        except NotJudged:
            compiled = None
        self._kept[schema] = compiled
        self.kept_bytes += len(schema)
        while self.kept_bytes > MAX_KEPT_BYTES:
            oldest, _ = self._kept.popitem(last=False)
            self.kept_bytes -= len(oldest)
        return compiled

    # -- jsonschema, counted -----------------------------------------------------------------------

    def _class(self, name: str) -> Any:
        found = self._classes.get(name)
        if found is None:
            from jsonschema import validators

            base = getattr(validators, name)
            keywords = {**base.VALIDATORS, "$ref": self._referred, "pattern": self._matches, "multipleOf": _divides}
            keywords = {keyword: self._counted(keyword, inner) for keyword, inner in keywords.items()}
            found = self._classes[name] = validators.extend(base, keywords)
        return found

    def _counted(self, keyword: str, inner: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        looks_at = _LOOKS_AT.get(keyword, _at_one)

        def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
            work = self._work
            work.spend(looks_at(value, instance, self._instance_bytes))
            for error in inner(validator, value, instance, schema) or ():
                work.spend(1 + len(error.message) // 128)
                yield error

        return counted

    def _referred(self, validator: Any, ref: str, instance: Any, _schema: Any) -> Iterator[Any]:
        assert self._compiled is not None, "a reference is met while a schema is applied"
        yield from validator.descend(instance, self._compiled.targets[ref])

    def _matches(self, _validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[Any]:
        from jsonschema.exceptions import ValidationError

        if not isinstance(instance, str):
            return
        assert self._compiled is not None, "a pattern is met while a schema is applied"
        patterns = self._compiled.patterns
        if pattern not in patterns:
            self._work.spend(32 + len(pattern) // 4)  # compiling takes 100 µs and more (measured)
            patterns[pattern] = read_pattern(pattern)
        found = patterns[pattern]
        if found is None:
            raise NotJudged("an expression whose price cannot be told")
        self._work.spend(found.steps(len(instance)) // 64)
        if not found.expression.search(instance):
            yield ValidationError("a text that its pattern does not match")


def _divides(_validator: Any, step: float, instance: Any, _schema: Any) -> Iterator[Any]:
    """By the numbers as they are written: to jsonschema, which divides floats, 19.99 is no multiple of 0.01."""
    from jsonschema.exceptions import ValidationError

    if type(instance) in (int, float) and Decimal(repr(instance)) % Decimal(repr(step)):
        yield ValidationError("a number that is no multiple")


def _at_one(_value: Any, _instance: Any, _instance_bytes: int) -> int:
    return 1


def _at_list(value: Any, _instance: Any, _instance_bytes: int) -> int:
    return 1 + len(value) // 32


def _at_members(_value: Any, instance: Any, _instance_bytes: int) -> int:
    return 1 + len(instance) // 16 if isinstance(instance, (list, dict)) else 1


def _at_values(value: Any, instance: Any, instance_bytes: int) -> int:
    each = 1 + instance_bytes // 16 if isinstance(instance, (list, dict)) else 1
    return 1 + (len(value) if isinstance(value, list) else 1) * each // 8


def _at_pairs(value: Any, instance: Any, instance_bytes: int) -> int:
    if not value or not isinstance(instance, list):
        return 1
    if all(isinstance(item, str) for item in instance):
        return 1 + len(instance) // 4
    return 1 + len(instance) * (len(instance) + instance_bytes) // 16


# What a keyword looks at beyond the schemas that it applies, which are counted themselves: (its value, the instance, its bytes).
_LOOKS_AT: dict[str, Callable[[Any, Any, int], int]] = {
    "properties": _at_list,
    "required": _at_list,
    "dependentRequired": _at_list,
    "dependentSchemas": _at_list,
    "dependencies": _at_list,
    "additionalProperties": _at_members,
    "additionalItems": _at_members,
    "propertyNames": _at_members,
    "items": _at_members,
    "contains": _at_members,
    "enum": _at_values,
    "const": _at_values,
    "uniqueItems": _at_pairs,
}


def compile_schema(schema: bytes) -> Compiled:
    """Read a schema, and look whether every part of it is of the form that jsonschema's keywords take for granted. Raises NotJudged."""
    try:
        root = msgspec.json.decode(schema)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise NotJudged("no JSON") from exc
    dialect: Any = _LATEST
    if isinstance(root, dict):
        dialect = root.pop("$schema", _LATEST)
        root.pop("$id", None)  # the base of references that are not followed
    if not isinstance(dialect, str) or dialect.rstrip("#") not in _DIALECTS:
        raise NotJudged("another dialect")
    name = _DIALECTS[dialect.rstrip("#")]
    reading = _Reading(root, has_tuples=name != _DIALECTS[_LATEST])
    return Compiled(reading.root, name, reading.targets)


class _Reading:
    """One walk over a schema, the targets of its references included."""

    def __init__(self, root: Any, *, has_tuples: bool):
        """`has_tuples`: before 2020 `items` may be a list, of one schema for each place."""
        self.root = _NOTHING if root is False else root
        self._has_tuples = has_tuples
        self.targets: dict[str, Any] = {}
        self._open: list[tuple[Any, int]] = [(self.root, 0)]
        self._seen: set[int] = set()
        nodes = 0
        while self._open:
            node, depth = self._open.pop()
            nodes += 1
            if nodes > MAX_NODES or depth > MAX_DEPTH:
                raise NotJudged("the schema is too large, or too deep")
            if isinstance(node, dict):
                if id(node) not in self._seen:
                    self._seen.add(id(node))
                    self._read(node, depth + 1)
            elif not isinstance(node, bool):
                raise NotJudged("no schema")

    def _read(self, node: dict[str, Any], depth: int) -> None:
        for keyword in list(node):
            value = node[keyword]
            if keyword in _ONE:
                self._read_one(node, keyword, value, depth)
            elif keyword in _LISTS:
                self._read_list(value, depth)
            elif keyword in _NAMED:
                self._read_named(value, depth)
            elif keyword == "dependencies":
                self._read_dependencies(value, depth)
            elif keyword == "$ref":
                self._open.append((self._target(value), depth))
            elif keyword in _NEVER or not _is_sound(keyword, value):
                raise NotJudged("a keyword that is not judged, or has another form than it should")

    def _read_one(self, node: dict[str, Any], keyword: str, value: Any, depth: int) -> None:
        if keyword == "items" and isinstance(value, list) and self._has_tuples:
            self._read_list(value, depth)
        elif value is False and keyword not in _FALSE_IS_CHEAP:
            node[keyword] = _NOTHING
        else:
            self._open.append((value, depth))

    def _read_list(self, value: Any, depth: int) -> None:
        if not isinstance(value, list):
            raise NotJudged("no list of schemas")
        for place, schema in enumerate(value):
            if schema is False:
                value[place] = _NOTHING
            self._open.append((value[place], depth))

    def _read_named(self, value: Any, depth: int) -> None:
        if not isinstance(value, dict):
            raise NotJudged("no schemas by name")
        for name, schema in value.items():
            if schema is False:
                value[name] = _NOTHING
            self._open.append((value[name], depth))

    def _read_dependencies(self, value: Any, depth: int) -> None:
        if not isinstance(value, dict):
            raise NotJudged("no dependencies by name")
        self._read_named({name: each for name, each in value.items() if not _is_texts(each)}, depth)
        if False in value.values():
            raise NotJudged("a dependency that can never be met")

    def _target(self, ref: Any) -> Any:
        if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")) or "%" in ref:
            raise NotJudged("a reference to somewhere else")
        target = self.root
        for step in ref.split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and step in target:
                target = target[step]
            elif isinstance(target, list) and step.isdecimal() and int(step) < len(target):
                target = target[int(step)]
            else:
                raise NotJudged("a reference to nowhere")
        self.targets[ref] = _NOTHING if target is False else target
        return self.targets[ref]


# What nothing satisfies, in a form that is counted: jsonschema writes the whole value into a message for each `false` it meets.
_NOTHING: dict[str, Any] = {"not": {}}


def _is_sound(keyword: str, value: Any) -> bool:
    """Whether the value of a keyword that holds no schema is one; keywords that say nothing may have any."""
    if keyword in _COUNTS:
        return type(value) is int and value >= 0
    if keyword in _NUMBERS:
        return type(value) in (int, float)
    if keyword == "multipleOf":
        return type(value) in (int, float) and value > 0
    if keyword == "type":
        return all(each in _TYPES for each in value) if _is_texts(value) else isinstance(value, str) and value in _TYPES
    if keyword == "required":
        return _is_texts(value)
    if keyword == "dependentRequired":
        return isinstance(value, dict) and all(_is_texts(each) for each in value.values())
    if keyword == "enum":
        return isinstance(value, list)
    if keyword == "uniqueItems":
        return isinstance(value, bool)
    return isinstance(value, str) if keyword == "pattern" else True


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)
