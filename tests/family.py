"""Processes and all that they started, watched to their end by descriptors: a number used again is never taken for them."""

from __future__ import annotations

import os
import select
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Member:
    """One process; `line` is its command line."""

    pid: int
    line: str
    watched: int

    def is_gone(self, timeout_s: float = PATIENCE_S) -> bool:
        """Whether it ends in time; a zombie has ended."""
        return bool(select.select([self.watched], [], [], timeout_s)[0])


def family(pid: int) -> list[Member]:
    """The process and its descendants now, itself first."""
    found, front = [], [pid]
    while front:
        pid = front.pop(0)
        try:
            watched = os.pidfd_open(pid)
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (ProcessLookupError, FileNotFoundError):  # it has ended since it was listed
            continue
        found.append(Member(pid, line, watched))
        front += [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in _words(file)]
    return found


def left_of(members: list[Member], timeout_s: float = PATIENCE_S) -> list[str]:
    """The command lines of those that don't end in time; all others are let go of."""
    left = [member.line for member in members if not member.is_gone(timeout_s)]
    for member in members:
        os.close(member.watched)
    return left


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:  # the thread has ended since it was listed
        return []
