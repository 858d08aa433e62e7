"""The shape of the configuration, read off its models: which keys there are, where, and what they mean."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from router.config.problems import KeyPath
from router.config.root import Config


@dataclass(frozen=True, slots=True)
class Key:
    """One key: `path` is its dotted pattern (`models.*.timeouts.total_s`), `section` the class that holds it."""

    path: str
    name: str
    section: type[BaseModel]
    field: FieldInfo

    @property
    def is_section(self) -> bool:
        return _inside(self.field.annotation)[0] is not None


def keys(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[Key]:
    """Every key of the configuration, parents before children, in the order of the file."""
    for attribute, field in section.model_fields.items():
        name = field.alias or attribute
        path = f"{prefix}{name}"
        yield Key(path, name, section, field)
        inner, suffix = _inside(field.annotation)
        if inner is not None:
            yield from keys(inner, f"{path}{suffix}.")


def section_at(path: KeyPath) -> type[BaseModel] | None:
    """The class that describes the mapping at this path; None where keys are free or there is no mapping."""
    section: type[BaseModel] | None = Config
    entry_of: type[BaseModel] | None = None
    for part in path:
        if entry_of is not None:  # a name of the operator's choice, or a place in a list
            section, entry_of = entry_of, None
            continue
        field = field_of(section, part) if section is not None else None
        if field is None:
            return None
        inner, suffix = _inside(field.annotation)
        section, entry_of = (None, inner) if suffix else (inner, None)
    return section


def field_of(section: type[BaseModel], name: str | int) -> FieldInfo | None:
    return next((field for key, field in section.model_fields.items() if (field.alias or key) == name), None)


def _inside(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """The section inside a key's type, and how its path goes on: "" itself, ".*" by name, "[]" by place."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    base, inner = get_origin(annotation), get_args(annotation)
    if base in (Union, types.UnionType):
        return next((found for found in map(_inside, inner) if found[0] is not None), (None, ""))
    if base is dict:
        return _inside(inner[1])[0], ".*"
    if base is tuple and len(inner) == 2 and inner[1] is Ellipsis:
        return _inside(inner[0])[0], "[]"
    return None, ""
