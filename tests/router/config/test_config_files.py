"""The files that are shipped: every one checks, every key is documented, the schema says what the loader does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from router.config import load, loads
from router.config.pending import PENDING
from router.config.schema import BEGIN, END, json_schema, markdown
from router.config.shape import keys

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "configs").glob("*.yaml"))
REFERENCE = ROOT / "docs" / "configuration.md"


def test_the_files_of_the_path_from_lm_studio_to_vllm_are_there() -> None:
    names = {file.stem for file in FILES}
    assert names >= {"quickstart", "lmstudio-only", "shadow", "canary-5", "half", "vllm-only"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_checks_with_an_empty_environment(file: Path) -> None:
    loaded = load(file, {})
    assert "jane" in loaded.config.models
    assert all("not in effect" in notice.message for notice in loaded.notices)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_opens_with_what_it_is_for(file: Path) -> None:
    assert file.read_text().startswith("# ")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_takes_its_addresses_from_the_environment(file: Path) -> None:
    env = {"LMSTUDIO_URL": "http://studio:1", "VLLM_URL": "http://engine:2"}
    backends = load(file, env).config.backends
    assert {url for backend in backends.values() for url in backend.urls} <= set(env.values())


@pytest.mark.parametrize("key", list(keys()), ids=lambda key: key.path)
def test_every_key_is_documented_with_its_unit(key: Any) -> None:
    assert f"| `{key.path}` |" in REFERENCE.read_text()
    description = key.field.description or ""
    assert description.endswith((".", ")"))
    if key.name.endswith("_s") and not key.name.endswith("per_s"):
        assert "second" in description.lower()


def test_the_tables_of_the_reference_are_those_of_the_models() -> None:
    """Where this fails: put the output of `crossfade schema --markdown` between the two marks."""
    between = REFERENCE.read_text().partition(BEGIN)[2].partition(END)[0]
    assert between.strip() == markdown().strip()


def test_the_example_of_the_reference_is_valid() -> None:
    for block in REFERENCE.read_text().split("```yaml\n")[1:2]:
        loads(block.partition("```")[0], {})


def test_the_schema_describes_every_key() -> None:
    schema = json_schema()
    for name, section in schema["$defs"].items():
        for key, described in section.get("properties", {}).items():
            about = described.get("description") or schema["$defs"][described["$ref"].rpartition("/")[2]]["description"]
            assert about, f"{name}.{key}"
        if "properties" in section:
            assert section["additionalProperties"] is False, name
    assert {"ge", "gt", "le", "lt"}.isdisjoint(_names(schema))
    json.dumps(schema)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_schema_accepts_every_file_as_it_is_written(file: Path) -> None:
    schema = json_schema()
    assert _faults(schema, schema, YAML(typ="safe").load(file)) == []


def test_the_schema_refuses_what_the_loader_refuses() -> None:
    schema = json_schema()
    assert _faults(schema, schema, {"backends": {}, "models": {}, "servr": 1}) != []
    assert _faults(schema, schema, {"backends": {"a": {"kind": "vlm"}}, "models": {"m": {"on": {"a": 1}}}}) != []


@pytest.mark.parametrize("row", PENDING, ids=lambda row: row.key)
def test_what_is_not_in_effect_is_said_in_a_sentence(row: Any) -> None:
    assert row.instead.endswith(".")


def _names(node: Any) -> set[str]:
    if isinstance(node, dict):
        return set(node) | {name for value in node.values() for name in _names(value)}
    return {name for item in node for name in _names(item)} if isinstance(node, list) else set()


_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def _faults(root: dict[str, Any], schema: dict[str, Any], value: Any) -> list[str]:
    """The part of JSON Schema that an editor needs to underline keys and types."""
    if "$ref" in schema:
        return _faults(root, root["$defs"][schema["$ref"].rpartition("/")[2]], value)
    if "anyOf" in schema:
        return (
            [] if any(not _faults(root, option, value) for option in schema["anyOf"]) else [f"{value} fits no option"]
        )
    if "type" in schema and not isinstance(value, _TYPES[schema["type"]]):
        return [f"{value} is no {schema['type']}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{value} is none of {schema['enum']}"]
    found: list[str] = []
    if isinstance(value, dict) and schema.get("type") == "object":
        known = schema.get("properties", {})
        found += [f"{key} is missing" for key in schema.get("required", []) if key not in value]
        if schema.get("additionalProperties") is False:
            found += [f"{key} is unknown" for key in value if key not in known]
        for key, item in value.items():
            named = [*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")]
            inner = known.get(key) or next((option for option in named if option), None)
            found += _faults(root, inner, item) if isinstance(inner, dict) else []
    if isinstance(value, list):
        found += [fault for item in value for fault in _faults(root, schema.get("items", {}), item)]
    return found
