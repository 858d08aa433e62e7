"""How a person reads the matrix, and a program: a table no wider than the terminal, with what to do under it; or one JSON document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from policies.preflight import Line
from policies.preflight_cells import Cell, Colour
from policies.preflight_facts import Check
from router.preflight.run import Findings

STYLES = {Colour.GREEN: "green", Colour.AMBER: "yellow", Colour.RED: "bold red", Colour.GREY: "dim"}
SUMMARY = {
    Colour.GREEN: "The application cannot tell them apart.",
    Colour.AMBER: "Calls work everywhere; what differs, and what to do about it, stands above.",
    Colour.RED: "Calls would break; mend what is red before any traffic moves.",
}


def table(findings: Findings) -> RenderableType:
    """The matrix, the reasons of what is not green, and a last line that says it all."""
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    grid.add_column(Text(findings.model), overflow="fold")
    grid.add_column("", overflow="fold")
    for index, side in enumerate(findings.sides):
        grid.add_column(
            overflow="fold",
            header=Text(f"{side.backend}{' (baseline)' if index == 0 and len(findings.sides) > 1 else ''}"),
        )
    group = ""
    for line in findings.lines:
        grid.add_row(Text("" if line.group == group else line.group), Text(line.name), *map(_shown, line.cells))
        group = line.group
    return Group(grid, Text(), *_reasons(findings), Text(summary(findings), style=STYLES[findings.colour]))


def printed(findings: Findings) -> None:
    """Print the table: in colours and as wide as the terminal, plain and 80 wide elsewhere."""
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(table(findings))
        return
    with console.capture() as captured:
        console.print(table(findings))
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def summary(findings: Findings) -> str:
    """One line: how many of each colour, and what that means."""
    counted = _counts(findings.lines)
    numbers = ", ".join(f"{counted[colour]} {colour.value}" for colour in Colour if counted[colour])
    return f"{findings.model}: {numbers}. {SUMMARY[findings.colour]}"


def document(findings: Findings) -> dict[str, Any]:
    """Everything as JSON."""
    names = [side.backend for side in findings.sides]
    counted = _counts(findings.lines)
    return {
        "model": findings.model,
        "result": findings.colour.value,
        "baseline": names[0],
        "backends": [{"name": side.backend, "kind": side.kind, "model": side.name} for side in findings.sides],
        "counts": {colour.value: counted[colour] for colour in Colour},
        "rows": [
            {"group": line.group, "check": line.name, "cells": dict(zip(names, map(asdict, line.cells), strict=True))}
            for line in findings.lines
        ],
        "error": None,
    }


def _counts(lines: Iterable[Line]) -> Counter[Colour]:
    return Counter(cell.colour for line in lines for cell in line.cells)


def _shown(cell: Cell) -> Text:
    return Text.assemble((f"{cell.colour.value:<5}", STYLES[cell.colour]), f" {cell.says}")


def _reasons(findings: Findings) -> Iterator[RenderableType]:
    """What is said of cells; rows with the same remedy, or the same reason, are said together."""
    rows: dict[tuple[str, Colour, str], list[str]] = {}
    cells: dict[tuple[str, Colour, str], Cell] = {}
    for line in findings.lines:
        for side, cell in zip(findings.sides, line.cells, strict=True):
            if cell.why:
                key = (side.backend, cell.colour, cell.fix or cell.why)
                rows.setdefault(key, []).append(f"{line.group}, {line.name}")
                cells.setdefault(key, cell)
    for key in sorted(rows, key=lambda key: key[1] is not Colour.RED):
        yield from _reason(key[0], rows[key], cells[key])
    yield Text()


def _reason(backend: str, rows: list[str], cell: Cell) -> Iterator[RenderableType]:
    yield Text.assemble((cell.colour.value, STYLES[cell.colour]), f" {backend}: {'; '.join(rows)}")
    yield Padding.indent(Text(cell.why), 4)
    for line in cell.fix.splitlines():
        yield Padding.indent(Text(line, style="cyan"), 6)


class Watched:
    """Progress on standard error: a bar for each backend in a terminal, else a line for each question."""

    def __init__(self, backends: tuple[str, ...]):
        console = Console(stderr=True)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        if console.is_terminal:
            columns = (TextColumn("{task.fields[backend]}"), BarColumn(), TextColumn("{task.description}"))
            self._bars = Progress(*columns, console=console, transient=True)
            for name in backends:
                self._tasks[name] = self._bars.add_task("", total=len(Check) + 1, backend=name)

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bars is not None:
            self._bars.stop()

    def said(self, backend: str, check: Check | None) -> None:
        """The next question."""
        what = "what it tells of itself" if check is None else check.value.replace("_", " ")
        if self._bars is None:
            typer.echo(f"asking {backend}: {what}", err=True)
        else:
            self._bars.update(self._tasks[backend], advance=0 if check is None else 1, description=what)
