"""What each SDK makes of the router's answers: the same calls with all of them, in front of vLLM's and LM Studio's shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.clients import lmstudio
from tests.clients.captured import BACKENDS, PIECES, REASONS, SAYS, TOTAL_TOKENS, is_second_turn, packets
from tests.clients.players import SDKS, Players
from tests.clients.stage import MIDDLE, Stage, Unfinished, cut_off_after, dies_between_turns
from tests.upstream import END, Script, answer, chunked, event, hangs_up_after, sends

pytestmark = [
    pytest.mark.node,
    pytest.mark.timeout(60, func_only=True),
    pytest.mark.asyncio(loop_scope="module"),
]

EACH = pytest.mark.parametrize("sdk", SDKS)
BOTH = pytest.mark.parametrize("backend", BACKENDS)
STREAMED = pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])


def call(stage: Stage, backend: str = "vllm", **more: Any) -> dict[str, Any]:
    """What a call of this backend's caller is about."""
    return {"baseURL": stage.url, "user": stage.callers[backend], **more}


def reasoning_as_read(sdk: str, backend: str) -> str:
    """LangChain.js reads `reasoning_content` alone, which the router does not write: see docs/http.md."""
    return "" if sdk == "langchain" else REASONS[backend]


@EACH
@BOTH
async def test_a_whole_answer_arrives_whole(players: Players, stage: Stage, sdk: str, backend: str) -> None:
    saw = await players[sdk].play("whole", **call(stage, backend))
    assert saw == {
        "text": [SAYS[backend]],
        "reasoning": [reasoning_as_read(sdk, backend)],
        "finish": ["stop"],
        "usage": TOTAL_TOKENS[backend],
        "requests": 1,
    }


@EACH
@BOTH
@pytest.mark.parametrize("usage", [False, True], ids=["without usage", "with usage"])
async def test_a_stream_arrives_whole_with_one_finish_and_usage_where_it_was_asked_for(
    players: Players, stage: Stage, sdk: str, backend: str, usage: bool
) -> None:
    saw = await players[sdk].play("stream", **call(stage, backend, usage=usage))
    assert saw["text"] == PIECES[backend]
    assert "".join(saw["reasoning"]) == reasoning_as_read(sdk, backend)
    assert saw["finish"] == ["stop"] and saw.get("thrown") is None
    assert saw["usage"] == (TOTAL_TOKENS[backend] if usage else None)


async def test_langchain_finds_the_reasoning_in_the_raw_answer(players: Players, stage: Stage) -> None:
    whole = await players["langchain"].play("whole", **call(stage, raw=True))
    assert whole["reasoning"] == [REASONS["vllm"]]
    streamed = await players["langchain"].play("stream", **call(stage, raw=True))
    assert "".join(streamed["reasoning"]) == REASONS["vllm"]


TOOLS = [("get_weather", {"city": "Paris"}), ("get_time", {"tz": "CET"})]


@EACH
@BOTH
@STREAMED
async def test_two_tools_are_called_and_their_results_go_to_the_other_backend(
    players: Players, stage: Stage, sdk: str, backend: str, streams: bool
) -> None:
    stage.backends[backend].script = dies_between_turns(backend)
    saw = await players[sdk].play("tools", **call(stage, backend, streams=streams))
    other = stage.other(backend)
    assert saw["text"] == [SAYS[other]] and saw["requests"] == 2
    assert [(one["name"], one["input"]) for one in saw["tools"]] == TOOLS
    ids = [one["id"] for one in saw["tools"]]
    assert len({*ids}) == 2 and all(one.startswith("call_") for one in ids)
    (second,) = stage.received[other]
    assert is_second_turn(second)
    asked, *results = second.json["messages"][1:]
    assert [one["id"] for one in asked["tool_calls"]] == ids
    assert [(one["tool_call_id"], one["content"]) for one in results] == [
        (ids[0], "sunny in Paris"),
        (ids[1], "12:00 CET"),
    ]


