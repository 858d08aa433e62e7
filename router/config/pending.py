"""Keys that are accepted and checked, but not in effect in this version. One row a key; a feature that lands removes its row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from router.config.document import Tree
from router.config.problems import Finding, KeyPath


def _always(value: Tree) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Pending:
    """A key (`*`: any name, `[]`: each entry of a list) that does nothing yet, and what happens instead."""

    key: str
    instead: str
    concerns: Callable[[Tree], bool] = _always


PENDING: tuple[Pending, ...] = (
    Pending("store.keep_days", "No calls are kept; revisions are kept for good."),
    Pending("store.keep_bodies", "No texts are kept."),
    Pending("store.redact", "No texts are kept."),
    Pending("backends.*.kind", "Calls to it fail over to the next backend.", lambda value: value == "litellm"),
    Pending("backends.*.engine", "Start the engine yourself; Crossfade only calls it."),
    Pending("models.*.rollout", "Shares stay as `split` says."),
    Pending("models.*.shadow", "No copies are sent."),
)


def notices(tree: Tree) -> Iterator[Finding]:
    """A notice for each key of the file that is not in effect yet; keys left empty are not worth one."""
    for row in PENDING:
        for path, value in _matches(tree, row.key.split("."), ()):
            if value not in (None, [], {}) and row.concerns(value):
                subject = f"{value} is" if row.key.endswith(".kind") else "is"
                yield Finding(path, f"{subject} not in effect in this version.", row.instead)


def _matches(tree: Tree, pattern: list[str], path: KeyPath) -> Iterator[tuple[KeyPath, Tree]]:
    if not pattern:
        yield path, tree
    elif isinstance(tree, list):
        for index, entry in enumerate(tree):
            yield from _matches(entry, pattern, (*path, index))
    elif isinstance(tree, dict):
        for name in list(tree) if pattern[0] == "*" else [pattern[0].removesuffix("[]")]:
            if name in tree:
                yield from _matches(tree[name], pattern[1:], (*path, name))
