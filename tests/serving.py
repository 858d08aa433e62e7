"""A running `crossfade serve`: the real command as a child process on a free port, for tests of any part."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

from ruamel.yaml import YAML

START_S = 20.0  # measured: 0.6 s to the first answer on a calm machine; two cores may be shared by a compiler
STOP_S = 15.0
ASK_AGAIN_S = 0.02


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now; the kernel hands it out to nobody else for a while."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_answers(url: str, timeout_s: float, running: subprocess.Popen[bytes] | None = None) -> None:
    """Return as soon as GET `url` answers 200. Raises AssertionError in time, or when `running` has ended."""
    deadline_s = time.monotonic() + timeout_s
    said = "nothing"
    while time.monotonic() < deadline_s:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.HTTPError as exc:
            said = f"{exc.code} {exc.read()[:500]!r}"
        except OSError as exc:
            said = str(exc)
        if running is not None and running.poll() is not None:
            raise AssertionError(f"the process behind {url} ended with status {running.returncode}")
        time.sleep(ASK_AGAIN_S)
    raise AssertionError(f"{url} did not answer 200 within {timeout_s:g} s; last it said: {said}")


class RunningRouter:
    """`crossfade serve` on a configuration, from `with RunningRouter(config) as router` to the end of the block.

    `config` is the file's text or its content as a dict; host and port are set to a free port of 127.0.0.1 unless the
    configuration names a port, everything else is yours. The file, the database of a relative `store.url` and the log
    lie in a folder of their own (`router.folder`), which goes with the block. `until` says what entering waits for:
    `ready` (each model has a backend in rotation) or `live` (the router listens; for backends that are not there).

    `url` is the origin (`http://127.0.0.1:PORT`, without /v1), `pid` the process, `log()` all that it wrote so far.
    Leaving the block stops it; an exception on the way out shows the log's end. Everything is synchronous, so that
    tests with any event loop, or none, can use it. Several may run at once.
    """

    def __init__(
        self,
        config: str | Mapping[str, Any],
        *,
        env: Mapping[str, str] | None = None,
        until: Literal["ready", "live"] = "ready",
        start_s: float = START_S,
    ):
        self.config = _with_address(config)
        self.url = f"http://127.0.0.1:{self.config['server']['port']}"
        self._env = {**os.environ, **(env or {})}
        self._until = until
        self._start_s = start_s
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    @property
    def folder(self) -> Path:
        """Where it runs: `crossfade.yaml`, `router.log` and the database."""
        assert self._scratch is not None, "the router has not been started"
        return Path(self._scratch.name)

    @property
    def file(self) -> Path:
        """The configuration file; `stop`, write it anew and `start` to use another."""
        return self.folder / "crossfade.yaml"

    @property
    def pid(self) -> int:
        """The process that listens."""
        assert self._process is not None, "the router has not been started"
        return self._process.pid

    def __enter__(self) -> RunningRouter:
        self._scratch = tempfile.TemporaryDirectory(prefix="crossfade-test-")
        try:
            self.start()
        except BaseException:
            self._scratch.cleanup()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(f"--- log of {self.url}, its end\n{self.log()[-4000:]}", file=sys.stderr)
        try:
            self.stop()
        finally:
            assert self._scratch is not None
            self._scratch.cleanup()

    def start(self) -> None:
        """Start it, again after `stop()`, on the same port and in the same folder."""
        self.file.write_text(json.dumps(self.config, indent=2))  # JSON is YAML
        command = [sys.executable, "-c", "from router.cli import main; main()", "serve", "-c", str(self.file)]
        self._log = (self.folder / "router.log").open("ab")
        self._process = subprocess.Popen(
            command, cwd=self.folder, env=self._env, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )
        path = "/health/ready" if self._until == "ready" else "/health/live"
        try:
            wait_until_answers(self.url + path, self._start_s, self._process)
        except BaseException as exc:
            exc.add_note(f"its log ends:\n{self.log()[-4000:]}")
            self.stop(signal.SIGKILL)
            raise

    def stop(self, sig: int = signal.SIGTERM) -> int:
        """Send `sig`, wait, and return the exit status (negative: the signal it died of). Harmless if it has ended."""
        assert self._process is not None
        assert self._log is not None
        if self._process.poll() is None:
            self._process.send_signal(sig)
        try:
            return self._process.wait(STOP_S)
        except subprocess.TimeoutExpired as exc:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"crossfade serve did not end within {STOP_S:g} s after signal {sig}") from exc
        finally:
            self._log.close()

    def log(self) -> str:
        """All that it has written so far, standard output and error together."""
        return (self.folder / "router.log").read_text(errors="replace")


def _with_address(config: str | Mapping[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = YAML(typ="safe").load(io.StringIO(config)) if isinstance(config, str) else dict(config)
    server = {"host": "127.0.0.1", "port": free_port(), **given.get("server", {})}
    return {**given, "server": server}