@EACH
@BOTH
async def test_an_aborted_stream_is_closed_at_the_backend_and_no_longer_in_flight(
    players: Players, stage: Stage, sdk: str, backend: str
) -> None:
    pieces = {"vllm": MIDDLE, "lmstudio": lmstudio.begins(lmstudio.DELTAS[:5])}
    script = stage.backends[backend].script = Unfinished(pieces[backend])
    saw = await players[sdk].play("abort", **call(stage, backend))
    assert saw["requests"] == 1
    await script.is_left()
    await stage.until_nothing_runs()
    assert not stage.received[stage.other(backend)]


@pytest.mark.parametrize("sdk", ["openai", "langchain"])  # the AI SDK reads on for nobody: it wants its abortSignal
async def test_leaving_the_loop_over_a_stream_is_enough(players: Players, stage: Stage, sdk: str) -> None:
    script = stage.backends["vllm"].script = Unfinished(MIDDLE)
    assert (await players[sdk].play("leave", **call(stage)))["text"] == ["one "]
    await script.is_left()
    await stage.until_nothing_runs()


# What a call is thrown with before its first content, and how many requests were made of it by default.
OVERFLOW = {
    "openai for Python": "BadRequestError",
    "openai": "BadRequestError",
    "ai": "AI_APICallError",
    "langchain": "ContextOverflowError",
}


@EACH
@BOTH
@STREAMED
async def test_a_prompt_that_is_too_long_for_all_is_thrown_once_with_the_code_that_sdks_key_on(
    players: Players, stage: Stage, sdk: str, backend: str, streams: bool
) -> None:
    stage.backends["vllm"].script = sends(*packets("vllm-0.33-gpt-oss/err_ctx"))
    stage.backends["lmstudio"].script = sends(lmstudio.TOO_LONG)
    saw = await players[sdk].play("stream" if streams else "whole", **call(stage, backend))
    thrown = saw["thrown"]
    assert saw["requests"] == 1
    assert (thrown["name"], thrown["status"], thrown["code"]) == (OVERFLOW[sdk], 400, "context_length_exceeded")
    assert (thrown["type"], thrown["param"]) == ("invalid_request_error", "messages")
    assert "maximum context length" in thrown["message"]


@EACH
@STREAMED
async def test_what_a_backend_rejects_is_thrown_once_in_its_words(
    players: Players, stage: Stage, sdk: str, streams: bool
) -> None:
    saw = await players[sdk].play("stream" if streams else "whole", **call(stage, temperature=2))
    thrown = saw["thrown"]
    assert (saw["requests"], thrown["status"]) == (1, 400)
    assert (thrown["type"], thrown["param"]) == ("invalid_request_error", "temperature")
    assert "temperature must be in [0, 2]" in thrown["message"]
    assert not stage.received["lmstudio"]


NO_SUCH_PATH = answer({"error": "Unexpected endpoint or method. (POST /v1/chat/completions)"})


@EACH
@STREAMED
async def test_an_error_that_lm_studio_calls_a_success_is_never_an_empty_answer(
    players: Players, stage: Stage, sdk: str, streams: bool
) -> None:
    stage.backends["lmstudio"].script = sends(NO_SUCH_PATH)
    saw = await players[sdk].play("stream" if streams else "whole", **call(stage, "lmstudio"))
    assert ("".join(saw["text"]), saw["requests"]) == (SAYS["vllm"], 1)


DONE = chunked(b"data: [DONE]\n\n")
ENDS: Mapping[str, list[bytes]] = {
    "without [DONE]": [chunked(event({}, "stop")), END],
    "with more after [DONE]": [chunked(event({}, "stop")), DONE, chunked(event({"content": "more"})), END],
}


