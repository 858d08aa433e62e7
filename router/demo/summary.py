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
    pid: int | None  # None until it has been started
    is_in_rotation: bool


@dataclass(frozen=True, slots=True)
class Summary:
    """The demo now; `folder` holds the configuration and the logs, `home` names the backend of the caller in the line to paste."""

    origin: str
    folder: Path
    backends: tuple[Row, ...]
    home: str

    def text(self) -> str:
        """A few lines, with one to paste."""
        backends = "\n".join(map(_line, self.backends))
        return f"""
Crossfade answers on {self.origin}/v1 (model {MODEL}); half of the callers on each of:
{backends}

Ask it (x-crossfade-backend in the answer says who spoke; another x-user-id may reach the other):
  {curl_line(self.origin)}
{self._kill_line()}
Configuration and logs: {self.folder}
Ctrl-C stops everything.
"""

    def _kill_line(self) -> str:
        pid = next((row.pid for row in self.backends if row.name == self.home), None)
        if pid is None or not all(row.is_in_rotation for row in self.backends):
            return ""
        return f"Kill {self.home} and ask again; the other answers for it until it is back:\n  kill -9 {pid}\n"

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        rows = [asdict(row) for row in self.backends]
        return {"url": f"{self.origin}/v1", "model": MODEL, "folder": str(self.folder), "backends": rows}


def _line(row: Row) -> str:
    state = "in rotation" if row.is_in_rotation else "not yet in rotation; the other answers for it"
    return f"  {row.name:<10} {row.title}, on {row.url} ({state})"
