"""Preflight against scripted engines of each kind: their dialects alone are green, and each real difference has its colour and remedy."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from policies.preflight_cells import Cell, Colour
from policies.preflight_facts import Check
from router.config import loads
from router.preflight.run import Findings, Wish, run
from tests.router.preflight.engines import Differs, Engine, serving

GREEN, AMBER, RED, GREY = Colour.GREEN, Colour.AMBER, Colour.RED, Colour.GREY
KEY = "sk-engine-key-marker"
SAMPLING = "    sampling: {temperature: 0.7, top_k: 40, top_p: 0.95, min_p: 0.05}\n"
NAMES = {"vllm": "unsloth/gpt-oss-20b", "lmstudio": "openai/gpt-oss-20b", "llama-server": "gpt-oss-20b"}


def engine(kind: str, **differs: Any) -> Engine:
    return Engine(kind, NAMES[kind], Differs(**differs))


async def found(*engines: Engine, sampling: str = SAMPLING, timeout_s: float = 10.0) -> Findings:
    """All that preflight finds; the first engine is the baseline."""
    async with serving(*engines) as config:
        loaded = loads(config + sampling, {"ENGINE_KEY": KEY}).config
        wish = Wish("jane", tuple(loaded.models["jane"].on), timeout_s)
        return await run(loaded, {"ENGINE_KEY": KEY}, wish, lambda *_: None)


def at(findings: Findings, row: str, column: int = 1) -> Cell:
    return next(line.cells[column] for line in findings.lines if f"{line.group}: {line.name}" == row)


# What the router knows that LM Studio has not, and sends elsewhere.
LACKED = {"lmstudio": ["n", "logprobs"]}
PAIRS = list(itertools.permutations(NAMES, 2))


@pytest.mark.parametrize(("old", "new"), PAIRS, ids=[f"{old} to {new}" for old, new in PAIRS])
async def test_engines_that_differ_in_their_dialect_alone_are_alike_to_the_application(old: str, new: str) -> None:
    findings = await found(engine(old), engine(new))
    differing = {line.name: line.cells[1] for line in findings.lines if line.cells[1].colour is not GREEN}
    assert list(differing) == LACKED.get(new, []), differing
    assert {cell.says for cell in differing.values()} <= {"not sent here"}


PARSER = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
# One engine is llama.cpp's, the other vLLM's, which does one thing otherwise: row, what, colour, words in the reason or the remedy.
DIFFERENCES: dict[str, tuple[str, dict[str, Any], Colour, str]] = {
    "another chat template": ("prompt tokens: one message", {"more_tokens": 25}, RED, "--chat-template"),
    "a start token more": ("prompt tokens: system and turns", {"more_tokens": 1}, AMBER, "chat template"),
    "a smaller context": ("context: prompt and answer", {"context_tokens": 2048}, AMBER, "--max-model-len 4096"),
    "a name that is not listed": ("model: listed", {"lists": False}, RED, "new-vllm: another"),
    "another model's name": ("model: name in answers", {"named": "tiny"}, AMBER, "new-vllm: tiny"),
    "another answer": ("answers: text at temperature 0", {"text": "Blue, white and red it is."}, AMBER, "quantisation"),
    "n without effect": ("parameters: n", {"ignores": {"n"}}, RED, "`n: 2`"),
    "stop without effect": ("parameters: stop", {"ignores": {"stop"}}, RED, "`stop`"),
    "seed without effect": ("parameters: seed", {"ignores": {"seed"}}, AMBER, "`seed`"),
    "tools switched off": (
        "tools: auto", {"refuses": {"tools": "requires --enable-auto-tool-choice"}}, RED, "--tool-call-parser"),
    "started without a tool parser": (
        "tools: auto", {"refuses": {"tools": PARSER}}, RED, "vllm serve … --enable-auto-tool-choice --tool-call-parser NAME"),
    "started without a tool parser, in a stream": (
        "stream: forced call", {"refuses": {"tools": PARSER}}, RED, PARSER[PARSER.index("requires"):]),
    "a forced call not made": ("tools: forced call", {"ignores": {"tool_choice"}}, RED, "required"),
    "JSON not enforced": ("JSON: json_schema", {"ignores": {"response_format"}}, RED, "not the JSON"),
    "a stream in one piece": ("stream: pieces and end", {"one_piece": True}, AMBER, "does not stream"),
    "an unknown field refused": (
        "errors: unknown field", {"refuses": {"x_crossfade_preflight": "extra_forbidden"}}, RED, "extra_forbidden"),
    "a long prompt cut": ("errors: prompt too long", {"cuts_long_prompts": True}, RED, "cut silently"),
    "a server that hangs up": ("parameters: logprobs", {"drops_at": "logprobs"}, RED, "connection ended"),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENCES)
async def test_each_difference_has_its_colour_and_what_to_do(name: str) -> None:
    row, differs, colour, words = DIFFERENCES[name]
    findings = await found(engine("llama-server"), engine("vllm", **differs))
    cell = at(findings, row)
    assert (cell.colour, words in f"{cell.why}\n{cell.fix}") == (colour, True), cell
    assert findings.is_red is (RED in {c.colour for line in findings.lines for c in line.cells})


async def test_sampling_that_is_not_set_comes_with_the_block_that_sets_what_the_baseline_tells() -> None:
    findings = await found(engine("llama-server"), engine("vllm"), sampling="")
    cell = at(findings, "parameters: sampling defaults")
    assert cell.colour is AMBER and "as old-llama-server says of itself" in cell.fix
    assert "sampling: {temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05}" in cell.fix


async def test_calls_go_out_as_an_attempt_writes_them_and_each_question_once() -> None:
    old, new = engine("lmstudio"), engine("vllm")
    await found(old, new)
    for each in (old, new):
        assert {call["model"] for call in each.asked} == {each.name}
        assert len(each.asked) == len(Check) + 1 - len(LACKED.get(each.kind, []))  # one more is after the model's name


async def test_sampling_is_filled_in_where_a_call_names_none() -> None:
    new = engine("vllm")
    await found(engine("lmstudio"), new, sampling="    sampling: {temperature: 0.7, top_p: 0.95}\n")
    filled = [call for call in new.asked if call.get("temperature") == 0.7]
    assert [call["top_p"] for call in filled] == [0.95]


async def test_a_backend_that_is_not_there_is_red_and_is_asked_nothing_else() -> None:
    async with serving(engine("lmstudio")) as config:
        gone = config.replace("on: {", "on: {gone: x, ").replace(
            "backends:", "backends:\n  gone: {kind: vllm, url: http://127.0.0.1:1}"
        )
        loaded = loads(gone, {"ENGINE_KEY": KEY}).config
        wish = Wish("jane", ("old-lmstudio", "gone"), 10.0)
        findings = await run(loaded, {"ENGINE_KEY": KEY}, wish, lambda *_: None)
    assert at(findings, "server: reachable, well").colour is RED
    assert {line.cells[1].colour for line in findings.lines[1:]} == {GREY}
    assert findings.is_red


async def test_a_call_that_is_never_answered_ends_with_its_limit() -> None:
    silent = asyncio.Event()

    class Silent(Engine):
        async def __call__(self, request: Any, connection: Any) -> None:
            silent.set()
            await connection.until_gone()

    hanging = Silent("vllm", NAMES["vllm"])
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    findings = await found(engine("lmstudio"), hanging, timeout_s=0.05)
    assert silent.is_set()
    assert loop.time() - began_s < 0.05 * 2 * (len(Check) + 3) + 5
    cell = at(findings, "tools: auto")
    assert (cell.colour, cell.says) == (RED, "504 timeout")
    assert "timeouts: {first_token_s" in cell.fix


async def test_a_server_that_quotes_the_routers_key_is_not_repeated() -> None:
    refusing = engine(
        "vllm", refuses={"n": f"bad key {KEY} in the call", "logprobs": f"Bearer {KEY}"}, named=f"x-{KEY}"
    )
    findings = await found(engine("llama-server"), refusing)
    assert KEY not in repr(findings)
    assert "[key]" in at(findings, "parameters: n").why
