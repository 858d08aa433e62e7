"""Changes the shares of one model in the text of a file, and not one character elsewhere.

The parser says where each share stands; only those characters are replaced. Dumping the parsed file again, even with a parser that keeps
comments, would also move indentation, quotes and long lines of people who never asked for that. What comes out is read again, and must
differ from the file in this split alone: a layout that is not understood is refused, never guessed at.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceStartEvent,
)

from router.config.document import Tree, Unreadable, read
from router.config.problems import dotted
from router.config.scalars import replaced

_BOM = "\ufeff"


class NotEditable(Exception):
    """The split cannot be changed by a program; nothing was written. The message is one sentence with the remedy."""


@dataclass(slots=True)
class _Spot:
    """A node and where it stands in the text: characters from `start` to `end`."""

    start: int
    end: int
    line: int
    kind: str  # "scalar", "list", "mapping" or "alias"
    text: str = ""
    anchor: str = ""
    is_flow: bool = False
    is_quoted: bool = False
    children: list[_Spot] = field(default_factory=list)

    def pairs(self) -> Iterator[tuple[_Spot, _Spot]]:
        """Keys and values of a mapping."""
        return zip(self.children[::2], self.children[1::2], strict=True)


@dataclass(frozen=True, slots=True)
class _Splice:
    """Put `text` in the place of what stands from `start` to `end`."""

    start: int
    end: int
    text: str


def write_split(file: Path, model: str, split: Mapping[str, float]) -> None:
    """Give a model these shares in the file: all of it is on the disk afterwards, or the file is as it was. Raises NotEditable."""
    real = file.resolve()
    try:
        before = real.read_bytes()
        after = with_split(before.decode(), model, split).encode()
        if after != before:
            _replace(real, after)
    except (OSError, UnicodeDecodeError) as exc:
        raise NotEditable(f"{file} cannot be written: {getattr(exc, 'strerror', None) or 'it is not UTF-8'}.") from exc


def check_editable(file: Path, model: str, shares: Mapping[str, float]) -> None:
    """Raises NotEditable where `write_split` could not put shares of these backends into the file."""
    real = file.resolve()
    try:
        with_split(real.read_bytes().decode(), model, dict.fromkeys(shares, 0.5))
    except (OSError, UnicodeDecodeError) as exc:
        raise NotEditable(f"{file} cannot be read: {getattr(exc, 'strerror', None) or 'it is not UTF-8'}.") from exc
    if not os.access(real, os.W_OK) or not os.access(real.parent, os.W_OK):
        raise NotEditable(f"{file} cannot be written: you may not write it, or not into its folder.")


def with_split(text: str, model: str, split: Mapping[str, float]) -> str:
    """The text with the model's shares changed to `split`; those that are not named are taken out. Raises NotEditable.

    Where none would stay, they stay with 0, which says the same: beside them is seen how a further one is to be written.
    """
    body = text.removeprefix(_BOM)
    where = dotted(("models", model, "split"))
    try:
        node = _found(body, model, where)
        names = [name.text for name, _ in node.pairs()]
        if not any(name in split for name in names):
            split = {**dict.fromkeys(names, 0.0), **split}
        after = _spliced(body, list(_splices(body, node, split)))
        is_right = read(after, {}).tree == _wanted(read(body, {}).tree, model, split)
    except Unreadable as exc:
        raise NotEditable(f"{where} cannot be edited: {exc.message} Edit it by hand.") from exc
    if not is_right:
        raise NotEditable(f"{where} is written in a way that cannot be edited by a command; edit it by hand.")
    return text[: len(text) - len(body)] + after


def _wanted(tree: Tree, model: str, split: Mapping[str, float]) -> Tree:
    result = copy.deepcopy(tree)
    at = result
    for key in ("models", model):
        at = at[key] if isinstance(at, dict) else None
    if isinstance(at, dict):
        at["split"] = dict(split)
    return result


def _found(text: str, model: str, where: str) -> _Spot:
    """The mapping of the shares, if it is this model's alone."""
    root, aliased = _spots(text)
    node = root
    for key in ("models", model, "split"):
        _check_own(node, aliased, where)
        found = next((value for name, value in node.pairs() if name.text == key), None)
        if found is None:
            if any(name.text == "<<" for name, _ in node.pairs()):
                raise NotEditable(
                    f"{where} comes from elsewhere in the file (<<); write it out under {model}, then repeat."
                )
            raise NotEditable(f"the file has no {where}; add it by hand.")
        node = found
    for each in (node, *node.children):
        _check_own(each, aliased, where)
    for _, share in node.pairs():
        if replaced(share.text, {}).text != share.text:
            raise NotEditable(f"{where} takes a value from the environment ({share.text}); change it there.")
    if node.kind != "mapping" or any(name.text == "<<" for name, _ in node.pairs()):
        raise NotEditable(f"{where} comes from elsewhere in the file; write it out under {model}, then repeat.")
    return node


