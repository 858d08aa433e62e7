"""Where engines and models are kept between runs: found by their pins, built beside their place, moved in whole, by one at a time."""

from __future__ import annotations

import fcntl
import hashlib
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from router.demo.progress import Steps


def cache_root(env: Mapping[str, str]) -> Path:
    """$CROSSFADE_CACHE, else `crossfade` under $XDG_CACHE_HOME, else ~/.cache/crossfade."""
    if own := env.get("CROSSFADE_CACHE"):
        return Path(own).expanduser().resolve()
    base = env.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().resolve() / "crossfade"


def fingerprint(*files: Path) -> str:
    """Short and stable for the content of the files and this Python: other pins or another interpreter live elsewhere."""
    digest = hashlib.sha256(f"{sys.implementation.cache_tag} {platform.machine()}".encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:10]


def built(place: Path, build: Callable[[Path], None], steps: Steps) -> Path:
    """Return `place`, after `build(partial)` has filled it if it was not there.

    `build` gets a folder beside it, which may hold what an interrupted build left; its return makes the folder the place.
    Waits while another process builds the same. Raises Stopped, and what `build` raises.
    """
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with _locked(place.with_name(place.name + ".lock"), steps):
        if not place.is_dir():
            partial = place.with_name(place.name + ".partial")
            build(partial)
            partial.rename(place)
    return place


def cleared(folder: Path) -> Path:
    """The folder without anything in it."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


@contextmanager
def _locked(file: Path, steps: Steps) -> Iterator[None]:
    with file.open("w") as held:  # the kernel lets go of the lock when the process ends, however it ends
        if not _lock(held):
            steps.wait(
                "check", lambda: _lock(held), lambda: f"another process is setting up {file.stem}; waiting for it"
            )
        yield


def _lock(held: IO[str]) -> bool:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
