"""The official openai package for Node: what an application sees through the router, and what reaches the backends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.clients.captured import BACKENDS, PIECES, REASONS, SAYS, VECTOR, VLLM_MODEL
from tests.clients.node import report_of
from tests.clients.stage import MIDDLE, Stage, Unfinished, cut_off_after, on_stage
from tests.upstream import (
    answer,
    chunked,
    event,
    hangs_up_after,
    sends,
)

pytestmark = [
    pytest.mark.node,
    pytest.mark.timeout(60, func_only=True),
    pytest.mark.asyncio(loop_scope="module"),
]

BOTH = pytest.mark.parametrize("backend", BACKENDS)


async def report(package: Path, stage: Stage, name: str, backend: str = "vllm") -> dict[str, Any]:
    """What the call `name` saw, made by the caller of this backend."""
    found: dict[str, Any] = await report_of(package / "calls.mjs", name, stage.url, stage.callers[backend])
    return found


@BOTH
async def test_a_chat_is_answered_by_the_callers_backend_under_the_public_name(
    sdks: Path, stage: Stage, backend: str
) -> None:
    saw = (await report(sdks, stage, "chat", backend))["saw"]
    assert (saw["text"], saw["model"], saw["backend"]) == (SAYS[backend], "jane", backend)
    assert saw["usage"]["total_tokens"] > 0
    assert len(stage.received[backend]) == 1 and not stage.received[stage.other(backend)]


@BOTH
@pytest.mark.parametrize("name", ["stream", "stream with usage"])
async def test_a_stream_comes_in_the_backends_own_pieces(sdks: Path, stage: Stage, backend: str, name: str) -> None:
    saw = (await report(sdks, stage, name, backend))["saw"]
    assert (saw["text"], saw["reasoning"]) == (PIECES[backend], REASONS[backend])
    assert (saw["models"], saw["finish"]) == (["jane"], "stop")
    assert (saw["usage"] is not None) == (name == "stream with usage")


@BOTH
@pytest.mark.parametrize("name", ["tools", "tools streamed"])
async def test_two_tools_are_called_and_their_results_come_back_in_one_second_turn(
    sdks: Path, stage: Stage, backend: str, name: str
) -> None:
    saw = (await report(sdks, stage, name, backend))["saw"]
    assert saw == {"text": SAYS[backend], "roles": ["user", "assistant", "tool", "tool", "assistant"]}
    _, second = stage.received[backend]
    asked, results = second.json["messages"][1], second.json["messages"][2:]
    assert [result["content"] for result in results] == ["sunny in Paris", "12:00 CET"]
    assert [result["tool_call_id"] for result in results] == [call["id"] for call in asked["tool_calls"]]


@pytest.mark.parametrize(
    ("name", "pieces"),
    [("abort", MIDDLE), ("break", MIDDLE), ("timeout", ())],
    ids=["a stream that is aborted", "a stream whose loop is left", "an answer that takes too long"],
)
async def test_what_the_application_leaves_is_closed_at_the_backend(
    sdks: Path, stage: Stage, name: str, pieces: Sequence[bytes]
) -> None:
    stage.backends["vllm"].script = Unfinished(pieces)
    found = await report(sdks, stage, name)
    assert found["saw"]["text"] == "the first was left", "seen by the same process, so its end closed nothing"
    assert not stage.received["lmstudio"]


async def test_an_unknown_model_is_a_404_that_the_package_understands_and_does_not_repeat(
    sdks: Path, stage: Stage
) -> None:
    found = await report(sdks, stage, "unknown model")
    assert found["requests"] == 1
    assert (found["saw"]["thrown"], found["saw"]["status"]) == ("NotFoundError", 404)
    assert (found["saw"]["code"], found["saw"]["param"]) == ("model_not_found", "model")
    assert "nobody" in found["saw"]["message"]


async def test_a_400_of_the_backend_is_surfaced_once(sdks: Path, stage: Stage) -> None:
    found = await report(sdks, stage, "too hot")
    assert found["requests"] == 1
    assert (found["saw"]["thrown"], found["saw"]["status"]) == ("BadRequestError", 400)
    assert (found["saw"]["type"], found["saw"]["param"]) == ("invalid_request_error", "temperature")
    assert "temperature must be in [0, 2]" in found["saw"]["message"]
    assert not stage.received["lmstudio"]


BROKEN = answer({"error": {"message": "boom", "type": "server_error", "code": 500}}, "500 Internal Server Error")


async def test_with_all_backends_gone_the_package_makes_one_request(sdks: Path) -> None:
    async with on_stage() as stage:
        for backend in stage.backends.values():
            await backend.stop()
        found = await report(sdks, stage, "chat")
    assert found["requests"] == 1, "its two retries would multiply the router's own"
    assert (found["saw"]["thrown"], found["saw"]["status"]) == ("InternalServerError", 503)


async def test_with_all_backends_failing_the_package_makes_one_request(sdks: Path, stage: Stage) -> None:
    for backend in stage.backends.values():
        backend.script = sends(BROKEN)
    found = await report(sdks, stage, "chat")
    assert found["requests"] == 1, "its two retries would multiply the router's own"
    assert found["saw"]["thrown"] == "InternalServerError" and found["saw"]["status"] >= 500
    assert {len(calls) for calls in stage.received.values()} <= {1, 2}


async def test_a_backend_that_dies_before_its_first_token_is_not_noticed(sdks: Path, stage: Stage) -> None:
    stage.backends["vllm"].script = hangs_up_after(*MIDDLE[:2])
    found = await report(sdks, stage, "stream")
    assert found["requests"] == 1
    assert "".join(found["saw"]["text"]) == SAYS["lmstudio"] and found["saw"]["finish"] == "stop"


async def test_a_stream_that_breaks_in_a_tool_call_is_thrown_and_not_taken_for_an_answer(
    sdks: Path, stage: Stage
) -> None:
    begun = event({"tool_calls": [{"index": 0, "id": "1", "function": {"name": "get_time", "arguments": '{"tz'}}]})
    stage.backends["vllm"].script = cut_off_after(*MIDDLE, chunked(begun))
    found = await report(sdks, stage, "tools streamed")
    assert found["requests"] == 1
    assert "thrown" in found["saw"], "a cut tool call must not look complete"


async def test_models_are_the_public_ones(sdks: Path, stage: Stage) -> None:
    assert (await report(sdks, stage, "models"))["saw"] == ["jane"]


async def test_an_embedding_is_decoded(sdks: Path, stage: Stage) -> None:
    assert (await report(sdks, stage, "embedding"))["saw"] == {"vector": list(VECTOR), "model": "jane"}
    assert stage.received["vllm"][0].json["model"] == VLLM_MODEL