def _check_own(node: _Spot, aliased: frozenset[str], where: str) -> None:
    if node.kind == "alias" or node.anchor in aliased:
        sign = "*" if node.kind == "alias" else "&"
        shared = f"{sign}{node.anchor} on line {node.line}"
        raise NotEditable(f"{where} is shared with other parts of the file ({shared}); write it out, then repeat.")


def _spots(text: str) -> tuple[_Spot, frozenset[str]]:
    """The tree of the text, and the anchors that something refers to."""
    read(text, {})  # bounds size and depth, and refuses what is no YAML
    stack = [_Spot(0, 0, 0, "list")]
    aliased: set[str] = set()
    for event in YAML(typ="safe", pure=True).parse(text):
        if isinstance(event, CollectionEndEvent):
            stack.pop().end = event.end_mark.index
        elif isinstance(event, NodeEvent):
            node = _spot(event)
            stack[-1].children.append(node)
            if node.kind == "alias":
                aliased.add(node.anchor)
            if isinstance(event, SequenceStartEvent | MappingStartEvent):
                stack.append(node)
    return stack[0].children[0], frozenset(aliased)


def _spot(event: NodeEvent) -> _Spot:
    spot = _Spot(event.start_mark.index, event.end_mark.index, event.start_mark.line + 1, "scalar")
    spot.anchor = str(event.anchor or "")
    if isinstance(event, AliasEvent):
        spot.kind = "alias"
    elif isinstance(event, ScalarEvent):
        spot.text, spot.is_quoted = str(event.value), not event.implicit[0]
    else:
        spot.kind = "mapping" if isinstance(event, MappingStartEvent) else "list"
        spot.is_flow = bool(getattr(event, "flow_style", False))
    return spot


def _splices(text: str, node: _Spot, split: Mapping[str, float]) -> Iterator[_Splice]:
    pairs = list(node.pairs())
    kept = [(name, value) for name, value in pairs if name.text in split]
    if not kept:
        raise NotEditable(f"the split on line {node.line} names no backend; edit it by hand.")
    for name, value in kept:
        if _number(value.text) != split[name.text]:
            yield _Splice(value.start, value.end, repr(split[name.text]))
    for index, (name, _) in enumerate(pairs):
        if name.text not in split:
            yield _without(text, node, pairs, index)
    known = {name.text for name, _ in pairs}
    new = [name for name in split if name not in known]
    if new:
        last = pairs[-1][1]
        quote = '"' if pairs[0][0].is_quoted and text[pairs[0][0].start] == '"' else ""
        entries = [f"{quote}{name}{quote}: {split[name]!r}" for name in new]
        if node.is_flow:
            yield _Splice(last.end, last.end, "".join(f", {entry}" for entry in entries))
        else:
            end = _line_end(text, last.end)
            newline = "\r\n" if "\r\n" in text else "\n"
            margin = " " * (pairs[0][0].start - (text.rfind("\n", 0, pairs[0][0].start) + 1))
            yield _Splice(end, end, "".join(f"{newline}{margin}{entry}" for entry in entries))


def _without(text: str, node: _Spot, pairs: list[tuple[_Spot, _Spot]], index: int) -> _Splice:
    """Takes one entry out: with its comma, or with its line."""
    name, value = pairs[index]
    if not node.is_flow:
        return _Splice(text.rfind("\n", 0, name.start) + 1, text.find("\n", value.end) + 1 or len(text), "")
    if index + 1 < len(pairs):
        return _Splice(name.start, pairs[index + 1][0].start, "")
    return _Splice(pairs[index - 1][1].end, value.end, "")


def _line_end(text: str, at: int) -> int:
    """Where the line ends, before its newline."""
    end = text.find("\n", at)
    end = len(text) if end < 0 else end
    return end - 1 if text[end - 1 : end] == "\r" and end > at else end


def _spliced(text: str, splices: list[_Splice]) -> str:
    for splice in sorted(splices, key=lambda splice: (splice.start, splice.end), reverse=True):
        text = text[: splice.start] + splice.text + text[splice.end :]
    return text


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _replace(file: Path, content: bytes) -> None:
    """Put the content in the place of the file, which keeps its mode and owner; whoever reads meanwhile reads one or the other."""
    had = file.stat()
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(descriptor, "wb") as temporary:
            temporary.write(content)
            temporary.flush()
            os.fchmod(temporary.fileno(), had.st_mode & 0o7777)
            if (had.st_uid, had.st_gid) != (os.geteuid(), os.getegid()):
                _keep_owner(temporary.fileno(), had)
            os.fsync(temporary.fileno())
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _keep_owner(descriptor: int, had: os.stat_result) -> None:
    try:
        os.fchown(descriptor, had.st_uid, had.st_gid)
    except PermissionError:
        return  # only root may give files away; who may write the folder may as well own the file
