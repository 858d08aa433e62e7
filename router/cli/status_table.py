"""How a person reads the status: a table for each model, no wider than the terminal, and a line for whatever is not as it should be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from policies.differences import duration, percent
from router.cli.answers import plain

Document = Mapping[str, Any]
GOOD, ODD, BAD = "green", "yellow", "bold red"
WHOLE_URL_CHARS = 28  # http://255.255.255.255:65535; beside it a state still has 24 of 80
IN_ROTATION = "in_rotation"
_STYLES = {IN_ROTATION: GOOD, "draining": ODD, "probing": ODD}


def table(document: Document, where: str) -> RenderableType:
    """The whole status; `where` says whose it is."""
    parts: list[RenderableType] = [_head(document, where)]
    for name, model in document["models"].items():
        parts += [Text(), _model(name, model), *_remarks(name, model)]
    return Group(*parts, *_troubles(document))


def is_well(document: Document) -> bool:
    """Whether each model has a replica in rotation."""
    return all(
        any(
            replica["state"] == IN_ROTATION for backend in model["backends"].values() for replica in backend["replicas"]
        )
        for model in document["models"].values()
    )


def _head(document: Document, where: str) -> Text:
    said = f"{where}  no revision yet"
    if document["revision"] is not None:
        said = f"{where}  revision {document['revision']}"
    if document["at_s"] is not None:
        said += f" since {datetime.fromtimestamp(document['at_s']).astimezone():%Y-%m-%d %H:%M:%S}"
    return Text(plain(said), style="bold")


def _model(name: str, model: Document) -> Table:
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    grid.add_column(Text(plain(name)), overflow="fold")
    grid.add_column("share", justify="right", no_wrap=True)
    if model["drift"]:
        grid.add_column("file", justify="right", no_wrap=True)
    urls = [len(replica["url"]) for row in model["backends"].values() for replica in row["replicas"]]
    grid.add_column("replica", overflow="fold", min_width=min(max(urls, default=0), WHOLE_URL_CHARS))
    grid.add_column("state", overflow="fold")
    grid.add_column("calls", justify="right", no_wrap=True)
    file_split = model["file_split"] or {}
    for backend, row in model["backends"].items():
        first = [Text(plain(backend)), Text(percent(row["share"]))]
        first += [Text(percent(file_split.get(backend, 0.0)))] if model["drift"] else []
        for replica in row["replicas"]:
            grid.add_row(*first, Text(plain(replica["url"])), _state(replica), str(replica["in_flight"]))
            first = [Text()] * len(first)
        if not row["replicas"]:
            grid.add_row(*first, "", Text("draining", ODD) if row["draining"] else Text("not known", "dim"), "")
    return grid


def _state(replica: Document) -> Text:
    state = "draining" if replica["is_draining"] else replica["state"]
    reason = f": {plain(replica['reason'])}" if replica["reason"] else ""
    return Text.assemble((plain(state.replace("_", " ")), _STYLES.get(state, BAD)), reason)


def _remarks(name: str, model: Document) -> Iterator[Text]:
    """What the table of a model cannot say."""
    ramp = model["ramp"]
    if ramp is not None:
        target = ", ".join(f"{backend} {percent(share)}" for backend, share in ramp["target"].items())
        way = f"{percent(ramp['done_share'])} of the way to {target} over {duration(ramp['over_s'])}"
        next_s = round(ramp["next_s"] or 0.0)
        then = f"the next step in {duration(next_s)}" if next_s else "the next step is due"
        then = "it stands still" if ramp["is_paused"] else then
        yield Text(plain(f"{name} moves: {way}; {then}"), style=ODD)
    if model["drift"]:
        yield Text(plain(f"{name} is not as the file says; `crossfade shift --write` writes shares there"), style=ODD)


def _troubles(document: Document) -> Iterator[RenderableType]:
    lines = [(f"draining: {', '.join(document['draining'])}", ODD)] if document["draining"] else []
    if document["store"]["trouble"]:
        lines.append((f"store: {document['store']['trouble']}; nothing can be changed", BAD))
    file = document["file"] or {"refused": (), "at_next_start": ()}
    lines += [(f"the file is refused: {said}", BAD) for said in file["refused"]]
    lines += [(said, ODD) for said in file["at_next_start"]]
    lines += [(said, ODD) for said in document.get("notices", ())]
    if lines:
        yield Text()
    yield from (Text(plain(said), style=style) for said, style in lines)
