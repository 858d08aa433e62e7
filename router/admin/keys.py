"""The keys of the admin API: from the environment, or one that is made at the first start and kept beside the store.

A key that nobody chose is 32 random bytes, in a file that only its owner may read. Of several processes that start at once one makes it,
and all of them use it: it is written under another name first and then linked to its own, which fails where it is there already, so
nobody ever reads half a key.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import secrets
import stat
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

import sqlalchemy as sa

from router.admission import digest
from router.config import Config
from router.config.loading import SQLITE

log = logging.getLogger("crossfade.admin")

KEY_BYTES = 32  # 256 bits: nobody guesses it, however often they may try
AGAIN_S = 5.0  # after a key could neither be read nor made
_NO_KEY = b""  # the digest of no key


class Role(StrEnum):
    """What a key allows: to look, or to change things too."""

    VIEWER = "viewer"
    OPERATOR = "operator"


class KeyUnusable(Exception):
    """The file of the key cannot be used; the message is one sentence for the operator."""


def admin_key_file(store_url: str) -> Path:
    """Where the key of the router with this store is kept: beside a SQLite file, else in the user's own state folder."""
    url = sa.make_url(store_url)
    if url.get_backend_name() == "sqlite":
        return Path(f"{url.database}.admin-key")
    state = os.environ.get("XDG_STATE_HOME") or ""
    folder = Path(state) if state.startswith("/") else Path(os.environ.get("HOME") or "/") / ".local" / "state"
    name = hashlib.sha256(f"{url.host}:{url.port}/{url.database}".encode()).hexdigest()[:12]
    return folder / "crossfade" / f"{name}.admin-key"


def operator_key(config: Config, env: Mapping[str, str]) -> str:
    """The key that may change things, for whoever speaks to the router; "" where there is none yet. Raises KeyUnusable."""
    given = env.get(config.server.admin.key_env, "").strip()
    return given or read_key(admin_key_file(config.store.url))


def read_key(file: Path) -> str:
    """The key that is kept there, "" where none is. Raises KeyUnusable where somebody else may have put it there, or can read it."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    except OSError as exc:
        raise KeyUnusable(f"the admin key in {file} cannot be read: {exc.strerror}") from exc
    try:
        _make_private(handle, file)
        key = os.read(handle, 4096).decode("ascii", "replace").strip()
    finally:
        os.close(handle)
    if len(key) < KEY_BYTES:
        raise KeyUnusable(f"{file} holds no key; remove it, and the next start makes one")
    return key


def keep_key(file: Path, *, makes_folder: bool = False) -> str:
    """The key that is kept there, made now where none is. Raises KeyUnusable.

    The folder of a SQLite file is not made: where it is missing, a disk may be missing.
    """
    if key := read_key(file):
        return key
    draft = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    try:
        if makes_folder:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, secrets.token_urlsafe(KEY_BYTES).encode() + b"\n")
            os.fsync(handle)
        finally:
            os.close(handle)
        os.link(draft, file)
        log.info("made an admin key; it is kept in %s", file)
    except FileExistsError:
        pass  # another process was faster, and its key is everybody's
    except OSError as exc:
        raise KeyUnusable(f"no admin key can be kept in {file}: {exc.strerror}") from exc
    finally:
        draft.unlink(missing_ok=True)
    return read_key(file)


def _make_private(handle: int, file: Path) -> None:
    """See to it that nobody else can read or write the open file."""
    kept = os.fstat(handle)
    if not stat.S_ISREG(kept.st_mode) or kept.st_uid not in (os.geteuid(), 0):
        raise KeyUnusable(f"{file} is no file of this user; remove it, and the next start makes a key")
    if kept.st_mode & 0o077 == 0:
        return
    try:
        os.fchmod(handle, 0o600)
    except OSError as exc:
        raise KeyUnusable(f"{file} can be read by others; run chmod 600 on it") from exc
    log.warning("%s could be read by others; it is mended, but whoever has read it has the admin key: remove it", file)


class AdminKeys:
    """The keys of one router, known as their digests. Nobody is let in before `open` has found them."""

    def __init__(self, config: Config, env: Mapping[str, str]):
        admin = config.server.admin
        self._file = admin_key_file(config.store.url)
        self._makes_folder = not config.store.url.startswith(SQLITE)
        self._operator = _digest_of(env.get(admin.key_env, ""))
        self._viewer = _digest_of(env.get(admin.viewer_key_env, "") if admin.viewer_key_env else "")
        self.trouble = ""
        self._again_at_s = 0.0

    async def open(self, now_s: float) -> None:
        """Read the kept key, or make one, where the environment has none; what is wrong with it is said once."""
        if self._operator or now_s < self._again_at_s:
            return
        self._again_at_s = now_s + AGAIN_S
        try:
            self._operator = digest(await asyncio.to_thread(keep_key, self._file, makes_folder=self._makes_folder))
            self.trouble = ""
        except KeyUnusable as unusable:
            if str(unusable) != self.trouble:
                log.error("%s; the admin API takes no operator's key until then", unusable)
            self.trouble = str(unusable)

    def role_of(self, asked: bytes) -> Role | None:
        """What the key with this digest allows; None: nothing. All keys are compared, in constant time."""
        is_operator = hmac.compare_digest(asked, self._operator) and self._operator != _NO_KEY
        is_viewer = hmac.compare_digest(asked, self._viewer) and self._viewer != _NO_KEY
        return Role.OPERATOR if is_operator else Role.VIEWER if is_viewer else None


def _digest_of(key: str) -> bytes:
    return digest(key.strip()) if key.strip() else _NO_KEY
