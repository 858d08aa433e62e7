"""The results as text: one row a proxy, the median of each figure, with its spread over the rounds where it matters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.overhead.measure import DIFFERENCE, Spread, Summary

US, MS, MB = 1e-6, 1e-3, 1e6
Cell = Callable[[dict[str, Spread]], str]


@dataclass(frozen=True, slots=True)
class Column:
    """A title over two lines, and the figures under it."""

    title: tuple[str, str]
    cell: Cell


def _one(field: str, unit: float, form: str = "{:.1f}", *, spread: bool = False) -> Cell:
    def cell(figures: dict[str, Spread]) -> str:
        found = figures.get(field)
        if found is None:
            return "-"
        text = form.format(found.median / unit)
        if spread and found.lowest != found.highest:
            text += f" ({form.format(found.lowest / unit)}-{form.format(found.highest / unit)})"
        return text

    return cell


def _both(first: Cell, second: Cell) -> Cell:
    def cell(figures: dict[str, Spread]) -> str:
        texts = first(figures), second(figures)
        return "-" if set(texts) == {"-"} else " / ".join(texts)

    return cell


COLUMNS = (
    Column(("CPU us a call", "1 KB"), _one("call_1k_cpu_s", US, spread=True)),
    Column(("CPU us a call", "32 KB"), _one("call_32k_cpu_s", US, spread=True)),
    Column(("CPU us a", "paced chunk"), _one("chunk_cpu_s", US, spread=True)),
    Column(("calls/s", "one worker"), _one("calls_per_s", 1, "{:.0f}")),
    Column(("chunks/s", "paced"), _one("chunks_per_s", 1, "{:.0f}")),
    Column(("a call at", "rest, ms"), _one("rest_p50_s", MS, "{:.3f}")),
    Column(
        ("first token", "p50/p99, ms"),
        _both(_one("first_token_p50_s", MS, "{:.2f}"), _one("first_token_p99_s", MS, "{:.2f}")),
    ),
    Column(("gap", "p99, ms"), _one("gap_p99_s", MS, "{:.2f}")),
    Column(
        ("memory, MB", "start/calls/soak"),
        _both(
            _one("memory_at_start_bytes", MB, "{:.0f}"),
            _both(_one("memory_after_calls_bytes", MB, "{:.0f}"), _one("memory_after_soak_bytes", MB, "{:.0f}")),
        ),
    ),
    Column(("start", "s"), _one("start_s", 1, "{:.2f}")),
)


def table(summary: Summary) -> str:
    """The table; the proxies in the order in which they were measured."""
    rows = [["", *(column.title[0] for column in COLUMNS)], ["", *(column.title[1] for column in COLUMNS)]]
    rows += [[name, *(column.cell(figures) for column in COLUMNS)] for name, figures in summary.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines[:2], "-" * max(map(len, lines)), *lines[2:]])


def remarks(summary: Summary) -> list[str]:
    """What a reader must know before believing the table."""
    found = []
    for name, figures in summary.items():
        if name == DIFFERENCE:
            continue
        if name != "direct" and figures["harness_share"].median > 0.9:
            found.append(
                f"{name}: the harness was busy all the time, its calls/s are a lower bound; trust its CPU time."
            )
        if figures["failed"].highest:
            found.append(f"{name}: {figures['failed'].highest:.0f} calls failed in one round.")
    others = max(figures["others_share"].highest for name, figures in summary.items() if name != DIFFERENCE)
    if others > 0.25:
        found.append(
            f"Other processes took up to {others:.0%} of a core meanwhile: wall figures are worse than they could be."
        )
    return found
