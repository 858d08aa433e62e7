"""A PostgreSQL of the tests' own: Debian's programs, a folder in /tmp, 127.0.0.1 and a free port; it can be stopped and killed."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

INSTALL = "PostgreSQL is not installed, and tests of shared stores need it: apt-get install postgresql (`make test` does so where it may)"
USER = "crossfade"
# A test's server loses nothing by losing its disk; those that are killed are made with `is_durable`.
FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


def programs() -> Path | None:
    """The newest installation's folder of programs: Debian's, or what the path knows."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


class Server:
    """One server. It runs as a user without rights where the tests run as root, because PostgreSQL refuses root."""

    def __init__(self, folder: Path, is_durable: bool = False):
        found = programs()
        assert found is not None, INSTALL
        self._bin = found
        self._data = folder / "data"
        self._user = _unprivileged() if os.geteuid() == 0 else None
        if self._user is not None:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        self.port = _free_port()
        self._settings = () if is_durable else FAST
        self._run("initdb", "-D", self._data, "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync", "--no-instructions")

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = [f"port={self.port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={self._data}"]
        settings = " ".join(f"-c {each}" for each in (*options, *self._settings))
        self._run("pg_ctl", "-D", self._data, "-w", "-s", "-l", self._data / "log", "-o", settings, "start")

    def stop(self) -> None:
        """Stop at once, telling clients that it goes."""
        self._run("pg_ctl", "-D", self._data, "-w", "-s", "-m", "fast", "stop")

    def kill(self) -> None:
        """End it as a power cut would, for its processes."""
        os.kill(int((self._data / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
        ends_s = time.monotonic() + 20
        while (self._data / "postmaster.pid").exists():
            assert time.monotonic() < ends_s, f"the server does not end: {self._log()}"
            time.sleep(0.005)

    def database(self) -> str:
        """The URL of a fresh database."""
        name = f"t{uuid.uuid4().hex[:12]}"
        self._run("createdb", "-h", "127.0.0.1", "-p", self.port, "-U", USER, name)
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{name}"

    def said(self, url: str, statement: str) -> str:
        """What psql answers."""
        return self._run("psql", "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement, url)

    def _run(self, program: str, *arguments: object) -> str:
        who = self._user
        done = subprocess.run(
            [self._bin / program, *map(str, arguments)],
            check=False,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if program != "pg_ctl" else subprocess.DEVNULL,  # the server would hold a pipe open
            stderr=subprocess.STDOUT,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/"},
            timeout=50,
            user=who.pw_uid if who is not None else None,
            group=who.pw_gid if who is not None else None,
            extra_groups=[] if who is not None else None,
        )
        assert done.returncode == 0, f"{program} failed: {(done.stdout or '').strip() or self._log()}"
        return (done.stdout or "").strip()

    def _log(self) -> str:
        path = self._data / "log"
        return path.read_text()[-2000:] if path.exists() else "no log"


@contextmanager
def running(is_durable: bool = False) -> Iterator[Server]:
    """A server that runs while the block does. Its folder's path is short, as a socket's must be, and open to other users."""
    _end_those_of_the_dead()
    folder = Path(tempfile.mkdtemp(prefix="crossfade-pg-", dir="/tmp"))
    (folder / "owner").write_text(str(os.getpid()))
    try:
        server = Server(folder, is_durable)
        server.start()
        try:
            yield server
        finally:
            if (server._data / "postmaster.pid").exists():
                server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _end_those_of_the_dead() -> None:
    """Servers whose tests were killed before they could end them."""
    for owner in Path("/tmp").glob("crossfade-pg-*/owner"):
        if not (pid := owner.read_text()) or Path("/proc", pid).exists():
            continue
        postmaster = owner.parent / "data" / "postmaster.pid"
        with suppress(OSError):
            server = postmaster.read_text().split()[0]
            if str(owner.parent) in Path("/proc", server, "cmdline").read_text():  # the number may be another's by now
                os.kill(int(server), signal.SIGQUIT)
        shutil.rmtree(owner.parent, ignore_errors=True)


def _unprivileged() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port
