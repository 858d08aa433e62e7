"""A real engine server that a test may kill, stop and start again, always on the same port."""

from __future__ import annotations

import os
import re
import signal
import time
import urllib.request
from collections.abc import Callable

from backends.process import Command, SupervisedProcess
from router.demo.asking import is_well
from router.demo.roles import Role

START_S = 240.0  # vLLM takes 30 to 100 s on two cores, llama.cpp's server one or two
PATIENCE_S = 30.0
LOOK_AGAIN_S = 0.02
# How many calls an engine works on now, in its own words on /metrics.
RUNNING = re.compile(r"^(?:llamacpp:requests_processing|vllm:num_requests_running\{.*\}) (\S+)$", re.MULTILINE)


class Engine:
    """One engine server; its name is the backend's in every configuration here."""

    def __init__(self, role: Role, command: Command):
        self.role = role
        self._command = command
        self._process: SupervisedProcess | None = None

    @property
    def process(self) -> SupervisedProcess:
        """The server as it was started last."""
        assert self._process is not None, f"{self.role.name} has not been started"
        return self._process

    def ensure(self) -> None:
        """Return once it runs and is well; started where it is not there."""
        if self._process is None or self._process.status is not None:
            self._process = SupervisedProcess(self._command)
        self.process.wait_until(lambda: is_well(f"{self.role.url}/health"), START_S)

    def stop(self) -> None:
        """End it with all that it started."""
        if self._process is not None:
            self._process.stop()

    def send(self, sig: signal.Signals) -> None:
        """Send a signal to the server process itself."""
        os.kill(self.process.pid, sig)

    def running(self) -> float:
        """How many calls it works on now."""
        with urllib.request.urlopen(f"{self.role.url}/metrics", timeout=PATIENCE_S) as reply:
            found = RUNNING.findall(reply.read().decode())
        assert found, f"{self.role.name} does not say how many calls it works on"
        return sum(map(float, found))


def wait_until(is_so: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Return once `is_so()`. Raises AssertionError with `what` was waited for."""
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline_s, f"waited {timeout_s:g} s in vain until {what}"
        time.sleep(LOOK_AGAIN_S)
