"""The lines of docs/http.md on how clients are pointed at the router: they run, and they fail where a stream breaks."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from tests.clients.captured import SAYS, packets
from tests.clients.node import NODE
from tests.clients.stage import Stage
from tests.upstream import sends

pytestmark = [pytest.mark.node, pytest.mark.timeout(60, func_only=True), pytest.mark.asyncio(loop_scope="module")]

_SECTION = (
    (Path(__file__).parents[2] / "docs" / "http.md").read_text().partition("\n## Clients\n")[2].partition("\n## ")[0]
)
# By who reads them: the first word that a package's name would say.
SNIPPETS = {
    next(name for name in ("ai-sdk", "langchain", "OpenAI(", "fetch(") if name in text).strip("(") + f" ({language})": (
        language,
        text,
    )
    for language, text in re.findall(r"```(js|python)\n(.*?)```", _SECTION, re.DOTALL)
}


async def run(snippet: str, sdks: Path, stage: Stage) -> tuple[int, str]:
    """The exit status of these lines, and what they printed."""
    language, text = SNIPPETS[snippet]
    text = text.replace("user-1", stage.callers["vllm"])
    command = [NODE, "--input-type=module", "-"] if language == "js" else [sys.executable, "-"]
    pipe = asyncio.subprocess.PIPE
    env = {**os.environ, "LLM_API_URL": stage.url}
    process = await asyncio.create_subprocess_exec(*command, cwd=sdks, env=env, stdin=pipe, stdout=pipe, stderr=pipe)
    out, err = await process.communicate(text.encode())
    assert process.returncode is not None
    print(err.decode())
    return process.returncode, out.decode()


async def test_each_client_has_its_lines() -> None:
    assert sorted(SNIPPETS) == ["OpenAI (js)", "OpenAI (python)", "ai-sdk (js)", "fetch (js)", "langchain (js)"]


@pytest.mark.parametrize("snippet", SNIPPETS)
async def test_the_lines_for_a_client_print_the_answer(sdks: Path, stage: Stage, snippet: str) -> None:
    status, printed = await run(snippet, sdks, stage)
    assert (status, printed.strip()) == (0, SAYS["vllm"])
    assert len(stage.received["vllm"]) == 1


@pytest.mark.parametrize("snippet", [name for name, (language, _) in SNIPPETS.items() if language == "js"])
async def test_the_lines_for_a_client_fail_where_its_stream_breaks_off(
    sdks: Path, brittle_stage: Stage, snippet: str
) -> None:
    brittle_stage.backends["vllm"].script = sends(*packets("vllm-0.33-gpt-oss/fail_dead_stream"))
    status, printed = await run(snippet, sdks, brittle_stage)
    assert status != 0 and printed == "Hel"
