"""One YAML file as plain values, with the line of every key.

Built from the parser's events, not by a YAML constructor: nothing is ever instantiated, tags are refused,
depth and size are bounded before anything recursive runs, and all duplicate keys are found at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceStartEvent,
)

from router.config.problems import Finding, KeyPath, dotted, shown
from router.config.scalars import FromEnvironment, interpreted, replaced

Tree = None | bool | int | float | str | list["Tree"] | dict[str, "Tree"]

MAX_BYTES = 1 << 20  # a configuration of 1,000 models is about 300 kB
MAX_DEPTH = 24  # the schema is 8 deep; free-form engine arguments and sampling may add some
MAX_VALUES = 100_000  # after aliases are copied in: ends "billion laughs" early

# Beside its own errors ruamel.yaml raises OverflowError on escapes beyond Unicode (found by fuzzing); the others are
# what its asserts and look-ups would raise: a text that trips them is no YAML either.
_PARSER_FAULTS = (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, AssertionError)


class Unreadable(Exception):
    """The text is no usable YAML; `line` is where, 0 if nowhere in particular."""

    def __init__(self, line: int, message: str, remedy: str) -> None:
        super().__init__(message)
        self.line, self.message, self.remedy = line, message, remedy


@dataclass(slots=True)
class _Node:
    line: int
    kind: str  # "scalar", "list" or "mapping"
    text: str = ""
    is_plain: bool = False
    children: list[_Node] = field(default_factory=list)  # of a mapping: key, value, key, value, …
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """The file's values, where they stand, and what was wrong with single values."""

    tree: Tree
    lines: Mapping[KeyPath, int]
    findings: tuple[Finding, ...]

    def line(self, path: KeyPath) -> int:
        """The line of the key, or of the nearest key above it that is in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 0)


def read(text: str, env: Mapping[str, str]) -> Document:
    """Reads one YAML document. Raises Unreadable if there is no tree to judge."""
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise Unreadable(0, f"The file is larger than {MAX_BYTES} bytes.", "Split it up or remove what is not needed.")
    root = _nodes(text)
    if root is None:
        raise Unreadable(
            0, "The file is empty.", "Write at least `backends` and `models`, as in configs/quickstart.yaml."
        )
    expansion = _Expansion(env)
    expansion.lines[()] = root.line
    tree = expansion.value(root, ())
    if not isinstance(tree, dict):
        raise Unreadable(root.line, f"The file holds {shown(tree)}, not keys.", "Begin with `backends:` and `models:`.")
    return Document(tree, expansion.lines, tuple(expansion.findings))


def _events(text: str) -> Iterator[Event]:
    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = mark.line + 1 if mark else 0
        raise Unreadable(line, f"This is not YAML: {_reason(exc)}.", _syntax_remedy(text, line)) from exc
    except (YAMLError, *_PARSER_FAULTS) as exc:
        reason = getattr(exc, "reason", None) or "the parser gave up"
        raise Unreadable(0, f"This is not YAML: {shown(str(reason))}.", "Save the file as plain UTF-8 text.") from exc


def _reason(exc: MarkedYAMLError) -> str:
    words = " ".join(str(part) for part in (exc.context, exc.problem) if part)
    return " ".join(words.split()) or "it cannot be parsed"


def _syntax_remedy(text: str, line: int) -> str:
    lines = text.splitlines()
    near = "\n".join(lines[max(0, line - 2) : line])
    if "${" in near and "{" in near.replace("${", ""):
        return 'Inside { } put it in quotes: "${NAME:-default}".'
    if "\t" in near:
        return "Indent with spaces, not with tabs."
    return "Check indentation, colons and quotes on this line and the one above."


def _nodes(text: str) -> _Node | None:
    """The document's node tree, without recursion: the text decides how deep it would go."""
    root: _Node | None = None
    stack: list[_Node] = []
    anchors: dict[str, _Node] = {}
    documents = 0
    for event in _events(text):
        if isinstance(event, DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise Unreadable(_line(event), "A second YAML document begins here.", "Keep one document per file.")
        elif isinstance(event, CollectionEndEvent):
            stack.pop().is_open = False
        elif isinstance(event, NodeEvent):
            node = _node(event, anchors)
            if stack:
                stack[-1].children.append(node)
            else:
                root = node
            if isinstance(event, SequenceStartEvent | MappingStartEvent):
                stack.append(node)
            if len(stack) > MAX_DEPTH:
                raise Unreadable(node.line, f"Nested deeper than {MAX_DEPTH} levels.", "Flatten it.")
    return None if root is not None and root.kind == "scalar" and root.is_plain and not root.text else root


def _line(event: Event) -> int:
    return int(event.start_mark.line) + 1


def _node(event: NodeEvent, anchors: dict[str, _Node]) -> _Node:
    line = _line(event)
    if isinstance(event, AliasEvent):
        known = anchors.get(str(event.anchor))
        if known is None or known.is_open:
            why = "stands inside what it repeats" if known else "has no anchor above it"
            raise Unreadable(line, f"The alias *{event.anchor} {why}.", f"Write &{event.anchor} before it is used.")
        return known
    tag = getattr(event, "tag", None)
    if tag is not None:
        raise Unreadable(line, f"The tag {shown(str(tag))} is not allowed.", "Remove it; values need no tags here.")
    if isinstance(event, ScalarEvent):
        node = _Node(line, "scalar", text=str(event.value), is_plain=bool(event.implicit[0]))
    else:
        node = _Node(line, "mapping" if isinstance(event, MappingStartEvent) else "list", is_open=True)
    if event.anchor is not None:
        anchors[str(event.anchor)] = node
    return node


class _Expansion:
    """Turns nodes into values: aliases copied, merges (`<<`) merged, variables put in."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self.lines: dict[KeyPath, int] = {}
        self.findings: list[Finding] = []
        self.values = 0

    def value(self, node: _Node, path: KeyPath) -> Tree:
        self.values += 1
        if self.values > MAX_VALUES or len(path) > MAX_DEPTH:
            line = self.lines.get(path[:1], node.line)
            raise Unreadable(line, "Its aliases make the file too large.", "Use fewer anchors and aliases.")
        if node.kind == "scalar":
            return self._scalar(node, path)
        if node.kind == "list":
            return [self._placed(child, (*path, index), child.line) for index, child in enumerate(node.children)]
        return self._mapping(node, path)

    def _placed(self, node: _Node, path: KeyPath, line: int) -> Tree:
        self.lines[path] = line
        return self.value(node, path)

    def _mapping(self, node: _Node, path: KeyPath) -> Tree:
        result: dict[str, Tree] = {}
        merged: dict[str, Tree] = {}
        first_lines: dict[str, int] = {}
        for key, child in zip(node.children[::2], node.children[1::2], strict=True):
            if key.kind != "scalar" or not _is_text(key.text):
                self.findings.append(Finding(path, "has a key that is not text.", "Write every key as plain text."))
                continue
            if key.text == "<<" and key.is_plain:
                merged = {**self._merged(child, path), **merged}
            elif key.text in first_lines:
                message = f"stands twice: on line {first_lines[key.text]} and on line {key.line}."
                self.lines[*path, key.text] = key.line
                self.findings.append(Finding((*path, key.text), message, "Keep one of the two."))
            else:
                first_lines[key.text] = key.line
                result[key.text] = self._placed(child, (*path, key.text), key.line)
        return {**merged, **result}

    def _merged(self, node: _Node, path: KeyPath) -> dict[str, Tree]:
        parts = node.children if node.kind == "list" else [node]
        result: dict[str, Tree] = {}
        for part in parts:
            value = self.value(part, path)
            if not isinstance(value, dict):
                message = f"merges {shown(value)} with `<<`."
                self.findings.append(Finding(path, message, "Merge only mappings, such as `<<: *defaults`."))
                continue
            result = {**value, **result}
        return result

    def _scalar(self, node: _Node, path: KeyPath) -> Tree:
        if "${" not in node.text:
            return self._text(node.text, path) if not node.is_plain else self._plain(node.text, path)
        outcome = replaced(node.text, self.env)
        for name in outcome.missing:
            message = f"needs the environment variable {name}, which is not set."
            self.findings.append(Finding(path, message, f"Set {name}, or write a default: ${{{name}:-value}}."))
        for text in outcome.malformed:
            message = f"holds {shown(text)}, which names no environment variable."
            remedy = "Write ${NAME} or ${NAME:-default}, or $${ for a plain ${."
            self.findings.append(Finding(path, message, remedy))
        text = self._text(outcome.text, path)
        return FromEnvironment(text) if outcome.is_replaced else text

    def _plain(self, text: str, path: KeyPath) -> Tree:
        value = interpreted(text)
        return self._text(value, path) if isinstance(value, str) else value

    def _text(self, text: str, path: KeyPath) -> str:
        if _is_text(text):
            return text
        message = "holds characters that are not text (NUL or a lone surrogate)."
        self.findings.append(Finding(path, message, f"Write {dotted(path[-1:])} as plain text."))
        return "?"


def _is_text(text: str) -> bool:
    return "\x00" not in text and not any("\ud800" <= char <= "\udfff" for char in text)
