"""Reads a tree of sources and says where it leaves the shape of the house: arrows, circles, purity, web frameworks, opening lines.

Every check takes the sources as `{path: text}` and returns one sentence a finding, so that each can be shown on a tree of three lines
what it is there to find. Imports are read from the syntax, wherever they stand: at the top, inside a function, under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

Sources = Mapping[str, str]  # paths are relative to the root, with slashes

HOUSE = ("router", "backends", "policies")
ARROWS = frozenset({("router", "policies"), ("router", "backends")})
WEB = frozenset({"fastapi", "starlette", "uvicorn"})
# What a decision may be made of. `random` is here for the type of the dice that are passed in; see IMPURE_NAMES.
PURE = frozenset(
    {
        "__future__", "abc", "bisect", "collections", "dataclasses", "decimal", "enum", "fractions", "functools", "hashlib", "heapq",
        "itertools", "json", "jsonschema", "math", "msgspec", "operator", "policies", "random", "re", "referencing", "statistics", "string",
        "struct", "types", "typing",
    }
)  # fmt: skip
IMPURE_NAMES = frozenset(
    {"open", "print", "input", "hash", "exec", "eval"}
)  # `hash` of a text differs in every process


@dataclass(frozen=True, slots=True)
class Import:
    """One import: `module` of the tree or beyond it, with the imported name where that may be a module; and its line."""

    module: str
    line: int

    @property
    def top(self) -> str:
        """The top-level package."""
        return self.module.partition(".")[0]


def read_tree(root: Path, *folders: str) -> dict[str, str]:
    """All Python sources below `folders` of `root`; what npm brings is nobody's source here."""
    files = (file for folder in folders for file in sorted((root / folder).rglob("*.py")))
    return {
        str(file.relative_to(root).as_posix()): file.read_text() for file in files if "node_modules" not in file.parts
    }


def wrong_arrows(sources: Sources) -> list[str]:
    """Imports from one folder of the house to another that no arrow allows."""
    return [
        f"{path}:{found.line}: {top} imports {found.module}; there is no such arrow"
        for path, top, found in _house_imports(sources)
        if found.top in HOUSE and found.top != top and (top, found.top) not in ARROWS
    ]


def web_imports(sources: Sources) -> list[str]:
    """Imports of web frameworks outside the router."""
    return [
        f"{path}:{found.line}: {top} imports {found.module}; only the router knows the web framework"
        for path, top, found in _house_imports(sources)
        if found.top in WEB and top != "router"
    ]


def circles(sources: Sources) -> list[str]:
    """Modules that import each other, directly or around corners; each circle once, from its first module in the alphabet."""
    graph = _graph(sources)
    found: set[tuple[str, ...]] = set()
    for start in sorted(graph):
        if ring := _way_back(graph, start):
            first = ring.index(min(ring))
            found.add((*ring[first:], *ring[:first]))
    return [f"circle: {' -> '.join((*ring, ring[0]))}" for ring in sorted(found)]


def impurities(sources: Sources) -> list[str]:
    """What policies must not have: modules of the outside world, waiting, the process's own dice, builtins that touch the world."""
    return [
        f"{path}:{line}: {what}; policies decide from values alone"
        for path, text in sources.items()
        if path.startswith("policies/")
        for line, what in _impure(path, text)
    ]


def without_opening_line(sources: Sources) -> list[str]:
    """Files that do not open with a docstring whose first line is a sentence."""
    return [
        f"{path}:1: does not open with one line that says what it holds"
        for path, text in sources.items()
        if not (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0].endswith((".", ":", "?", "!"))
        or not text.startswith(('"""', "#!"))
    ]


def imports(path: str, text: str) -> list[Import]:
    """Every import of a file, relative ones resolved; `import_module` of a literal counts, of a computed name as `<computed>`."""
    package = path.removesuffix(".py").split("/")[:-1]
    found: list[Import] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            found += [Import(f"{module}.{alias.name}", node.lineno) for alias in node.names]
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            name = node.args[0] if node.args else None
            is_literal = isinstance(name, ast.Constant) and isinstance(name.value, str)
            found.append(Import(name.value if is_literal else "<computed>", node.lineno))  # type: ignore[union-attr]
    return found


def computed_imports(sources: Sources) -> list[str]:
    """Imports whose target no reader of the source can know, and no check above."""
    return [
        f"{path}:{found.line}: imports a name that is computed; it could be any arrow"
        for path, _, found in _house_imports(sources)
        if found.module == "<computed>"
    ]


def _house_imports(sources: Sources) -> Iterator[tuple[str, str, Import]]:
    for path, text in sources.items():
        top = path.partition("/")[0]
        if top in HOUSE:
            for found in imports(path, text):
                yield path, top, found


def _graph(sources: Sources) -> dict[str, set[str]]:
    names = {path: path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in sources}
    known = set(names.values())
    graph: dict[str, set[str]] = {}
    for path, text in sources.items():
        targets = {_module_of(found.module, known) for found in imports(path, text)}
        graph[names[path]] = {target for target in targets if target} - {names[path]}
    return graph


def _module_of(imported: str, known: set[str]) -> str:
    """The module behind `package.module.name`, "" where it is none of the tree."""
    return imported if not imported or imported in known else _module_of(imported.rpartition(".")[0], known)


def _way_back(graph: Mapping[str, set[str]], start: str) -> list[str]:
    """The shortest way from `start` to itself, [] where there is none."""
    ways = [[start]]
    seen = {start}
    for way in ways:  # grows while it is walked: the nearest first
        for target in sorted(graph.get(way[-1], ())):
            if target == start:
                return way
            if target not in seen:
                seen.add(target)
                ways.append([*way, target])
    return []


def _impure(path: str, text: str) -> Iterator[tuple[int, str]]:
    for found in imports(path, text):
        if found.top not in PURE or (found.top == "random" and found.module not in ("random", "random.Random")):
            yield found.line, f"imports {found.module}"
    for node in ast.walk(ast.parse(text)):
        if what := _impure_node(node):
            yield getattr(node, "lineno", 0), what


def _impure_node(node: ast.AST) -> str:
    """What is wrong with one piece of syntax, "" if nothing is."""
    match node:
        case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
            return "waits"
        case ast.Global():
            return "keeps state in the module"
        case ast.Name(id=name) if name in IMPURE_NAMES:
            return f"uses {name}"
        case ast.Attribute(value=ast.Name(id="random"), attr=name) if name != "Random":
            return f"uses random.{name}"
        case ast.Call(args=[]) if _called(node) == "Random":
            return "makes dice of its own"
    return ""


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
