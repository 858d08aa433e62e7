"""JANE, a real NestJS application, end to end: its users, JANE, `crossfade serve` and the backends behind it.

JANE knows the URL in `LLM_API_URL` and nothing else; what it answers must not tell which backend was at work.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.clients import lmstudio
from tests.clients.captured import BACKENDS, REASONS, SAYS, is_second_turn, packets
from tests.clients.node import serving
from tests.clients.stage import MIDDLE, Stage, Unfinished, cut_off_after, dies_between_turns, on_stage
from tests.upstream import Received, chunked, event, hangs_up_after, sends

pytestmark = [
    pytest.mark.node,
    pytest.mark.timeout(60, func_only=True),
    pytest.mark.asyncio(loop_scope="module"),
]

BOTH = pytest.mark.parametrize("backend", BACKENDS)
TOOLS = ["get_weather", "get_time"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_jane(jane: Path, whole_stage: Stage) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serving(jane, {"LLM_API_URL": whole_stage.url, "PORT": "0"}) as url,
        httpx.AsyncClient(base_url=url) as c,
    ):
        yield c


async def ask(jane: httpx.AsyncClient, user: str, *, tools: bool = False) -> dict[str, Any]:
    """A whole answer of JANE's."""
    response = await jane.post("/ask", json={"user": user, "text": "hi", "tools": tools})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def ask_streaming(jane: httpx.AsyncClient, user: str, *, tools: bool = False) -> list[dict[str, Any]]:
    """The events of a streamed answer of JANE's."""
    response = await jane.post("/ask/stream", json={"user": user, "text": "hi", "tools": tools})
    assert response.status_code == 200, response.text
    return [json.loads(line.removeprefix("data: ")) for line in response.text.splitlines() if line]


def joined(events: list[dict[str, Any]], key: str) -> str:
    """All pieces of one kind, put together."""
    return "".join(one[key] for one in events if key in one)


@BOTH
async def test_each_user_is_answered_by_an_own_backend_under_one_name(
    running_jane: httpx.AsyncClient, stage: Stage, backend: str
) -> None:
    answer = await ask(running_jane, stage.callers[backend])
    said = {"text": SAYS[backend], "reasoning": REASONS[backend]}
    assert answer == {**said, "model": "jane", "turns": 1, "usedTools": []}
    assert len(stage.received[backend]) == 1 and not stage.received[stage.other(backend)]


@BOTH
async def test_an_answer_is_streamed_on_piece_by_piece(
    running_jane: httpx.AsyncClient, stage: Stage, backend: str
) -> None:
    events = await ask_streaming(running_jane, stage.callers[backend])
    assert joined(events, "text") == SAYS[backend]
    assert joined(events, "reasoning") == REASONS[backend]
    assert len(events) > 3 and events[-1] == {"done": True}
    assert len(stage.received[backend]) == 1 and not stage.received[stage.other(backend)]


def check_second_turn(first: Received, second: Received) -> None:
    """The second turn brings the question, the calls as the model made them, and the results of all of them together."""
    assert second.json["messages"][:2] == first.json["messages"]
    asked, *results = second.json["messages"][2:]
    assert [call["function"]["name"] for call in asked["tool_calls"]] == TOOLS
    assert [json.loads(call["function"]["arguments"]) for call in asked["tool_calls"]] == [
        {"city": "Paris"},
        {"tz": "CET"},
    ]
    assert [result["tool_call_id"] for result in results] == [call["id"] for call in asked["tool_calls"]]
    assert [result["content"] for result in results] == ["18 C and sunny in Paris", "12:00 CET"]


@BOTH
async def test_tools_are_called_in_a_batch_and_answered_in_a_second_turn(
    running_jane: httpx.AsyncClient, stage: Stage, backend: str
) -> None:
    answer = await ask(running_jane, stage.callers[backend], tools=True)
    assert (answer["text"], answer["turns"], answer["usedTools"]) == (SAYS[backend], 2, TOOLS)
    check_second_turn(*stage.received[backend])
    assert not stage.received[stage.other(backend)]


@BOTH
async def test_tools_are_called_in_a_batch_out_of_a_stream(
    running_jane: httpx.AsyncClient, stage: Stage, backend: str
) -> None:
    events = await ask_streaming(running_jane, stage.callers[backend], tools=True)
    assert [one["tool"] for one in events if "tool" in one] == TOOLS
    assert joined(events, "text") == SAYS[backend] and events[-1] == {"done": True}
    check_second_turn(*stage.received[backend])


