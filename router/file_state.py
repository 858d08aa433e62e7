"""What has become of the configuration file: for status, readiness and whoever asks. Written by `router.reload`, read by everybody."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


def _none() -> Iterable[str]:
    return ()


@dataclass(slots=True)
class FileState:
    """`refused`: why the file as it is now is not in effect, a sentence each; `places`: the same without what stands in the file.

    `at_next_start`: what only a start changes. `drift`: where the routing state in force is not what the file asks for, now.
    `taken_at_s`: when it was last put in effect, of the Unix clock; None: as it was at the start.
    """

    path: str = ""
    refused: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    at_next_start: tuple[str, ...] = ()
    drift: Callable[[], Iterable[str]] = _none
    taken_at_s: float | None = None

    def report(self) -> dict[str, Any]:
        """All of it, for operators."""
        return {
            "path": self.path,
            "refused": list(self.refused),
            "at_next_start": list(self.at_next_start),
            "drift": list(self.drift()),
            "taken_at_s": self.taken_at_s,
        }

    def plain(self) -> dict[str, list[str]]:
        """What strangers may read of it, where there is anything to say."""
        said = {"refused": self.places, "at_next_start": self.at_next_start, "drift": tuple(self.drift())}
        return {name: list(sentences) for name, sentences in said.items() if sentences}
