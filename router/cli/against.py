"""What a file would change in a running router, worked out as the router itself would: sentences for shares, else key and values.

Of file and command the later one wins, so shares that the file does not change stay as commands left them; they are said to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from policies.differences import differences, percent
from policies.revisions import ModelState, RoutingState, filed
from router.admin.plain_config import plain_config
from router.cli.remote import Remote
from router.config import Config
from router.config.pinned import SERVER, STORE
from router.config.problems import dotted
from router.routing import desired

SHOWN_CHARS = 60  # of a value: enough to recognise it, short enough for one line
AT_RESTART = (*(("server", key) for key in SERVER), *(("store", key) for key in STORE))


@dataclass(frozen=True, slots=True)
class KeyChange:
    """A key whose value differs; `needs_restart`: a running router keeps the old one."""

    key: str
    before: Any
    after: Any
    needs_restart: bool

    def __str__(self) -> str:
        later = " (with a restart only)" if self.needs_restart else ""
        return f"{self.key}: {_shown(self.before)} -> {_shown(self.after)}{later}"


@dataclass(frozen=True, slots=True)
class Against:
    """A file against a running router at `url`, in which `revision` is in force.

    `changes`: what becomes of shares, models and backends; `stays`: what commands have changed and the file leaves so.
    """

    url: str
    revision: int
    changes: tuple[str, ...]
    keys: tuple[KeyChange, ...]
    stays: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """For people."""
        if not (self.changes or self.keys):
            yield f"It changes nothing at {self.url} (revision {self.revision})."
        else:
            yield f"At {self.url} (revision {self.revision}) it changes:"
        yield from (f"  {line}" for line in (*self.changes, *map(str, self.keys)))
        yield from self.stays

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "url": self.url,
            "revision": self.revision,
            "changes": list(self.changes),
            "keys": [asdict(key) for key in self.keys],
            "stays": list(self.stays),
        }


def against(config: Config, remote: Remote) -> Against:
    """The file against the router. Raises Refused where the router does not tell."""
    last = remote.get("/history", limit=1)["revisions"]
    running = msgspec.convert(last[0]["after"], RoutingState) if last else RoutingState()
    there = remote.get("/config")
    return compared(config, there, running, (remote.url, last[0]["number"] if last else 0))


def compared(config: Config, there: Mapping[str, Any], running: RoutingState, where: tuple[str, int]) -> Against:
    """The same, of the running configuration (as the admin API gives it) and the running state."""
    said_before = RoutingState({name: ModelState(dict(model["split"])) for name, model in there["models"].items()})
    wanted, here = desired(config), plain_config(config)
    after = filed(running, said_before, wanted.state, wanted.served)
    gone_and_new = [
        *(f"backends.{name} is new" for name in here["backends"] if name not in there["backends"]),
        *(f"backends.{name} is gone" for name in there["backends"] if name not in here["backends"]),
    ]
    keys = tuple(_changed(_leaves(there, ()), _leaves(here, ())))
    return Against(*where, (*differences(running, after), *gone_and_new), keys, tuple(_stays(after, wanted.state)))


def _stays(after: RoutingState, asked: RoutingState) -> Iterator[str]:
    for name, model in after.models.items():
        if _given(model.split) != _given(asked.models[name].split) or model.ramp is not None:
            shares = ", ".join(f"{backend} {percent(share)}" for backend, share in model.split.items())
            yield f"{name} stays as commands left it ({shares}): its split in the file has not changed."


def _given(split: Mapping[str, float]) -> dict[str, float]:
    return {name: share for name, share in split.items() if share > 0}


Leaves = dict[tuple[str, ...], Any]


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...]) -> Leaves:
    """Every value with its path; lists are values, as their entries have no names."""
    found: Leaves = {}
    for name, value in tree.items():
        at = (*path, name)
        found |= _leaves(value, at) if isinstance(value, dict) else {at: value}
    return found


def _changed(before: Leaves, after: Leaves) -> Iterator[KeyChange]:
    """The keys that differ, but for those that are told otherwise: shares, and all that a new or gone model or backend brings along."""
    known = {path[:2] for path in before} & {path[:2] for path in after}
    for path in dict.fromkeys((*before, *after)):
        old, new = before.get(path), after.get(path)
        is_told = path[0] in ("models", "backends") and path[:2] not in known
        if old == new or is_told or (path[0] == "models" and path[2] == "split"):
            continue
        restart = any(path[: len(prefix)] == prefix for prefix in AT_RESTART)
        yield KeyChange(dotted(path), old, new, restart)


def _shown(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, float):
        return f"{value!r}".removesuffix(".0")
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"
