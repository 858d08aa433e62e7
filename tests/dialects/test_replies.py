"""Cases 53 to 68, but for 59 to 61: whatever a backend answers, and in whatever pieces, the client sees one form."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.dialects import lmstudio
from tests.dialects.case import captured
from tests.dialects.shapes import FOREIGN, anonymous, keys, shape, shapes
from tests.dialects.stage import KINDS, Scene
from tests.dialects.tools import TOOLS, calls_of
from tests.faults.scripts import streamed
from tests.upstream import END, STREAM_HEAD, Script, answer, chunked, event, sends

pytestmark = pytest.mark.asyncio(loop_scope="module")

GPT_OSS, LLAMA, SMOL = "vllm-0.33-gpt-oss", "llama-server-smollm2", "vllm-0.32-smollm2"
ROLE = event({"role": "assistant", "content": ""})
STOP, DONE = event({}, "stop"), b"data: [DONE]\n\n"
CALL_ID = re.compile(r"call_[A-Za-z0-9]{8,}")


async def test_case_53_one_role_and_no_empty_lists_of_tools(scene: Scene) -> None:
    scene.begin(lmstudio=sends(*lmstudio.streamed()))
    heard = await scene.hear("lmstudio")
    assert heard.roles == ["assistant"] and heard.deltas[0]["role"] == "assistant"
    assert not any("tool_calls" in delta for delta in heard.deltas)
    assert (heard.content, heard.reasoning) == ("Hello there!", "User says hi.")
    scene.begin(lmstudio=sends(lmstudio.whole()))
    assert "tool_calls" not in (await scene.ask("lmstudio")).json["choices"][0]["message"]


async def test_case_54_a_role_without_words_has_empty_ones(scene: Scene) -> None:
    scene.begin(llama_server=captured(f"{LLAMA}/11_chat_stream"))
    heard = await scene.hear("llama-server")
    assert heard.deltas[0] == {"role": "assistant", "content": ""}
    assert heard.content == "The capital of France is Paris."


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize("kind", KINDS)
async def test_case_55_thoughts_have_one_name(kind: str, name: str, scene: Scene) -> None:
    script = {kind.replace("-", "_"): sends(*lmstudio.streamed(name=name))}
    scene.begin(**script)
    heard = await scene.hear(kind)
    assert heard.reasoning == "User says hi." and not any("reasoning_content" in delta for delta in heard.deltas)
    script = {kind.replace("-", "_"): sends(lmstudio.whole(name=name))}
    scene.begin(**script)
    message = (await scene.ask(kind)).json["choices"][0]["message"]
    assert message["reasoning"] == "User says hi." and "reasoning_content" not in message


LLAMA_CALL = {
    "id": "Xq8vZk2mN4pR7sT1uW3yA5bC6dE9fG0h",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'},
}
THREE_FORMS: dict[str, Script] = {
    "vllm": captured(f"{GPT_OSS}/tool_stream"),
    "lmstudio": lmstudio.calls_tools(),
    "llama-server": streamed(ROLE, event({"tool_calls": [{"index": 0, **LLAMA_CALL}]}), event({}, "tool_calls"), DONE),
}


@pytest.mark.parametrize("kind", THREE_FORMS)
async def test_case_56_the_ids_of_calls_of_tools_have_one_form_and_are_taken_back_by_all(
    kind: str, scene: Scene
) -> None:
    scene.begin(**{kind.replace("-", "_"): THREE_FORMS[kind]})
    heard = await scene.hear(f"{kind} alone", tools=TOOLS)
    (call,) = calls_of(heard).values()
    (name,) = call["ids"]
    assert (
        CALL_ID.fullmatch(name) and json.loads(call["arguments"]) == {"city": "Paris"} and call["name"] == "get_weather"
    )
    asked = {"id": name, "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
    turn = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [asked]},
        {"role": "tool", "tool_call_id": name, "content": "sunny"},
    ]
    for other in KINDS:
        scene.begin()
        assert (await scene.ask(f"{other} alone", messages=turn, tools=TOOLS)).status == 200
        sent = scene.sent_to(other)["messages"]
        assert sent[1]["tool_calls"][0]["id"] == sent[2]["tool_call_id"]


async def test_case_56_whole_answers_too(scene: Scene) -> None:
    scene.begin(vllm=captured(f"{GPT_OSS}/tool2_nonstream"))
    calls = (await scene.ask(tools=TOOLS)).json["choices"][0]["message"]["tool_calls"]
    assert len({call["id"] for call in calls}) == 2 and all(CALL_ID.fullmatch(call["id"]) for call in calls)


@pytest.mark.parametrize(
    "name", ["tool2_noparallel_stream", "tool2_stream"], ids=["as vLLM drops them", "where none is dropped"]
)
async def test_case_57_one_call_of_a_tool_only_leaves_no_empty_deltas(name: str, scene: Scene) -> None:
    scene.begin(vllm=captured(f"{GPT_OSS}/{name}"))
    heard = await scene.hear(tools=TOOLS, parallel_tool_calls=False)
    assert list(calls_of(heard)) == [0] and json.loads(calls_of(heard)[0]["arguments"]) == {"city": "Paris"}
    assert [delta for delta in heard.deltas if not delta] == [{}] and heard.finishes == ["tool_calls"], (
        "only the end has an empty delta"
    )


async def test_case_58_two_calls_beside_each_other_are_told_apart_by_their_index(scene: Scene) -> None:
    scene.begin(vllm=captured(f"{GPT_OSS}/tool2_stream"))
    calls = calls_of(await scene.hear(tools=TOOLS))
    assert sorted(calls) == [0, 1]
    assert [json.loads(calls[index]["arguments"]) for index in (0, 1)] == [{"city": "Paris"}, {"tz": "CET"}]
    assert calls[0]["ids"].isdisjoint(calls[1]["ids"]) and all(len(call["ids"]) == 1 for call in calls.values())


async def test_case_62_words_before_calls_of_tools_are_kept_and_so_are_the_calls(scene: Scene) -> None:
    scene.begin(vllm=captured(f"{GPT_OSS}/tool_preamble"))
    message = (await scene.ask(tools=TOOLS)).json["choices"][0]["message"]
    assert message["content"] == "Let me check." and message["tool_calls"][0]["function"]["name"] == "get_weather"
    scene.begin(vllm=captured(f"{GPT_OSS}/tool_preamble_stream"))
    heard = await scene.hear(tools=TOOLS)
    assert (
        heard.content == "Let me check."
        and calls_of(heard)[0]["name"] == "get_weather"
        and heard.finishes == ["tool_calls"]
    )


SAID: dict[str, tuple[str, Script, Script]] = {
    "vLLM with gpt-oss": ("vllm", captured(f"{GPT_OSS}/chat_nonstream"), captured(f"{GPT_OSS}/chat_stream_usage")),
    "vLLM": ("vllm", captured(f"{SMOL}/10_chat"), captured(f"{SMOL}/12_chat_stream_usage")),
    "llama-server": ("llama-server", captured(f"{LLAMA}/10_chat"), captured(f"{LLAMA}/12_chat_stream_usage")),
    "LM Studio": ("lmstudio", sends(lmstudio.whole()), sends(*lmstudio.streamed(usage=True))),
}


@pytest.mark.parametrize("who", SAID)
async def test_case_63_nothing_that_names_the_backend_is_heard(who: str, scene: Scene) -> None:
    kind, whole, stream = SAID[who]
    for script, options in ((whole, {}), (stream, {"stream": True, "stream_options": {"include_usage": True}})):
        scene.begin(**{kind.replace("-", "_"): script})
        heard = await scene.ask(kind, **options)  # type: ignore[arg-type]
        events = [json.loads(each[6:]) for each in heard.body.decode().split("\n\n") if each.startswith("data: {")]
        assert heard.status == 200 and not keys(events or heard.json) & set(FOREIGN)
        assert not any(
            word in heard.body + repr(heard.headers).encode()
            for word in (b"uvicorn", b"llama.cpp", b"smollm2", b"gpt-oss")
        )


async def test_case_64_whole_answers_of_all_backends_have_the_same_keys_in_the_same_order(scene: Scene) -> None:
    """Those that think have `reasoning` beside; so the two that do are compared, and the two that do not."""
    seen: dict[str, Any] = {}
    for who, (kind, whole, _) in SAID.items():
        scene.begin(**{kind.replace("-", "_"): whole})
        seen[who] = shape((await scene.ask(kind)).json)
    assert seen["vLLM"] == seen["llama-server"]
    assert seen["vLLM with gpt-oss"] == seen["LM Studio"]
    assert [key for key, _ in seen["vLLM"]] == [key for key, _ in seen["LM Studio"]]


async def test_case_64_streams_of_all_backends_have_the_same_keys_in_the_same_order(scene: Scene) -> None:
    seen: dict[str, Any] = {}
    for who, (kind, _, stream) in SAID.items():
        scene.begin(**{kind.replace("-", "_"): stream})
        seen[who] = shapes((await scene.hear(kind, stream_options={"include_usage": True})).events)
    assert seen["vLLM"] == seen["llama-server"]
    assert seen["vLLM with gpt-oss"] == seen["LM Studio"]


@pytest.mark.parametrize("who", SAID)
async def test_case_65_usage_comes_once_and_last_where_it_is_asked_for_and_is_always_asked_for(
    who: str, scene: Scene
) -> None:
    kind, _, stream = SAID[who]
    for options, usages in (({"include_usage": True}, 1), (None, 0), ({"include_usage": False}, 0)):
        scene.begin(**{kind.replace("-", "_"): stream})
        heard = await scene.hear(kind, stream_options=options)
        assert scene.sent_to(kind)["stream_options"]["include_usage"] is True
        assert (
            len(heard.usages) == usages
            and len([e for e in heard.events if e["choices"] == []]) == usages
            and heard.done == 1
        )
        assert not usages or (heard.events[-1]["choices"] == [] and heard.events[-1]["usage"]["total_tokens"] > 0)


@pytest.mark.parametrize("who", SAID)
async def test_case_66_details_of_usage_that_are_missing_are_0(who: str, scene: Scene) -> None:
    kind, whole, stream = SAID[who]
    scene.begin(**{kind.replace("-", "_"): whole})
    usage = (await scene.ask(kind)).json["usage"]
    scene.begin(**{kind.replace("-", "_"): stream})
    (streams,) = (await scene.hear(kind, stream_options={"include_usage": True})).usages
    for each in (usage, streams):
        assert isinstance(each["prompt_tokens_details"]["cached_tokens"], int)
        assert isinstance(each["completion_tokens_details"]["reasoning_tokens"], int)
        assert each["total_tokens"] == each["prompt_tokens"] + each["completion_tokens"]


async def test_case_66_usage_without_any_detail_has_zeros(scene: Scene) -> None:
    usage = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    scene.begin(vllm=sends(answer(body)))
    told = (await scene.ask()).json["usage"]
    assert told["prompt_tokens_details"]["cached_tokens"] == 0 == told["completion_tokens_details"]["reasoning_tokens"]


# As UTF-8, not escaped: characters of two to four bytes.
WORDS = [event({"content": "WORD"}).replace(b"WORD", word.encode()) for word in ("Gr", "üß", " Gött", "in €🚀")]
EVENTS = [ROLE, *WORDS, STOP, DONE]
ALL = b"".join(EVENTS)


def framed(*pieces: bytes) -> Script:
    """One chunk of HTTP a piece, each in a packet of its own."""
    return sends(STREAM_HEAD, *map(chunked, pieces), END)


def in_pieces(data: bytes, count: int) -> list[bytes]:
    """As many pieces of (nearly) one length."""
    return [data[len(data) * i // count : len(data) * (i + 1) // count] for i in range(count)]


WIRE: dict[str, Script] = {
    "CRLF": framed(*(one.replace(b"\n", b"\r\n") for one in EVENTS)),
    "data: without a space": framed(*(one.replace(b"data: ", b"data:") for one in EVENTS)),
    "an event over several lines of data": framed(
        *(one.replace(b',"choices"', b',\ndata: "choices"') for one in EVENTS)
    ),
    "comments": framed(*(b": keep-alive\n\n" + one for one in EVENTS)),
    "names and ids of events": framed(*(b"event: message\nid: 7\n" + one for one in EVENTS)),
    "every byte in a read of its own, so that characters are split": framed(*(bytes([byte]) for byte in ALL)),
    "two events in one read": framed(*(b"".join(EVENTS[i : i + 2]) for i in range(0, len(EVENTS), 2))),
    "all in one read": framed(ALL),
    "one event in 50 reads": framed(ROLE, *in_pieces(WORDS[0], 50), *EVENTS[2:]),
}


@pytest.mark.parametrize("how", WIRE)
async def test_case_67_the_wire_may_look_like_this_and_the_client_sees_the_same_bytes(how: str, scene: Scene) -> None:
    scene.begin(vllm=framed(*EVENTS))
    plain = await scene.hear()
    assert plain.content == "Grüß Göttin €🚀"
    scene.begin(vllm=WIRE[how])
    assert anonymous((await scene.hear()).raw.encode()) == anonymous(plain.raw.encode())


GHOST = event({"content": "ghost"})


@pytest.mark.parametrize(
    "ghost",
    [GHOST, b"data: {oops\n\n", DONE + GHOST, b"\xff\xff"],
    ids=["content", "malformed", "a second [DONE]", "no UTF-8"],
)
@pytest.mark.parametrize("together", [True, False], ids=["in one read", "in a read of its own"])
async def test_case_68_what_follows_done_is_not_heard(ghost: bytes, together: bool, scene: Scene) -> None:
    scene.begin(vllm=framed(*EVENTS[:-1], DONE + ghost) if together else framed(*EVENTS, ghost))
    heard = await scene.hear()
    assert (
        heard.raw.endswith(DONE.decode()) and heard.done == 1 and "ghost" not in heard.raw and "oops" not in heard.raw
    )
