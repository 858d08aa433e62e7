"""What is running, as a text for people and as values for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from router.demo.asking import curl_line
from router.demo.roles import MODEL


@dataclass(frozen=True, slots=True)
class Row:
    """One backend now."""

    name: str
    title: str
    url: str
    is_in_rotation: bool


@dataclass(frozen=True, slots=True)
class Summary:
    """The demo now; `folder` holds the configuration and the logs."""

    origin: str
    folder: Path
    backends: tuple[Row, ...]

    def text(self) -> str:
        """A few lines, with one to paste."""
        backends = "\n".join(map(_line, self.backends))
        return f"""
Crossfade answers on {self.origin}/v1 (model {MODEL}); half of the callers on each of:
{backends}
Configuration and logs: {self.folder}
Ask it (x-crossfade-backend in the answer says who spoke; another x-user-id may reach the other):
  {curl_line(self.origin)}
Ctrl-C stops everything.
"""

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        rows = [asdict(row) for row in self.backends]
        return {"url": f"{self.origin}/v1", "model": MODEL, "folder": str(self.folder), "backends": rows}


def _line(row: Row) -> str:
    state = "in rotation" if row.is_in_rotation else "not yet in rotation; the other answers for it"
    return f"  {row.name:<10} {row.title}, on {row.url} ({state})"
