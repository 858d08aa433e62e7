"""One row of the table of faults: what the backend does, what the client is told, and the outcome of every attempt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from tests.faults.stage import Told
from tests.upstream import Script, says

OF_B = Told(200, "from b", backend="b")
UNAVAILABLE = Told(503, code="backend_unavailable", retry_after_s=5)
OVERLOADED = Told(503, code="overloaded", retry_after_s=5)
LATE = Told(504, code="timeout")
BROKEN = Told(200, "one two", code="stream_broken", backend="a")


@dataclass(frozen=True, slots=True)
class Row:
    """`tries` are the attempts in their order: "a failed, b ok". `takes_s` bounds the call's length where that is the point."""

    fault: str
    plays: Script
    told: Told
    tries: str
    stream: bool = False
    model: str = "a"
    b: Script | None = None
    takes_s: tuple[float, float] = (0.0, 5.0)

    @property
    def id(self) -> str:
        """The row as a sentence."""
        outcome = self.told.code or ("an error" if self.told.status != 200 else "a whole answer")
        form = "a stream" if self.stream else "whole"
        return f"{self.fault} ({form}, {self.model}): {self.tries} -> {self.told.status} {outcome}"

    @property
    def outcomes(self) -> Counter[tuple[str, str]]:
        """(backend, outcome) of each attempt."""
        pairs = (attempt.split(" ") for attempt in self.tries.split(", ") if attempt)
        return Counter((backend, outcome) for backend, outcome in pairs)


def moves(
    fault: str, plays: Script, outcome: str, told: Told, forms: str = "ws", model: str = "a", **more: object
) -> Iterator[Row]:
    """What happens to `fault` with b behind the backend, and without: `told` then. `forms`: w for whole answers, s for streams.

    A failure is tried once more here before it moves; a broken protocol only where there is nowhere to go.
    """
    here, alone = f"{model} {outcome}", f"{model} {outcome}"
    if outcome == "failed":
        here = f"{here}, {here}"
    if outcome in ("failed", "protocol_broken"):
        alone = f"{alone}, {alone}"
    for form in forms:
        row = Row(fault, plays, OF_B, f"{here}, b ok", form == "s", model, b=says("from b"))
        row = replace(row, **more)  # type: ignore[arg-type]
        yield row
        yield replace(row, model=f"{model} alone", told=told, tries=alone, b=None)


def stays(fault: str, plays: Script, told: Told, outcome: str, forms: str = "ws", **more: object) -> Iterator[Row]:
    """What happens to `fault` where the call moves nowhere: one attempt on a."""
    for form in forms:
        yield replace(Row(fault, plays, told, f"a {outcome}", form == "s"), **more)  # type: ignore[arg-type]


def joined(*rows: Iterable[Row]) -> list[Row]:
    """All of them."""
    return [row for each in rows for row in each]
