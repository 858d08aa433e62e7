"""Reads the Markdown of the project: its blocks of code, the commands and configurations in it, what it links to and names."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")

# What a fragment of a configuration is put into, so that it can be checked like a whole file.
FRAME: dict[str, Any] = {
    "backends": {
        "lmstudio": {"kind": "lmstudio", "url": "http://127.0.0.1:1234"},
        "vllm": {"kind": "vllm", "url": "http://127.0.0.1:8001"},
    },
    "models": {"jane": {"on": {"lmstudio": "a", "vllm": "b"}, "split": {"lmstudio": 1.0, "vllm": 0.0}}},
}


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language ("" for none) and its text."""

    language: str
    text: str


def blocks(markdown: str) -> list[Block]:
    """Every fenced block, in order."""
    return [Block(language, text) for language, text in FENCE.findall(markdown)]


def spans(markdown: str) -> list[str]:
    """Every piece of code in running text."""
    return SPAN.findall(FENCE.sub("", markdown))


def command_lines(markdown: str) -> list[list[str]]:
    """Every command in blocks of sh and in running text, as words; comments and assignments before it are left out."""
    lines = [line for block in blocks(markdown) if block.language == "sh" for line in block.text.splitlines()]
    words = (shlex.split(line, comments=True) for line in [*lines, *_commands_in_text(markdown)])
    return [line for line in words if line and "=" not in line[0]]


def of_program(lines: list[list[str]], program: str) -> list[list[str]]:
    """The arguments of every call of `program`, with or without the folder it is in."""
    return [line[1:] for line in lines if line[0] in (program, f".venv/bin/{program}")]


def configurations(markdown: str) -> list[str]:
    """Every block of YAML as a whole configuration: fragments are laid over the frame. What is only comments is none."""
    trees = (YAML(typ="safe").load(block.text) for block in blocks(markdown) if block.language == "yaml")
    return [json.dumps(tree if _is_whole(tree) else _over(FRAME, tree)) for tree in trees if tree is not None]


def links(markdown: str) -> list[tuple[str, str]]:
    """Every link inside the project: (file, anchor), either may be ""."""
    found = (link for link in LINK.findall(FENCE.sub("", markdown)) if "://" not in link)
    return [(link.partition("#")[0], link.partition("#")[2]) for link in found]


def anchors(markdown: str) -> set[str]:
    """What can be linked to, as GitHub names headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", markdown), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def section(markdown: str, heading: str) -> str:
    """What stands under a heading, up to the next of its rank. Raises ValueError where there is no such heading."""
    start = markdown.index(f"\n{heading}\n") + len(heading) + 2
    end = re.compile(rf"^#{{1,{heading.split()[0].count('#')}}} ", re.MULTILINE).search(markdown, start)
    return markdown[start : end.start() if end else None]


def table(markdown: str) -> list[list[str]]:
    """The rows of the first table, cell by cell, without its head."""
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def _commands_in_text(markdown: str) -> Iterator[str]:
    for span in spans(markdown):
        if span.startswith(("crossfade ", "make ", ".venv/bin/")):
            yield span


def _is_whole(tree: Any) -> bool:
    """Whether it names all the backends that its models are on."""
    used = {name for model in tree.get("models", {}).values() for name in model.get("on", ())}
    return bool(used) and used <= set(tree.get("backends", ()))


def _over(under: Any, over: Any, levels: int = 3) -> Any:
    """Sections and names are merged, what stands under a name is replaced key by key: a split is a whole."""
    if not levels or not isinstance(under, dict) or not isinstance(over, dict):
        return over
    return {**under, **{key: _over(under.get(key), value, levels - 1) for key, value in over.items()}}
