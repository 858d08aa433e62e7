"""`crossfade preflight` on real engines: two equal ones look alike, and of two unlike ones it tells what a person would find out."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engines.engine import Engine

MODEL = "smollm2"
COMMAND = (sys.executable, "-c", "from router.cli import main; main()", "preflight", MODEL, "--json")
DIALECT_ROWS = {
    "answers: keys", "stream: keys", "stream: usage on request", "stream: usage unasked", "usage: sums and details",
    "errors: prompt too long", "errors: unknown field", "parameters: n", "parameters: logprobs", "parameters: stop",
    "parameters: max_tokens", "prompt tokens: one message", "prompt tokens: system and turns", "context: prompt and answer",
    "JSON: json_object", "JSON: json_schema",
}  # fmt: skip


@pytest.mark.llama
@pytest.mark.timeout(180)
async def test_two_servers_of_one_engine_look_alike(left: Engine, right: Engine, tmp_path: Path) -> None:
    code, found = await preflight(tmp_path, left, right)
    differing = {row: cells["right"] for row, cells in found.items() if cells["right"]["colour"] != "green"}
    assert code == 0
    assert set(differing) <= {"answers: text at temperature 0", "parameters: seed"}, (
        differing
    )  # a warm cache rounds otherwise


@pytest.mark.vllm
@pytest.mark.timeout(900)
async def test_llama_cpp_and_vllm_differ_in_what_vllm_was_started_without(
    left: Engine, vllm: Engine, tmp_path: Path
) -> None:
    code, found = await preflight(tmp_path, left, vllm)
    colours = {row: cells["vllm"]["colour"] for row, cells in found.items()}
    assert {row: colours[row] for row in DIALECT_ROWS} == dict.fromkeys(DIALECT_ROWS, "green")
    red = {row for row, colour in colours.items() if colour == "red"}
    assert (code, {row.partition(":")[0] for row in red}) == (1, {"tools", "stream"})
    assert "--enable-auto-tool-choice" in found["tools: auto"]["vllm"]["fix"]
    assert found["answers: text at temperature 0"]["vllm"]["colour"] in ("green", "amber")  # one is quantised


async def preflight(folder: Path, *engines: Engine) -> tuple[int, dict[str, Any]]:
    """Exit code, and the cells of each row by backend."""
    names = [engine.role.name for engine in engines]
    backends = {e.role.name: {"kind": e.role.kind, "url": e.role.url} for e in engines}
    on = {e.role.name: e.role.model for e in engines}
    model = {
        "on": on,
        "split": {names[0]: 1.0},
        "sampling": {"temperature": 0.7, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
    }
    file = folder / "crossfade.yaml"
    file.write_text(json.dumps({"backends": backends, "models": {MODEL: model}}))  # JSON is YAML
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "-c", str(file), env={**os.environ}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, {f"{row['group']}: {row['check']}": row["cells"] for row in json.loads(out)["rows"]}
