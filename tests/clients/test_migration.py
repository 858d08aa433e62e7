"""The runbook `docs/migration.md`, done as it stands there while JANE serves her users: every command, and what it says."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clients.captured import LMSTUDIO, LMSTUDIO_MODEL, VLLM, answers
from tests.clients.node import serving
from tests.documents import Block, blocks
from tests.serving import free_port, wait_until_answers
from tests.upstream import Upstream

DOCUMENT = (Path(__file__).parents[2] / "docs" / "migration.md").read_text()
MAY_SAY_NO = "crossfade preflight"  # what these backends are told apart by is not the runbook's matter
# What the document shows and every run shows otherwise.
VARIES = (
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"),
    (r"[+]0000", r"[+-]\d{4}"),
    (r"ann@host", r"\S+@\S+"),
    (r"http://[\d.]+:\d+", r"http://[\d.]+:\d+"),
    (r"─+", r"─+"),
    (r"(?<=in rotation) +\d+", r" +\d+"),
    (r" +", r" +"),
)

pytestmark = [pytest.mark.node, pytest.mark.timeout(120, func_only=True)]


def shown(text: str) -> str:
    """The document's output as a pattern."""
    either = re.compile("|".join(f"({found})" for found, _ in VARIES))
    pieces, at = [], 0
    for match in either.finditer(text):
        pieces += [re.escape(text[at : match.start()]), VARIES[(match.lastindex or 0) - 1][1]]
        at = match.end()
    return "".join([*pieces, re.escape(text[at:])])


def steps() -> Iterator[tuple[str, str | None]]:
    """Each block of commands with what the document shows of its output, if it does."""
    kept = [block for block in blocks(DOCUMENT) if block.language in ("sh", "")]
    for block, after in itertools.zip_longest(kept, kept[1:], fillvalue=Block("", "")):
        if block.language == "sh":
            yield block.text, after.text if after.text and not after.language else None


@asynccontextmanager
async def asking(jane: Path, url: str) -> AsyncIterator[list[int]]:
    """JANE at work for her users until the block ends; the statuses of what they were answered."""
    said: list[int] = []
    async with serving(jane, {"LLM_API_URL": url, "PORT": "0"}) as her, httpx.AsyncClient(base_url=her) as client:
        ends = asyncio.Event()

        async def users() -> None:
            for number in itertools.count():
                if ends.is_set():
                    return
                body = {"user": f"user-{number % 50}", "text": "hi", "tools": False}
                said.append((await client.post("/ask", json=body)).status_code)

        task = asyncio.create_task(users())
        try:
            yield said
        finally:
            ends.set()
            await task


async def done(command: str, folder: Path, env: dict[str, str]) -> str:
    """What the commands say; each must have gone well."""
    shell = await asyncio.create_subprocess_exec(
        "bash", "-eo", "pipefail", "-c", command, cwd=folder, env=env, stdout=PIPE, stderr=STDOUT
    )
    said = (await shell.communicate())[0].decode()
    assert shell.returncode == 0 or (shell.returncode == 1 and command.startswith(MAY_SAY_NO)), f"{command}\n{said}"
    return said


async def test_the_runbook_is_true_and_no_user_of_the_application_notices_it(jane: Path, tmp_path: Path) -> None:
    port = free_port()
    async with Upstream(answers(LMSTUDIO)) as lmstudio, Upstream(answers(VLLM)) as vllm:
        env = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "LMSTUDIO_URL": lmstudio.url,
            "VLLM_URL": vllm.url,
            "CROSSFADE_PORT": str(port),
            "LLM_API_URL": f"http://127.0.0.1:{port}/v1",
            "COLUMNS": "120",
        }
        file = next(b.text for b in blocks(DOCUMENT) if b.language == "yaml")
        (tmp_path / "crossfade.yaml").write_text(file.replace("openai/gpt-oss-20b", LMSTUDIO_MODEL))
        async with AsyncExitStack() as stack:
            said: list[int] = []
            for command, output in steps():
                command = command.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
                if command.startswith("crossfade serve"):
                    await stack.enter_async_context(serving_router(command, tmp_path, env, port))
                    continue
                heard = await done(command, tmp_path, env)
                if output is not None:
                    assert re.fullmatch(shown(output.strip()), heard.strip()), (
                        f"{command}\n{heard}\nis not what the page shows:\n{output}"
                    )
                if command.startswith("crossfade preflight"):  # it compares the two better without others
                    said = await stack.enter_async_context(asking(jane, env["LLM_API_URL"]))
            await until_file_is_in_force(f"http://127.0.0.1:{port}", (tmp_path / "crossfade.db.admin-key").read_text())
        assert len(said) > 20 and set(said) == {200}


@asynccontextmanager
async def serving_router(command: str, folder: Path, env: dict[str, str], port: int) -> AsyncIterator[None]:
    """The router, as the document starts it; it must end well."""
    with (folder / "router.log").open("wb") as log:
        router = subprocess.Popen(command.split(), cwd=folder, env=env, stderr=log)
        try:
            await asyncio.to_thread(wait_until_answers, f"http://127.0.0.1:{port}/health/ready", 20, router)
            yield
        finally:
            router.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(router.wait, 20) == 0


async def until_file_is_in_force(url: str, key: str) -> None:
    """The last step has moved everybody."""
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {key.strip()}"}) as client, asyncio.timeout(10):
        while True:
            state: Any = (await client.get(f"{url}/admin/api/status")).json()["models"]["jane"]
            if state["split"] == {"lmstudio": 0.0, "vllm": 1.0} and not state["drift"]:
                return
            await asyncio.sleep(0.05)
