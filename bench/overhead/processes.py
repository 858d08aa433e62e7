"""A proxy as a process: started, asked for its first answer, weighed by the kernel's accounting, stopped with all its children."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.overhead.harness import CannotRun, Harness
from bench.overhead.proxies import Proxy, Setup

START_S = 60.0  # the slowest peer that was ever measured, LiteLLM's proxy, takes 12 s
STOP_S = 10.0
ASK_AGAIN_S = 0.01
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Running:
    """A proxy that answers; for the direct row the upstream itself, which has no `pid` here."""

    proxy: Proxy
    port: int
    pid: int | None
    start_s: float | None


@contextmanager
def running(proxy: Proxy, harness: Harness, folder: Path) -> Iterator[Running]:
    """Start `proxy` and stop it, and all that it started, when the block is left. Raises CannotRun."""
    upstreams = tuple(f"http://127.0.0.1:{port}" for port in harness.upstream_ports)
    if proxy.command is None:
        yield Running(proxy, harness.upstream_ports[0], None, None)
        return
    folder.mkdir()
    setup = Setup(folder, _free_port(), _free_port(), upstreams)
    command = proxy.command(setup)
    with (folder / "log").open("wb") as log:
        began_s = time.monotonic()
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            body = (harness.bodies / "1k").read_bytes()
            while not _answers(setup.port, proxy.path, body):
                if process.poll() is not None or time.monotonic() - began_s > START_S:
                    said = (folder / "log").read_text(errors="replace")[-1500:]
                    raise CannotRun(f"{proxy.name} does not answer (status {process.poll()}); its log ends:\n{said}")
                time.sleep(ASK_AGAIN_S)
            yield Running(proxy, setup.port, process.pid, time.monotonic() - began_s)
        finally:
            _stop(process)


def cpu_s(pid: int) -> float:
    """User and system time of the process and all its descendants so far."""
    ticks = 0
    for each in _tree(pid):
        if fields := _stat(each):
            ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_S


def memory_bytes(pid: int) -> int:
    """Resident memory of the process and all its descendants; pages that they share are counted in each."""
    pages = 0
    for each in _tree(pid):
        try:
            pages += int(Path(f"/proc/{each}/statm").read_text().split()[1])
        except OSError:
            continue
    return pages * PAGE_BYTES


def machine_busy_s() -> float:
    """How long all cores together have worked since the machine started."""
    user, nice, system, _idle, _waiting, *others = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + sum(others)) / TICKS_PER_S


def ask(port: int, path: str, body: bytes, timeout_s: float = 10.0) -> tuple[int, bytes]:
    """One call over a connection of its own: status and body. Raises OSError and HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("POST", path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _answers(port: int, path: str, body: bytes) -> bool:
    try:
        return ask(port, path, body)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    for sig in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sig)
            process.wait(STOP_S)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _tree(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for each in found:  # grows while it is walked
        found += children.get(each, [])
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; [] where the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
