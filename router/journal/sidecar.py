"""The last known state beside the store, in one small file: what a router goes on with that starts while its store cannot be used.

It also restores a store that was lost while no router ran. It is a copy, never the truth: it is written after a revision is in force, by
every process alike, and what the store says replaces it.
"""

from __future__ import annotations

import asyncio
import contextlib
import glob
import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import sqlalchemy as sa

from router.journal.kept import Kept

log = logging.getLogger("crossfade.journal")

MOST = 50  # revisions, so that a rollback still finds its way; some 20 KB
_ALL = msgspec.json.Decoder(tuple[Kept, ...])


def sidecar_for(url: str, env: Mapping[str, str]) -> Sidecar:
    """Beside a SQLite file; for a server, in the user's folder of state under a name made of its URL, so that the password is in none.

    Where the environment names no such folder (neither XDG_STATE_HOME nor HOME), nothing is kept.
    """
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        path = Path(parsed.database or "").absolute()
        return Sidecar(path.with_name(path.name + ".last.json"))
    states = env.get("XDG_STATE_HOME") or (f"{env['HOME']}/.local/state" if env.get("HOME") else None)
    if states is None:
        return Sidecar(None)
    shown = parsed.set(drivername="postgresql", query={}, password=None).render_as_string()
    return Sidecar(Path(states, "crossfade", f"{hashlib.sha256(shown.encode()).hexdigest()[:16]}.last.json"), True)


class Sidecar:
    """One such file. That it cannot be read or written is no failure of the router: it is said once, in the log."""

    def __init__(self, path: Path | None = None, makes_folder: bool = False):
        """`path` None: nothing is kept. A SQLite file's folder is not made: it may be where a disk is missing."""
        self.path = path
        self._makes_folder = makes_folder
        self._latest: Sequence[Kept] = ()
        self._writing: asyncio.Task[None] | None = None
        self._is_said = False

    async def read(self) -> tuple[Kept, ...]:
        """What was kept last, oldest first; nothing where there is no such file or nothing that can be understood."""
        if self.path is None:
            return ()
        try:
            return _ALL.decode(await asyncio.to_thread(_read, self.path))
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, msgspec.DecodeError) as exc:
            self._say(exc)
            return ()

    def keep(self, everything: Sequence[Kept]) -> None:
        """Write the end of what is known, soon and elsewhere; of many in a row, the last."""
        self._latest = _end_of(everything)
        if self.path is not None and (self._writing is None or self._writing.done()):
            self._writing = asyncio.get_running_loop().create_task(self._write(self.path))

    async def close(self) -> None:
        """Return when the last is written."""
        if self._writing is not None:
            await self._writing

    async def _write(self, path: Path) -> None:
        written: Sequence[Kept] | None = None
        while written is not self._latest:
            written = self._latest
            try:
                await asyncio.to_thread(self._replace, path, msgspec.json.encode(written))
            except OSError as exc:
                self._say(exc)

    def _say(self, exc: Exception) -> None:
        if not self._is_said:
            log.warning("the last known state cannot be kept in %s: %s", self.path, exc)
            self._is_said = True

    def _replace(self, path: Path, content: bytes) -> None:
        """Whole or not at all, also where the power fails in between."""
        if self._makes_folder:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.{os.getpid()}.new")
        try:
            with new.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                new.unlink()
            raise


def _read(path: Path) -> bytes:
    """What is in it. What processes left that were killed while they wrote goes."""
    for left in path.parent.glob(f"{glob.escape(path.name)}.*.new"):
        pid = left.suffixes[-2].removeprefix(".")
        if pid.isdecimal() and not Path("/proc", pid).exists():
            left.unlink(missing_ok=True)
    return path.read_bytes()


def _end_of(everything: Sequence[Kept]) -> tuple[Kept, ...]:
    """The last revisions without the small steps of ramps, the very last one, and the last that a file made."""
    if not everything:
        return ()
    chosen = {kept.revision.number: kept for kept in everything if kept.revision.part_of is None}
    end = dict(list(chosen.items())[-MOST:])
    of_file = next((kept for kept in reversed(everything) if kept.file is not None), everything[-1])
    for kept in (of_file, everything[-1]):
        end[kept.revision.number] = kept
    return tuple(end[number] for number in sorted(end))