@EACH
@pytest.mark.parametrize("how", ENDS)
async def test_a_stream_that_ends_in_another_way_is_whole_all_the_same(
    players: Players, stage: Stage, sdk: str, how: str
) -> None:
    stage.backends["vllm"].script = sends(*MIDDLE, *ENDS[how])
    saw = await players[sdk].play("stream", **call(stage))
    assert (saw["text"], saw["finish"], saw.get("thrown")) == (["one ", "two "], ["stop"], None)


BREAKS: Mapping[str, tuple[str, Script]] = {
    "an error event of vLLM": ("vllm", sends(*packets("vllm-0.33-gpt-oss/fail_dead_stream"))),
    "an abort of vLLM": ("vllm", sends(*MIDDLE, chunked(event({}, "abort")), END)),
    "a cut connection": ("vllm", cut_off_after(*MIDDLE)),
    "an end without a finish": ("vllm", sends(*MIDDLE, END)),
    "a [DONE] without a finish": ("vllm", sends(*MIDDLE, DONE, END)),
    "an error event of LM Studio": (
        "lmstudio",
        sends(*lmstudio.begins(lmstudio.DELTAS[:5]), lmstudio.CRASHES, END),
    ),
}


@EACH
@pytest.mark.parametrize("how", BREAKS)
async def test_a_stream_that_breaks_after_content_is_thrown_and_never_a_silent_end(
    players: Players, brittle_stage: Stage, sdk: str, how: str
) -> None:
    backend, script = BREAKS[how]
    brittle_stage.backends[backend].script = script
    saw = await players[sdk].play("stream", **call(brittle_stage, backend))
    assert saw["text"], "what came before is the application's"
    assert saw["thrown"]["code"] == "stream_broken" and "broke off" in saw["thrown"]["message"]
    assert saw["requests"] == 1 and saw.get("finish") in (None, [], ["error"])


async def test_the_text_stream_of_the_ai_sdk_ends_silently_and_its_on_error_does_not(
    players: Players, brittle_stage: Stage
) -> None:
    backend, script = BREAKS["an error event of vLLM"]
    brittle_stage.backends[backend].script = script
    saw = await players["ai"].play("text", **call(brittle_stage, backend))
    assert saw["text"] == ["Hel"]
    assert [error["code"] for error in saw["errors"]] == ["stream_broken"]
    assert saw["finish"] == ["error"]


CUT = event({"tool_calls": [{"index": 0, "id": "1", "function": {"name": "get_time", "arguments": '{"tz'}}]})


@EACH
async def test_half_a_tool_call_before_any_text_is_held_and_the_other_backend_is_asked(
    players: Players, stage: Stage, sdk: str
) -> None:
    stage.backends["vllm"].script = hangs_up_after(*MIDDLE[:2], chunked(CUT))
    saw = await players[sdk].play("tools", **call(stage, streams=True))
    assert [(one["name"], one["input"]) for one in saw["tools"]] == TOOLS
    assert saw["text"] == [SAYS["lmstudio"]] and saw["requests"] == 2


@EACH
async def test_a_tool_call_that_is_cut_in_the_middle_is_thrown_and_nothing_goes_on_from_it(
    players: Players, stage: Stage, sdk: str
) -> None:
    stage.backends["vllm"].script = cut_off_after(*MIDDLE, chunked(CUT))
    saw = await players[sdk].play("tools", **call(stage, streams=True))
    assert saw["requests"] == 1 and "tools" not in saw, "a second turn would bring what the tool said to half a call"
    assert saw["thrown"]["message"]


async def test_the_ai_sdk_runs_no_half_tool_call_but_goes_on_unless_an_error_stops_it(
    players: Players, stage: Stage
) -> None:
    stage.backends["vllm"].script = cut_off_after(*MIDDLE, chunked(CUT))
    saw = await players["ai"].play("tools", **call(stage, streams=True, goesOn=True))
    assert saw["requests"] == 2 and saw["thrown"]["code"] == "stream_broken"
    _, second = stage.received["vllm"]
    assert "AI_InvalidToolInputError" in second.json["messages"][-1]["content"]
