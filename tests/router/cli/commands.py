"""The commands of an operator, run as typed: with a router that answers, with its store alone, and with neither."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from router.cli import build
from tests.running import Router, running
from tests.serving import free_port
from tests.upstream import Upstream, says

KEY = "operator-0123456789-0123456789-0123456789"
SPLIT = "{a: 0.95, b: 0.05}"


def config_text(port: int, store: str, urls: Mapping[str, str], model: str = "") -> str:
    """A file with the model `jane` on these backends, with a comment that must stay."""
    lines = [
        "# Our file.",
        f"server: {{port: {port}, drain_s: 0}}",
        f"store: {{url: {store}}}",
        "backends:",
        *(f"  {name}: {{kind: vllm, url: {url}}}" for name, url in urls.items()),
        "models:",
        "  jane:",
        "    on: {" + ", ".join(f"{name}: real-{name}" for name in urls) + "}",
        f"    split: {SPLIT}   # since Monday",
        *(f"    {line}" for line in model.splitlines()),
    ]
    return "\n".join(lines) + "\n"


def beside(folder: Path) -> str:
    """The store of a file in this folder."""
    return f"sqlite:///{folder}/crossfade.db"


def run(*words: str, env: Mapping[str, str] | None = None) -> Result:
    """`crossfade WORDS`, in this process."""
    clean = {"CROSSFADE_CONFIG": None, "CROSSFADE_ADMIN_KEY": None, "CROSSFADE_KEYS": None, "COLUMNS": "200"}
    return CliRunner().invoke(build(), list(words), env={**clean, **(env or {})})


@dataclass(frozen=True, slots=True)
class Desk:
    """Where an operator sits: a configuration file, and a key where one is needed."""

    file: Path
    router: Router | None = None

    @property
    def url(self) -> str:
        """Where the router listens, or would."""
        port = self.router.port if self.router else self.file.read_text().split("port: ")[1].split(",")[0]
        return f"http://127.0.0.1:{port}"

    @property
    def store(self) -> str:
        return beside(self.file.parent)

    def run(self, *words: str, key: str = KEY) -> Result:
        """The command on this file; blocks, so it is for a router in another process, or none."""
        env = {"XDG_STATE_HOME": str(self.file.parent), "CROSSFADE_ADMIN_KEY": key}
        return run(*words, "-c", str(self.file), env=env)

    async def ask(self, *words: str, key: str = KEY) -> Result:
        """The command, while the router goes on in this loop."""
        return await asyncio.to_thread(self.run, *words, key=key)

    @property
    def gone(self) -> str:
        """How every remark begins that is made without a router."""
        return f"The router at {self.url} does not answer (Connection refused)"


@asynccontextmanager
async def desk_beside_a_router(folder: Path, model: str = "", store: str = "") -> AsyncIterator[Desk]:
    """A running router with two backends that are well, and its file."""
    async with Upstream(says("from a")) as a, Upstream(says("from b")) as b:
        text = config_text(8000, store or beside(folder), {"a": a.url, "b": b.url}, model)
        async with running(text, {"CROSSFADE_ADMIN_KEY": KEY}) as router:
            file = folder / "crossfade.yaml"
            file.write_text(text.replace("port: 8000", f"port: {router.port}"))
            yield Desk(file, router)


def desk_alone(folder: Path, urls: Mapping[str, str] | None = None) -> Desk:
    """A file whose router does not run; nor do its backends, unless named."""
    nowhere = {"a": f"http://127.0.0.1:{free_port()}", "b": f"http://127.0.0.1:{free_port()}"}
    file = folder / "crossfade.yaml"
    file.write_text(config_text(free_port(), beside(folder), urls or nowhere))
    return Desk(file)


def document(result: Result) -> dict[str, Any]:
    """The one JSON document on stdout."""
    said: dict[str, Any] = json.loads(result.stdout)
    return said
