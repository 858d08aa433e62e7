"""The two programs that drive a proxy: the scripted upstream behind it and the load generator in front, both in C.

They are compiled when first needed, into the cache. In Python they would cost as much as the proxies that they are to measure:
on two cores these carry 150,000 calls a second, and pace 10,000 chunks a second to a tenth of a millisecond.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.overhead.plan import Plan

SOURCES = Path(__file__).parent
FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror")
BACKENDS_MODEL = "backends/own-name"  # what the upstream calls itself in its answers
BODY_BYTES = {"1k": 1024, "32k": 32_768}
SENTENCE = "The quick brown fox jumps over the lazy dog. "


class CannotRun(Exception):
    """Something that the bench needs is missing or failed; the message is a sentence with the remedy."""


class Durations(msgspec.Struct, frozen=True):
    """Of one kind, over one run."""

    count: int
    p50_us: float
    p99_us: float
    max_us: float


class LoadResult(msgspec.Struct, frozen=True):
    """What the load generator says of one run; see the head of `load.c`."""

    took_s: float
    begun: int
    ended: int
    failed: int
    first_failure: str
    chunks: int
    calls_per_s: float
    chunks_per_s: float
    cpu_s: float
    answer: Durations | None
    first_token: Durations | None
    gap: Durations | None
    way: Durations | None


@dataclass(frozen=True, slots=True)
class LoadShape:
    """How a load is put on: so many connections, each begun `stagger_us` after the one before."""

    connections: int
    seconds: float
    stagger_us: int = 0
    warm_s: float = 0.0
    calls: int = 0  # 0: as many as the seconds allow


@dataclass(frozen=True, slots=True)
class Harness:
    """The compiled programs, the bodies that are sent, and the upstream's ports while it runs."""

    load_program: Path
    bodies: Path
    upstream: subprocess.Popen[str]
    upstream_ports: tuple[int, ...]

    def check(self) -> None:
        """Raises CannotRun where the upstream has ended: what a proxy was given since then is no measure of it."""
        if (status := self.upstream.poll()) is not None:
            raise CannotRun(f"the scripted upstream ended with status {status}")

    def load(self, port: int, path: str, body: str, shape: LoadShape) -> LoadResult:
        """Put the load on `path` of whatever listens on `port`; `body` is `1k`, `32k` or `1k-stream`. Raises CannotRun."""
        numbers = (port, shape.connections, shape.stagger_us, shape.warm_s, shape.seconds, shape.calls)
        command = [str(self.load_program), *map(str, numbers), str(self.bodies / body), path]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                keep_off_the_way(process.pid)
                said, complaint = process.communicate()
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise CannotRun(f"the load generator gave up: {complaint.decode(errors='replace').strip()}")
        return msgspec.json.decode(said, type=LoadResult)


@contextmanager
def harness(plan: Plan, folder: Path) -> Iterator[Harness]:
    """The upstream, running until the block is left. Raises CannotRun where there is no compiler."""
    upstream, load = compiled("upstream"), compiled("load")
    bodies = _written_bodies(folder / "bodies")
    command = [str(upstream), "2", str(plan.chunks), str(plan.gap_us)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            keep_off_the_way(process.pid)
            assert process.stdout is not None
            ports = tuple(int(port) for port in process.stdout.readline().split())
            if len(ports) != 2:
                raise CannotRun("the scripted upstream did not get its ports")
            yield Harness(load, bodies, process, ports)
        finally:
            process.kill()


def compiled(name: str) -> Path:
    """The program of `name`.c, compiled unless the cache has it. Raises CannotRun."""
    source = SOURCES / f"{name}.c"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    program = _cache() / f"{name}-{digest}"
    if program.exists():
        return program
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise CannotRun("a C compiler is needed for the load generator: apt-get install gcc libc6-dev")
    program.parent.mkdir(parents=True, exist_ok=True)
    partial = program.with_name(f"{program.name}.{os.getpid()}")
    command = [compiler, *FLAGS, "-o", str(partial), str(source)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise CannotRun(f"{source.name} does not compile (apt-get install gcc libc6-dev?):\n{done.stderr.strip()}")
    partial.rename(program)
    return program


def _cache() -> Path:
    base = os.environ.get("CROSSFADE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "crossfade"
    return Path(base).expanduser() / "bench"


def keep_off_the_way(pid: int) -> None:
    """Put a program of the harness on the last core. Proxies are not pinned: nobody pins theirs, and one core is left to them."""
    cores: Sequence[int] = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(pid, {cores[-1]})


def _written_bodies(folder: Path) -> Path:
    folder.mkdir()
    for name, size_bytes in BODY_BYTES.items():
        (folder / name).write_bytes(_body(size_bytes, {}))
        (folder / f"{name}-stream").write_bytes(_body(size_bytes, {"stream": True}))
    return folder


def _body(size_bytes: int, extra: dict[str, bool]) -> bytes:
    """A chat call of exactly this length, in the form in which Python's clients write it."""
    system = {"role": "system", "content": "You are a helpful assistant."}
    text = SENTENCE * (size_bytes // len(SENTENCE) + 1)
    call = {"model": "jane", "messages": [system, {"role": "user", "content": text}], "temperature": 0.7, **extra}
    excess = len(msgspec.json.encode(call)) - size_bytes
    call["messages"] = [system, {"role": "user", "content": text[:-excess]}]
    return msgspec.json.encode(call)
