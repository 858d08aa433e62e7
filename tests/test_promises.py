"""Every promise of docs/reliability.md names the tests that hold it, and those exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.documents import section, table

ROOT = Path(__file__).parents[1]
RELIABILITY = (ROOT / "docs" / "reliability.md").read_text()
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
PROMISES = [
    pytest.param(row, id=row[0])
    for heading in re.findall(r"^## \d+\. .+$", RELIABILITY, re.MULTILINE)
    for row in table(section(RELIABILITY, heading))
]


def names_in(path: Path) -> set[str]:
    """The tests, and the classes of tests, that a file defines."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("row", PROMISES)
def test_a_promise_is_held_by_tests_that_exist(row: list[str]) -> None:
    _, held_by = row
    named = NAMED.findall(held_by)
    assert named and NAMED.sub("", held_by).strip(", ") == ""
    for file, name in named:
        assert name in names_in(ROOT / file), f"{file} has no {name}"


def test_there_are_nine_kinds_of_promises() -> None:
    assert re.findall(r"^## (\d)\. ", RELIABILITY, re.MULTILINE) == list("123456789")
