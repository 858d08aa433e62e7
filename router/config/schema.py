"""The configuration for readers: as JSON Schema for editors, as Markdown tables for people."""

from __future__ import annotations

import json
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from router.config.root import Config
from router.config.shape import Key, keys

BEGIN, END = "<!-- keys: begin -->", "<!-- keys: end -->"

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_FROM_ENVIRONMENT = {"type": "string", "pattern": r"\$\{", "description": "${NAME} or ${NAME:-default}"}
_TYPED = frozenset({"integer", "number", "boolean"})


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the file as it is written: every typed value may also be `${NAME}`."""
    schema = _with_environment(Config.model_json_schema(by_alias=True))
    schema["$defs"]["FromEnvironment"] = _FROM_ENVIRONMENT
    return {"$schema": _DRAFT, **schema, "title": "Crossfade configuration"}


def _with_environment(node: Any) -> Any:
    if isinstance(node, list):
        return [_with_environment(item) for item in node]
    if not isinstance(node, dict):
        return node
    result = {
        key: value if key in ("default", "enum") else _with_environment(value)
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str))  # made from the key's name: says nothing
    }
    if result.get("type") in _TYPED or "enum" in result or "pattern" in result:
        about = {key: result.pop(key) for key in ("description", "default") if key in result}
        return {"anyOf": [result, {"$ref": "#/$defs/FromEnvironment"}], **about}
    return result


def markdown() -> str:
    """A table for each section, a row for each key: its path, its default, its meaning."""
    tables: list[str] = []
    last: type[BaseModel] | None = None
    for prefix, rows in _sections():
        section = rows[0].section
        heading = f"### `{prefix.rstrip('.')}`" if prefix else "### The file"
        about = (section.__doc__ or "").split("\n")[0] if section is not last else ""
        lines = [heading, "", about, "", "| key | default | meaning |", "| --- | --- | --- |"]
        lines += [f"| `{row.path}` | {_default(row)} | {_meaning(row.field)} |" for row in rows]
        tables.append("\n".join(lines))
        last = section
    return "\n\n".join(tables) + "\n"


def _sections() -> list[tuple[str, list[Key]]]:
    groups: dict[str, list[Key]] = {}
    for key in keys():
        groups.setdefault(key.path.removesuffix(key.name), []).append(key)
    return list(groups.items())


def _default(key: Key) -> str:
    field = key.field
    if field.is_required():
        return "required"
    if key.is_section and isinstance(_value(field), BaseModel):
        return "see below"
    value = _value(field)
    if value in (None, {}):
        return "–"
    if isinstance(value, tuple) and any(isinstance(item, BaseModel) for item in value):
        return "see there"
    return f"`{_cell(json.dumps(value, ensure_ascii=False))}`"


def _meaning(field: FieldInfo) -> str:
    is_choice = get_origin(field.annotation) is Literal
    choices = f" One of {', '.join(f'`{choice}`' for choice in get_args(field.annotation))}." if is_choice else ""
    return _cell(f"{field.description or ''}{choices}")


def _value(field: FieldInfo) -> Any:
    """The default, or None where it is made from other keys."""
    return None if field.default_factory_takes_validated_data else field.get_default(call_default_factory=True)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
