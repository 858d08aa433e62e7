"""Schemas that strangers made: what they say, and that judging by them has a price that is known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.pattern import read_pattern
from policies.schema import MAX_KEPT_BYTES, MAX_SCHEMA_BYTES, MAX_WORK, Fit, Schemas, Work

SCHEMAS = Schemas()
DRAFT_7 = "http://json-schema.org/draft-07/schema#"
LATEST = "https://json-schema.org/draft/2020-12/schema"


def judged(schema: Any, value: Any, work: Work | None = None) -> Fit:
    raw = json.dumps(schema).encode()
    return SCHEMAS.fit(raw, value, len(json.dumps(value)), work or Work())[0]


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
    "additionalProperties": False,
}
TREE = {"properties": {"left": {"$ref": "#"}, "value": {"type": "integer"}}, "required": ["value"]}
DEFINED = {"$defs": {"a/b": {"type": "integer"}}, "items": {"$ref": "#/$defs/a~1b"}}
ROWS: list[tuple[str, Any, Any, Fit]] = [
    ("an object that fits", PERSON, {"name": "x"}, Fit.FITS),
    ("one that lacks a field", PERSON, {}, Fit.MISFITS),
    ("one that has another", PERSON, {"name": "x", "age": 5}, Fit.MISFITS),
    ("a union", {"anyOf": [{"type": "null"}, {"type": "string"}]}, "x", Fit.FITS),
    ("none of a union", {"anyOf": [{"type": "null"}, {"type": "string"}]}, 5, Fit.MISFITS),
    ("a recursive schema", TREE, {"value": 1, "left": {"value": 2}}, Fit.FITS),
    ("a fault deep inside a recursive schema", TREE, {"value": 1, "left": {"left": {}, "value": 2}}, Fit.MISFITS),
    ("a definition", DEFINED, [1, 2], Fit.FITS),
    ("not of a definition", DEFINED, [1, "2"], Fit.MISFITS),
    ("of an enum", {"enum": ["a", "b"]}, "b", Fit.FITS),
    ("not of an enum", {"enum": ["a", 1]}, True, Fit.MISFITS),
    ("true takes anything", True, 5, Fit.FITS),
    ("false takes nothing", False, 5, Fit.MISFITS),
    ("a field that may not be there", {"properties": {"x": False}}, {"x": 1}, Fit.MISFITS),
    ("the dialect that most libraries write", {"$schema": DRAFT_7, **PERSON}, {}, Fit.MISFITS),
    ("the latest dialect", {"$schema": LATEST, "$id": "https://example.com/x", **PERSON}, {}, Fit.MISFITS),
    ("a tuple before 2020", {"$schema": DRAFT_7, "items": [{"type": "string"}]}, [1], Fit.MISFITS),
    ("a tuple since 2020", {"prefixItems": [{"type": "string"}]}, [1], Fit.MISFITS),
    ("items that repeat", {"uniqueItems": True}, ["a", "b", "a"], Fit.MISFITS),
    ("a format is a remark", {"format": "date"}, "tomorrow", Fit.FITS),
    ("a date by its pattern", {"pattern": r"^\d{4}-\d{2}-\d{2}$"}, "2026-11-22", Fit.FITS),
    ("not the end of the text", {"pattern": r"^\d{4}$"}, "2026\n", Fit.MISFITS),
    ("a price in cents", {"multipleOf": 0.01}, 19.99, Fit.FITS),
    ("a price between two cents", {"multipleOf": 0.01}, 19.995, Fit.MISFITS),
    ("of a step that is a float", {"multipleOf": 2.0}, 5, Fit.MISFITS),
    ("a text is no multiple, and need not be", {"multipleOf": 2}, "x", Fit.FITS),
    ("more steps than can be counted", {"multipleOf": 1e-300}, 1e300, Fit.NOT_JUDGED),
    ("a number has no pattern", {"pattern": "^a$"}, 5, Fit.FITS),
    ("a remark that no draft knows", {"x-order": [1], "example": {"$ref": 5}, "type": "string"}, "x", Fit.FITS),
]


@pytest.mark.parametrize(("schema", "value", "fit"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_what_a_schema_says(schema: Any, value: Any, fit: Fit) -> None:
    assert judged(schema, value) is fit


UNJUDGED: Mapping[str, Any] = {
    "a reference to a server": {"$ref": "http://127.0.0.1:1/schema.json"},
    "a reference to a file": {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
    "a reference to a known dialect": {"$ref": DRAFT_7},
    "a reference by name": {"$ref": "#name"},
    "a reference to nowhere": {"$ref": "#/$defs/none"},
    "a reference into a list, beyond its end": {"allOf": [{}], "$ref": "#/allOf/7"},
    "a reference to what is no schema": {"x": 5, "$ref": "#/x"},
    "a reference that is no text": {"$ref": 5},
    "a dynamic reference": {"$dynamicRef": "#x"},
    "a base of its own further down": {"properties": {"a": {"$id": "http://x/", "$ref": "#/b"}}},
    "a dialect of its own further down": {"properties": {"a": {"$schema": DRAFT_7}}},
    "another dialect": {"$schema": "https://example.com/mine"},
    "a dialect that is no text": {"$schema": 5},
    "OpenAPI's nullable": {"type": "string", "nullable": True},
    "properties by pattern": {"patternProperties": {"(a+)+$": {}}},
    "what is left over": {"unevaluatedProperties": False},
    "an unknown type": {"type": "text"},
    "a type that is no text": {"type": 5},
    "required as a flag, as in draft 3": {"properties": {"a": {"required": True}}},
    "a limit that is a text": {"minimum": "5"},
    "a length below nothing": {"minLength": -1},
    "a multiple of nothing": {"multipleOf": 0},
    "properties in a list": {"properties": []},
    "a union that is none": {"anyOf": {}},
    "a tuple since 2020 as it was before": {"items": [{}]},
    "an enum that is none": {"enum": 5},
    "a schema that is none": {"not": 5},
    "a list": [],
}


@pytest.mark.parametrize("schema", UNJUDGED.values(), ids=UNJUDGED)
def test_what_is_not_judged(schema: Any) -> None:
    values: list[Any] = ["a" * 30, 5, {"a": {}}, [{}], None]
    for value in values:
        assert judged(schema, value) is Fit.NOT_JUDGED


def test_what_is_no_json_is_not_judged() -> None:
    assert SCHEMAS.fit(b'{"type":', 5, 1, Work())[0] is Fit.NOT_JUDGED
    assert SCHEMAS.fit(b"[" * 10_000, 5, 1, Work())[0] is Fit.NOT_JUDGED


@pytest.mark.parametrize("value", [10**400, 10**4_999], ids=["too large for a float", "too long to be written"])
def test_numbers_beyond_what_can_be_reckoned_with_are_not_judged(value: int) -> None:
    schema = json.dumps({"multipleOf": 0.1, "maximum": 5}).encode()
    assert SCHEMAS.fit(schema, value, 5_000, Work())[0] is Fit.NOT_JUDGED


def chain(keyword: str, links: int) -> Any:
    """Definitions of which each refers twice to the next: 2^links steps."""
    definitions: dict[str, Any] = {
        f"d{link}": {keyword: [{"$ref": f"#/$defs/d{link + 1}"}] * 2} for link in range(links)
    }
    return {"$defs": {**definitions, f"d{links}": {"type": "integer"}}, "$ref": "#/$defs/d0"}


NUMBERS = list(range(20_000))
ENUM = [[*NUMBERS[:98], -place] for place in range(80)]
NAMES = {f"k{place}": place for place in range(8_000)}
# (a schema, a value): each would take seconds, or for ever.
HOSTILE: Mapping[str, tuple[Any, Any]] = {
    "a chain of anyOf": (chain("anyOf", 20), "x"),
    "a chain of oneOf": (chain("oneOf", 20), "x"),
    "a chain of allOf": (chain("allOf", 20), 5),
    "a schema that refers to itself": ({"allOf": [{"$ref": "#"}]}, 5),
    "two that refer to each other": ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, 5),
    "a long union, and a long list to write into each message": ({"anyOf": [{"type": "integer"}] * 2_000}, NUMBERS),
    "a long union of nothing, and a long text": ({"anyOf": [False] * 2_000}, "x" * 100_000),
    "a long union of what it is not, and a long text": ({"anyOf": [{"not": {"type": "string"}}] * 1_000}, "x" * 100_000),
    "no long list of what nothing is not, and a long text": ({"allOf": [{"not": False}] * 1_000}, "x" * 100_000),
    "long lists in a long enum": ({"$defs": {"d": {"enum": ENUM}}, "allOf": [{"$ref": "#/$defs/d"}] * 40}, ENUM[-1]),
    "lists that must all differ": ({"uniqueItems": True}, [{"a": number} for number in NUMBERS[:4_000]]),
    "a schema for each of many": ({"additionalProperties": {"anyOf": [{"type": "null"}, {"type": "integer"}]}}, NAMES),
    "what each of a long list might be": ({"allOf": [{"contains": {"type": "string"}}] * 200}, NUMBERS),
    "a repetition inside a repetition": ({"pattern": "^(a+)+$"}, "a" * 30 + "b"),
    "a repetition of choices": ({"pattern": "^(a|a)*$"}, "a" * 30 + "b"),
    "many repetitions": ({"pattern": "^a*a*a*a*b$"}, "a" * 1_000),
    "many choices": ({"pattern": "a?" * 40 + "a" * 40}, "a" * 40),
    "an expression that is searched for everywhere": ({"pattern": "a*b"}, "a" * 100_000),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE.values(), ids=HOSTILE)
def test_what_would_cost_too_much_is_given_up(case: tuple[Any, Any]) -> None:
    work = Work()
    assert judged(*case, work) is Fit.NOT_JUDGED


class Counting(Work):
    """Work without a bound, to see what a judgement would have cost."""

    def spend(self, units: int) -> None:
        self.left -= units


@pytest.mark.parametrize("links", [1, 2, 4, 8])
def test_work_is_counted_as_it_grows(links: int) -> None:
    """The count sees each of the 2^n steps of a chain, so a bound on it is one on them."""
    work = Counting()
    assert judged(chain("allOf", links), 5, work) is Fit.FITS
    assert MAX_WORK - work.left >= 2**links


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=10,
)
LEAVES = st.sampled_from(
    [True, False, {}, {"type": "integer"}, {"type": ["string", "null"]}, {"minLength": 2}, {"enum": [1, "a", [1]]},
     {"const": {"a": 1}}, {"uniqueItems": True}, {"pattern": "^a+b?$"}, {"required": ["a"]}, {"$ref": "#"},
     {"$ref": "#/$defs/d"}, {"maximum": 2}]
)  # fmt: skip
NODES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda key, each: {key: each}, st.sampled_from(["anyOf", "oneOf", "allOf", "prefixItems"]),
                  st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda key, each: {key: each},
                  st.sampled_from(["not", "items", "contains", "additionalProperties", "propertyNames", "if", "then"]), inner),
        st.builds(lambda each: {"properties": {"a": each}}, inner),
        st.builds(lambda one, two: {**one, **two}, inner.filter(lambda i: isinstance(i, dict)),
                  inner.filter(lambda i: isinstance(i, dict))),
    ),
    max_leaves=8,
)  # fmt: skip


@given(NODES, NODES, VALUES)
def test_any_schema_is_judged_within_the_bound_or_not_at_all(root: Any, definition: Any, value: Any) -> None:
    """No schema of sound form raises, and none is applied more often than the bound allows."""
    schema = {"$defs": {"d": definition}, **(root if isinstance(root, dict) else {"allOf": [root]})}
    work = Work()
    fit = judged(schema, value, work)
    assert fit is Fit.NOT_JUDGED or work.left >= 0


KEYWORDS = (
    "type", "properties", "items", "$ref", "enum", "anyOf", "pattern", "required", "not", "dependencies", "dependentRequired",
    "uniqueItems", "minLength", "$defs", "$schema", "a",
)  # fmt: skip
NONSENSE = st.recursive(
    st.sampled_from([None, True, 1, -1, "#", "string", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=3),
    max_leaves=12,
)


@given(NONSENSE, VALUES)
def test_nothing_that_claims_to_be_a_schema_raises(schema: Any, value: Any) -> None:
    assert judged(schema, value) in Fit


def test_schemas_that_were_met_are_kept_within_a_bound() -> None:
    schemas = Schemas()
    again = Work()
    first = json.dumps({"title": "x" * 60_000, "type": "string"}).encode()
    assert len(first) < MAX_SCHEMA_BYTES
    for _ in range(2):
        again = Work()
        assert schemas.fit(first, "x", 1, again)[0] is Fit.FITS
    assert MAX_WORK - again.left == 1, "it was not read a second time"
    for number in range(40):
        schemas.fit(json.dumps({"title": f"{number}" * 30_000}).encode(), "x", 1, Work())
    assert schemas.kept_bytes <= MAX_KEPT_BYTES
    assert schemas.fit(b"{" + b" " * MAX_SCHEMA_BYTES + b"}", "x", 1, Work())[0] is Fit.NOT_JUDGED


SIMPLE = [
    r"^[A-Z]{2}-\d{4}$",
    r"^[^@]+@[^@]+\.[a-z]+$",
    "^(red|green|blue)$",
    r"\w+",
    "^(?:v)?[0-9.]+$",
    r"^#[0-9a-fA-F]{6}$",
    "",
]
COMPLEX = [
    r"(a+)+",
    "(a|b)*",
    r"(?=x)",
    r"\p{L}",
    r"(a)\1",
    "[[a]",
    "[z-a]",
    "a{1000}",
    "(",
    "(?<n>a)",
    "a++",
    "[a&&b]",
    "x" * 2_000,
]


@pytest.mark.parametrize("source", SIMPLE)
def test_expressions_whose_price_can_be_told(source: str) -> None:
    found = read_pattern(source)
    assert found is not None
    assert found.steps(10) < 1_000_000


@pytest.mark.parametrize("source", COMPLEX)
def test_expressions_whose_price_cannot_be_told(source: str) -> None:
    assert read_pattern(source) is None


def test_the_price_of_an_expression_grows_with_its_choices() -> None:
    def steps(source: str) -> int:
        found = read_pattern(source)
        assert found is not None
        return found.steps(9)

    assert [steps(source) for source in ("^a$", "^a*$", "^a*a*$", "a*", "^a?$", "^a{2,4}$", "^a$|^b$", "^(a|b)$")] == [
        4, 4 * 10, 5 * 100, 2 * 100, 4 * 2, 4 * 3, 8 * 2 * 10, 8 * 2
    ]  # fmt: skip
