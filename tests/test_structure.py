"""The shape of the house: three folders, two arrows, no circles, pure policies; and that each check finds what it is there for."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.structure import (
    HOUSE,
    Sources,
    circles,
    computed_imports,
    imports,
    impurities,
    read_tree,
    web_imports,
    without_opening_line,
    wrong_arrows,
)

Check = Callable[[Sources], list[str]]

ROOT = Path(__file__).parents[1]
NOT_SHIPPED = ("tests", "bench")


@pytest.mark.parametrize("check", [wrong_arrows, circles, impurities, web_imports, computed_imports])
def test_the_house_has_the_shape_that_it_should_have(check: Check) -> None:
    assert check(read_tree(ROOT, *HOUSE)) == []


def test_every_file_opens_with_a_line_that_says_what_it_holds() -> None:
    assert without_opening_line(read_tree(ROOT, *HOUSE, *NOT_SHIPPED)) == []


def test_nothing_but_the_three_folders_is_shipped() -> None:
    packages = {path.parts[0] for path in (file.relative_to(ROOT) for file in ROOT.glob("*/*.py"))}
    assert packages - set(NOT_SHIPPED) == set(HOUSE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["packages"]["find"]["include"] == [f"{name}*" for name in HOUSE]


def test_the_checks_see_the_whole_tree() -> None:
    """An empty tree would pass every one of them."""
    seen = read_tree(ROOT, *HOUSE)
    assert {"router/dispatch.py", "router/config/root.py", "backends/http1.py", "policies/choose.py"} <= set(seen)
    targets = {found.module for found in imports("router/dispatch.py", seen["router/dispatch.py"])}
    assert {"policies.choose.choose", "backends.errors.BackendError"} <= targets


ONE_ARROW = {
    "router/a.py": "from backends.b import x\nfrom policies import c\n",
    "backends/b.py": "",
    "policies/c.py": "",
}

PLANTED: list[tuple[str, Check, Sources, str]] = [
    ("backends to policies", wrong_arrows, {"backends/b.py": "import policies.c"}, "backends/b.py:1"),
    ("policies to backends", wrong_arrows, {"policies/c.py": "from backends import b"}, "policies/c.py:1"),
    ("backends to router", wrong_arrows, {"backends/b.py": "x = 1\nfrom router.a import y"}, "backends/b.py:2"),
    ("inside a function", wrong_arrows, {"policies/c.py": "def f():\n    import router.a"}, "policies/c.py:2"),
    (
        "under TYPE_CHECKING",
        wrong_arrows,
        {"policies/c.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from router.a import y"},
        "policies/c.py:3",
    ),
    ("climbing by dots", wrong_arrows, {"policies/c/d.py": "from ...router import a"}, "policies/c/d.py:1"),
    ("by a literal name", wrong_arrows, {"backends/b.py": "importlib.import_module('router.a')"}, "router.a"),
    ("by a computed name", computed_imports, {"backends/b.py": "__import__('rou' + 'ter')"}, "backends/b.py:1"),
    ("the web in backends", web_imports, {"backends/b.py": "from starlette.types import Scope"}, "starlette"),
    ("the web in policies", web_imports, {"policies/c.py": "def f():\n    import fastapi"}, "policies/c.py:2"),
    (
        "two modules that need each other",
        circles,
        {"router/a.py": "from router.b import x", "router/b.py": "def f():\n    from router import a"},
        "router.a -> router.b -> router.a",
    ),
    (
        "three, one of them for its types alone",
        circles,
        {
            "router/a.py": "from . import b",
            "router/b.py": "if TYPE_CHECKING:\n    from router.c import T",
            "router/c.py": "import router.a",
        },
        "router.a -> router.b -> router.c -> router.a",
    ),
    (
        "a package and its own module",
        circles,
        {"router/p/__init__.py": "from router.p.m import x", "router/p/m.py": "from router.p import y"},
        "router.p -> router.p.m -> router.p",
    ),
    ("a clock", impurities, {"policies/c.py": "from time import monotonic"}, "imports time.monotonic"),
    ("a log", impurities, {"policies/c.py": "import logging"}, "imports logging"),
    ("somebody else's clock", impurities, {"policies/c.py": "import uvloop"}, "imports uvloop"),
    ("waiting", impurities, {"policies/c.py": "async def f() -> None: ..."}, "waits"),
    ("the process's dice", impurities, {"policies/c.py": "import random\nx = random.random()"}, "random.random"),
    ("the process's dice by name", impurities, {"policies/c.py": "from random import choice"}, "random.choice"),
    ("dice of its own", impurities, {"policies/c.py": "import random\nrng = random.Random()"}, "dice of its own"),
    ("a salted hash", impurities, {"policies/c.py": "x = hash('a')"}, "uses hash"),
    ("a file", impurities, {"policies/c.py": "x = open('a')"}, "uses open"),
    ("state in the module", impurities, {"policies/c.py": "def f():\n    global x\n    x = 1"}, "policies/c.py:2"),
    ("no line at all", without_opening_line, {"router/a.py": "import os\n"}, "router/a.py:1"),
    ("a comment first", without_opening_line, {"router/a.py": '# x\n"""Says it."""\n'}, "router/a.py:1"),
    ("no sentence", without_opening_line, {"router/a.py": '"""stuff"""\n'}, "router/a.py:1"),
]


@pytest.mark.parametrize(("check", "sources", "said"), [row[1:] for row in PLANTED], ids=[row[0] for row in PLANTED])
def test_what_is_planted_is_found(check: Check, sources: Sources, said: str) -> None:
    found = check(sources)
    assert len(found) == 1
    assert said in found[0]


@pytest.mark.parametrize("check", [wrong_arrows, circles, impurities, web_imports, computed_imports])
@pytest.mark.parametrize(
    "sources",
    [
        ONE_ARROW,
        {
            "router/a.py": "from router.p import x",
            "router/p/__init__.py": "from router.p.m import x",
            "router/p/m.py": "",
        },
        {"policies/c.py": "import random\ndef f(rng: random.Random) -> float:\n    return rng.random()"},
        {"policies/c.py": "from random import Random\nx = Random(7)"},
        {"router/a.py": "import fastapi, time\nasync def f() -> None: ..."},
        {"tests/t.py": "import router.a, backends.b, policies.c, importlib\nimportlib.import_module(x)"},
    ],
    ids=["the two arrows", "a package's front", "dice that are passed in", "seeded dice", "the roof", "tests"],
)
def test_what_is_allowed_is_let_pass(check: Check, sources: Sources) -> None:
    assert check(sources) == []
