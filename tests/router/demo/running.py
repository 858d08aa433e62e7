"""`crossfade demo` as a child process, for tests of what a person at the terminal gets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.serving import free_port

COMMAND = [sys.executable, "-c", "from router.cli import main; main()", "demo"]
STOP_S = 40.0  # vLLM gets ten seconds and is killed then


class RunningDemo:
    """`url` is the origin, `summary` the document of --json, `said()` all that was said so far."""

    def __init__(self, folder: Path, engines: str, env: Mapping[str, str] | None = None):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.summary: dict[str, Any] = {}
        self._said = folder / f"said-{self.port}.log"
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                [*COMMAND, "--engines", engines, "--port", str(self.port), "--json"],
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                start_new_session=True,
            )

    def said(self) -> str:
        """Its progress so far."""
        return self._said.read_text()

    def read_summary(self) -> None:
        """Wait for the document. Raises AssertionError where the demo ends before."""
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if line == b"}\n":
                self.summary = json.loads(b"".join(lines))
                return
        raise AssertionError(f"the demo ended before it answered; it said:\n{self.said()}")

    def interrupt(self) -> int:
        """Ctrl-C at its terminal: SIGINT for its whole process group. Returns the exit status."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(STOP_S)


@contextmanager
def running_demo(folder: Path, engines: str, env: Mapping[str, str] | None = None) -> Iterator[RunningDemo]:
    """A demo that has answered once; ended with the block, however it goes."""
    demo = RunningDemo(folder, engines, env)
    try:
        demo.read_summary()
        yield demo
    except BaseException as exc:
        exc.add_note(f"the demo said:\n{demo.said()}")
        raise
    finally:
        if demo.process.poll() is None:
            demo.interrupt()
        demo.process.communicate()