@BOTH
@pytest.mark.parametrize("streams", [False, True], ids=["whole answers", "streams"])
async def test_the_second_turn_crosses_to_the_other_backend_where_the_first_is_gone(
    running_jane: httpx.AsyncClient, stage: Stage, backend: str, streams: bool
) -> None:
    stage.backends[backend].script = dies_between_turns(backend)
    other = stage.other(backend)
    if streams:
        events = await ask_streaming(running_jane, stage.callers[backend], tools=True)
        assert joined(events, "text") == SAYS[other] and events[-1] == {"done": True}
    else:
        answer = await ask(running_jane, stage.callers[backend], tools=True)
        assert (answer["text"], answer["model"], answer["turns"]) == (SAYS[other], "jane", 2)
    assert [is_second_turn(call) for call in stage.received[other]] == [True]
    check_second_turn(stage.received[backend][0], stage.received[other][0])


async def test_a_backend_that_dies_before_its_first_token_is_not_noticed(
    running_jane: httpx.AsyncClient, stage: Stage
) -> None:
    stage.backends["vllm"].script = hangs_up_after(*MIDDLE[:2])
    events = await ask_streaming(running_jane, stage.callers["vllm"])
    assert joined(events, "text") == SAYS["lmstudio"] and events[-1] == {"done": True}


CUT = event({"tool_calls": [{"index": 0, "id": "1", "function": {"name": "get_time", "arguments": '{"tz'}}]})


async def test_half_a_tool_call_before_any_text_is_held_and_the_other_backend_is_asked(
    running_jane: httpx.AsyncClient, stage: Stage
) -> None:
    stage.backends["vllm"].script = hangs_up_after(*MIDDLE[:2], chunked(CUT))
    events = await ask_streaming(running_jane, stage.callers["vllm"], tools=True)
    assert [one["tool"] for one in events if "tool" in one] == TOOLS
    assert joined(events, "text") == SAYS["lmstudio"] and events[-1] == {"done": True}
    check_second_turn(*stage.received["lmstudio"])


async def test_an_answer_that_cannot_be_finished_ends_with_an_error_and_half_its_tool_call_is_never_run(
    running_jane: httpx.AsyncClient, stage: Stage
) -> None:
    stage.backends["vllm"].script = cut_off_after(*MIDDLE, chunked(CUT))
    events = await ask_streaming(running_jane, stage.callers["vllm"], tools=True)
    assert joined(events, "text") == "one two " and "error" in events[-1]
    assert not any("tool" in one for one in events)
    assert [is_second_turn(call) for call in stage.received["vllm"]] == [False]


async def test_a_user_who_leaves_jane_frees_the_backend(running_jane: httpx.AsyncClient, stage: Stage) -> None:
    script = stage.backends["vllm"].script = Unfinished(MIDDLE)
    question = {"user": stage.callers["vllm"], "text": "hi"}
    async with running_jane.stream("POST", "/ask/stream", json=question) as response:
        assert json.loads((await anext(response.aiter_lines())).removeprefix("data: ")) == {"text": "one "}
    await script.is_left()
    await stage.until_nothing_runs()


async def test_a_prompt_that_is_too_long_for_all_keeps_its_code(running_jane: httpx.AsyncClient, stage: Stage) -> None:
    stage.backends["vllm"].script = sends(*packets("vllm-0.33-gpt-oss/err_ctx"))
    stage.backends["lmstudio"].script = sends(lmstudio.TOO_LONG)
    for backend, path in itertools.product(BACKENDS, ("/ask", "/ask/stream")):
        response = await running_jane.post(path, json={"user": stage.callers[backend], "text": "hi"})
        assert (response.status_code, response.json()["code"]) == (400, "context_length_exceeded")


async def test_with_all_backends_failing_the_router_is_asked_once(
    running_jane: httpx.AsyncClient, stage: Stage
) -> None:
    for backend in stage.backends.values():
        backend.script = sends(*packets("vllm-0.33-gpt-oss/fail_dead"))
    before = await stage.calls_by_result()
    response = await running_jane.post("/ask", json={"user": stage.callers["vllm"], "text": "hi"})
    assert (response.status_code, response.json()["code"]) == (503, "backend_unavailable")
    after = await stage.calls_by_result()
    assert sum(after.values()) - sum(before.values()) == 1


async def test_with_all_backends_down_jane_can_say_when_to_come_back(jane: Path) -> None:
    async with on_stage() as stage, serving(jane, {"LLM_API_URL": stage.url, "PORT": "0"}) as url:
        for backend in stage.backends.values():
            await backend.stop()
        async with httpx.AsyncClient(base_url=url) as client:
            for path in ("/ask", "/ask/stream"):
                response = await client.post(path, json={"user": "user-0", "text": "hi"})
                assert response.status_code == 503, response.text
                assert 1 <= int(response.headers["retry-after"]) <= 60
                assert response.json()["message"]
