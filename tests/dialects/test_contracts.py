"""Cases 59 to 61: what is no answer to what was asked is tried elsewhere, is never repaired, and is counted."""

from __future__ import annotations

import pytest

from tests.clients.captured import packets
from tests.dialects.case import Case, captured, each_form, play
from tests.dialects.stage import Scene
from tests.dialects.tools import TOOLS, calls_of
from tests.faults.scripts import ROLE, streamed
from tests.faults.stage import Told
from tests.upstream import Script, answer, event, sends

pytestmark = pytest.mark.asyncio(loop_scope="module")

GPT_OSS = "vllm-0.33-gpt-oss"
DONE = b"data: [DONE]\n\n"


def with_words(name: str, *words: tuple[bytes, bytes]) -> Script:
    """A capture whose stub of a tokenizer wrote tokens as numbers, with what the real one writes for them."""
    body = b"".join(packets(name)).partition(b"\r\n\r\n")[2]
    for number, word in words:
        assert number in body
        body = body.replace(number, word)
    return sends(answer(body))


BAD_JSON = captured(f"{GPT_OSS}/tool_badjson")
NO_CHANNEL = with_words(
    f"{GPT_OSS}/nochannel",
    (b"t13225 t21402 t2201 t2935 t1062 t9334 t540 t722 t200002", b"Hello there, how are you?<|return|>"),
)
TRUNCATED = with_words(
    f"{GPT_OSS}/tool_truncated",
    (b"t200006 t173781 t200005 t12606 t815 t316 t28", b"<|start|>assistant<|channel|>commentary to="),
)
BAD_JSON_STREAM = streamed(
    ROLE,
    event(
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "chatcmpl-tool-1",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": ""},
                }
            ]
        }
    ),
    event({"tool_calls": [{"index": 0, "function": {"arguments": '{"city":"Par'}}]}),
    event({}, "tool_calls"),
    DONE,
)
LEAK_STREAM = streamed(
    ROLE,
    event({"content": "<|start|>"}),
    event({"content": "assistant"}),
    event({"content": "<|channel|>commentary to="}),
    event({}, "length"),
    DONE,
)
OF_B = Told(200, "from b", backend="b")
NO_ANSWER = Told(502, code="answer_not_accepted")
MOVED, STAYED = "vllm not_accepted, b ok", "vllm not_accepted, vllm not_accepted"
ASKED = (("tools", TOOLS),)
CONTRACTS = [
    Case(59, "arguments that are no JSON move the call", BAD_JSON, OF_B, MOVED, "w", asks=ASKED),
    Case(
        59,
        "arguments that are no JSON move a stream, which has held them back",
        BAD_JSON_STREAM,
        OF_B,
        MOVED,
        asks=ASKED,
    ),
    Case(
        59,
        "arguments that are no JSON, again and again, are no answer",
        BAD_JSON,
        NO_ANSWER,
        STAYED,
        "w",
        "vllm alone",
        asks=ASKED,
    ),
    Case(
        60, "an answer that says nothing moves the call", captured(f"{GPT_OSS}/malformed"), OF_B, MOVED, "w", asks=ASKED
    ),
    Case(
        60,
        "a stream that says nothing moves the call",
        captured(f"{GPT_OSS}/malformed_stream"),
        OF_B,
        MOVED,
        asks=ASKED,
    ),
    Case(
        60,
        "an answer that says nothing is asked for once more, and no more often",
        captured(f"{GPT_OSS}/malformed"),
        NO_ANSWER,
        STAYED,
        "w",
        "vllm alone",
        asks=ASKED,
    ),
    Case(61, "markup at the end of an answer is none", NO_CHANNEL, OF_B, MOVED, "w"),
    Case(61, "markup instead of an answer is none", TRUNCATED, OF_B, MOVED, "w", asks=ASKED),
    Case(61, "markup instead of a stream is none", LEAK_STREAM, OF_B, MOVED),
]


@each_form(CONTRACTS)
async def test_case(case: Case, stream: bool, scene: Scene) -> None:
    await play(case, stream, scene)


async def test_case_59_arguments_that_are_no_json_are_never_repaired(scene: Scene) -> None:
    scene.begin(vllm=BAD_JSON)
    (call,) = (await scene.ask("vllm lax", tools=TOOLS)).json["choices"][0]["message"]["tool_calls"]
    assert call["function"]["arguments"] == '{"city":"Par'
    scene.begin(vllm=BAD_JSON_STREAM)
    assert calls_of(await scene.hear("vllm lax", tools=TOOLS))[0]["arguments"] == '{"city":"Par'


COUNTED = [
    (59, BAD_JSON, False, "tool_arguments_not_json"),
    (59, BAD_JSON_STREAM, True, "tool_arguments_not_json"),
    (60, captured(f"{GPT_OSS}/malformed"), False, "empty"),
    (60, captured(f"{GPT_OSS}/malformed_stream"), True, "empty"),
    (61, TRUNCATED, False, "harmony_leak"),
    (61, LEAK_STREAM, True, "harmony_leak"),
]
COUNTED_IDS = [f"{number:02}-{result} ({'a stream' if stream else 'whole'})" for number, _, stream, result in COUNTED]


@pytest.mark.parametrize(("number", "plays", "stream", "result"), COUNTED, ids=COUNTED_IDS)
async def test_a_violation_is_counted_by_backend(
    number: int, plays: Script, stream: bool, result: str, scene: Scene
) -> None:
    scene.begin(vllm=plays)
    line = f'crossfade_contract_judged_total{{backend="vllm",model="vllm",result="{result}"}}'
    before = await scene.metric(line)
    await scene.ask(tools=TOOLS, stream=stream or None)
    assert await scene.metric(line) == before + 1
