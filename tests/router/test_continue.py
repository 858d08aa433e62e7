"""A broken stream is continued where the next backend goes on in mid-message; what a backend can is found out once, without inference."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.continuing import (
    closed_prompt,
    harmony_tokens,
    open_prompt,
    renders,
    speaks_harmony,
    text_event,
    trimmed_prompt,
    usage_event,
)
from tests.hearing import BROKEN, WHOLE, Heard, breaks_after, hear, streams
from tests.offered import A_TOOL
from tests.running import Router, config_for, running
from tests.upstream import END, STREAM_HEAD, Connection, Received, Script, Skill, Upstream, answer, chunked, event

ROLE = event({"role": "assistant", "content": ""})
STOP = event({}, "stop")
DONE = b"data: [DONE]\n\n"
SENT = ("Once", " upon", ' "a"', " é🚀")
REST = (" time", " there\n", " was.")
TEXT = "".join((*SENT, *REST))
MODEL = "split: {left: 1.0}\nretry: {attempts_per_backend: 1}"


def says(*words: str, name: str = "content") -> list[bytes]:
    return [event({name: word}) for word in words]


OPEN = renders(open_prompt)
BREAKS = breaks_after(ROLE, *says(*SENT))
GOES_ON = streams(ROLE, *says(*REST), STOP, DONE)


@asynccontextmanager
async def two(
    left: Script, right: Script, skill: Skill = OPEN, model: str = MODEL, kind: str = "vllm"
) -> AsyncIterator[tuple[Router, Upstream]]:
    """The router in front of a backend that breaks and one with this skill."""
    async with Upstream(left) as a, Upstream(right, skill) as b:
        config = config_for({"left": a.url, "right": b.url}, model).replace(
            f"vllm, url: {b.url}", f"{kind}, url: {b.url}"
        )
        async with running(config) as router:
            yield router, b


async def resumed(left: Script, right: Script, skill: Skill = OPEN, **fields: Any) -> tuple[Heard, list[Received]]:
    """One call that breaks, and what the second backend was asked."""
    async with two(left, right, skill) as (router, b):
        return await hear(router, **fields), b.received


# -- by chat --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vllm", "llama-server"])
async def test_a_backend_that_continues_gets_the_partial_message_and_goes_on(kind: str) -> None:
    async with two(BREAKS, GOES_ON, kind=kind) as (router, b):
        heard = await hear(router, max_tokens=50, temperature=0.5)
        assert (heard.content, heard.ending, heard.roles) == (TEXT, WHOLE, ["assistant"])
        (call,) = b.received
        assert call.path == "/v1/chat/completions"
        assert call.json == {
            "model": "real-right",
            "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "".join(SENT)}],
            "continue_final_message": True,
            "add_generation_prompt": False,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 46,
            "temperature": 0.5,
        }
        text = (await router.client.get("/metrics")).text
        assert 'crossfade_resumes_total{how="continue",model="jane",result="ok"} 1.0' in text


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
async def test_a_limit_with_a_point_is_one(limit: str) -> None:
    for given, left in ((50.0, 46), (4.0, None)):  # of the latter nothing but the end is left to be said
        fields: dict[str, Any] = {limit: given}
        _, asked = await resumed(BREAKS, GOES_ON, **fields)
        assert [call.json[limit] for call in asked if "continue_final_message" in call.json] == ([left] if left else [])


async def test_reasoning_goes_with_the_message_where_the_template_keeps_it() -> None:
    left = breaks_after(ROLE, *says("I", " think", name="reasoning"), *says(*SENT))
    heard, asked = await resumed(left, GOES_ON)
    assert (heard.reasoning, heard.content, heard.ending) == ("I think", TEXT, WHOLE)
    assert asked[0].json["messages"][-1]["reasoning_content"] == "I think"


async def test_the_usage_adds_up() -> None:
    left = breaks_after(ROLE, *says("hm", name="reasoning"), *says(*SENT))
    details = {
        "prompt_tokens_details": {"cached_tokens": 14},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    right = streams(ROLE, *says(*REST), STOP, usage_event(17, 4, **details), DONE)
    heard, _ = await resumed(left, right, stream_options={"include_usage": True})
    assert heard.usages == [
        {
            "prompt_tokens": 12,
            "completion_tokens": 9,
            "total_tokens": 21,
            "prompt_tokens_details": {"cached_tokens": 12},
            "completion_tokens_details": {"reasoning_tokens": 1},
        }
    ]


async def test_each_further_break_is_continued_with_all_that_was_sent() -> None:
    model = "split: {a: 1.0}\nretry: {attempts_per_backend: 1}"
    skill = renders(open_prompt)
    once = breaks_after(ROLE, *says(*REST[:2]))
    async with (
        Upstream(BREAKS) as a,
        Upstream(once, skill) as b,
        Upstream(streams(*says(REST[2]), STOP, DONE), skill) as c,
    ):
        async with running(config_for({"a": a.url, "b": b.url, "c": c.url}, model)) as router:
            heard = await hear(router, max_completion_tokens=20)
        assert (heard.content, heard.ending, heard.roles) == (TEXT, WHOLE, ["assistant"])
        assert c.received[0].json["messages"][-1]["content"] == "".join((*SENT, *REST[:2]))
        assert c.received[0].json["max_completion_tokens"] == 14


ALIGNED: list[tuple[str, Skill, dict[str, Any], tuple[str, ...]]] = [
    ("it closes the message", renders(closed_prompt), {}, SENT),
    ("it has no such route", lambda _: answer({}, "404 Not Found"), {}, SENT),
    ("it answers 200 to every route", lambda _: answer({"error": "Unexpected endpoint or method."}), {}, SENT),
    ("its template trims, and the text ends in a space", renders(trimmed_prompt), {}, (*SENT, " ")),
    ("a grammar holds", renders(open_prompt), {"response_format": {"type": "json_object"}}, SENT),
    ("a schema of vLLM's own holds", renders(open_prompt), {"structured_outputs": {"regex": "a"}}, SENT),
    ("a tool is forced", renders(open_prompt), {"tools": [A_TOOL], "tool_choice": "required"}, SENT),
    ("the client continues a message itself", renders(open_prompt), {"messages": [{"role": "assistant", "content": "x"}]}, SENT),
    ("nothing but the end is left", renders(open_prompt), {"max_tokens": 4}, SENT),
]  # fmt: skip


@pytest.mark.parametrize(("skill", "fields", "sent"), [row[1:] for row in ALIGNED], ids=[row[0] for row in ALIGNED])
async def test_where_it_cannot_be_continued_it_is_asked_again_and_aligned(
    skill: Skill, fields: dict[str, Any], sent: tuple[str, ...]
) -> None:
    again = streams(ROLE, *says(*sent, *REST), STOP, DONE)
    heard, asked = await resumed(breaks_after(ROLE, *says(*sent)), again, skill, **fields)
    assert (heard.content, heard.ending) == ("".join((*sent, *REST)), WHOLE)
    assert "continue_final_message" not in asked[0].json


async def test_a_template_that_trims_still_continues_what_has_no_space_at_its_ends() -> None:
    heard, asked = await resumed(BREAKS, GOES_ON, renders(trimmed_prompt))
    assert heard.ending == WHOLE and asked[0].json["continue_final_message"]


async def test_only_reasoning_is_aligned() -> None:
    left = breaks_after(ROLE, *says("I", name="reasoning"))
    heard, asked = await resumed(left, streams(ROLE, *says("I", " do", name="reasoning"), *says("x"), STOP, DONE))
    assert (heard.reasoning, heard.content, heard.ending) == ("I do", "x", WHOLE)
    assert "continue_final_message" not in asked[0].json


async def test_one_that_continues_is_preferred_to_one_before_it_that_could_only_be_asked_again() -> None:
    async with Upstream(BREAKS) as a, Upstream(GOES_ON) as b, Upstream(GOES_ON, renders(open_prompt)) as c:
        urls = {"a": a.url, "b": b.url, "c": c.url}
        async with running(config_for(urls, "split: {a: 1.0}")) as router:
            assert (await hear(router)).ending == WHOLE
        assert (len(b.received), len(c.received)) == (0, 1)


async def test_the_order_of_the_ways_is_the_configurations() -> None:
    again = streams(ROLE, *says(*SENT, *REST), STOP, DONE)
    async with two(BREAKS, again, model=MODEL + "\nresume: {by: [align, continue]}") as (router, b):
        assert (await hear(router)).ending == WHOLE
        assert "continue_final_message" not in b.received[0].json


async def test_one_that_begins_anew_although_it_was_to_continue_is_not_glued_on() -> None:
    anew = streams(ROLE, *says("Well", name="reasoning"), *says(*SENT, *REST), STOP, DONE)
    heard, asked = await resumed(BREAKS, anew)
    assert (heard.content, heard.ending) == ("".join(SENT), BROKEN)
    assert len(asked) == 1


async def test_one_that_refuses_to_continue_is_asked_again_if_the_budget_allows() -> None:
    async def picky(request: Received, connection: Connection) -> None:
        if "continue_final_message" in request.json:
            await connection.write(answer({"error": {"message": "no", "code": 400}}, "400 Bad Request"))
        else:
            await connection.write(STREAM_HEAD, *map(chunked, [ROLE, *says(*SENT, *REST), STOP, DONE]), END)

    async with two(BREAKS, picky, model="split: {left: 1.0}") as (router, b):
        assert (await hear(router)).ending == WHOLE
        assert len(b.received) == 2


@pytest.mark.parametrize(("continues", "is_continued"), [("yes", True), ("no", False)])
async def test_what_is_declared_is_not_asked(continues: str, is_continued: bool) -> None:
    right = GOES_ON if is_continued else streams(ROLE, *says(*SENT, *REST), STOP, DONE)
    async with Upstream(BREAKS) as a, Upstream(right, renders(open_prompt)) as b:
        config = config_for({"left": a.url, "right": b.url}, MODEL)
        config = config.replace("right: real-right", f'right: {{name: real-right, continues: "{continues}"}}')
        async with running(config) as router:
            assert (await hear(router)).ending == WHOLE
        assert ("continue_final_message" in b.received[0].json) is is_continued
        assert b.questions == []


# -- finding out ----------------------------------------------------------------------------------------


async def test_each_replica_is_asked_once_for_each_model_and_without_inference() -> None:
    async with two(BREAKS, GOES_ON) as (router, b):
        for _ in range(3):
            assert (await hear(router)).ending == WHOLE
        asked = len(b.questions)
        assert 0 < asked <= 7
        assert {question.path for question in b.questions} <= {"/tokenize", "/detokenize"}
        await hear(router)
        assert len(b.questions) == asked


async def test_one_that_is_there_only_later_is_asked_when_it_is_needed() -> None:
    is_there = False

    def skill(request: Received) -> bytes:
        return renders(open_prompt)(request) if is_there else answer({}, "503 Service Unavailable")

    again = streams(ROLE, *says(*SENT, *REST), STOP, DONE)
    async with two(BREAKS, again, skill) as (router, b):
        assert (await hear(router)).ending == WHOLE
        assert "continue_final_message" not in b.received[-1].json
        is_there = True
        b.script = GOES_ON
        assert (await hear(router)).ending == WHOLE
        assert "continue_final_message" in b.received[-1].json


async def test_it_is_found_out_before_the_first_break() -> None:
    async with two(BREAKS, GOES_ON) as (router, b), asyncio.timeout(5):
        while len(b.questions) < 7:
            await asyncio.sleep(0.005)
        assert (await hear(router)).ending == WHOLE
        assert len(b.questions) == 7


async def test_streams_that_break_together_ask_together() -> None:
    is_there = False

    def skill(request: Received) -> bytes:
        return OPEN(request) if is_there else answer({}, "503 Service Unavailable")

    async with two(BREAKS, GOES_ON, skill) as (router, b):
        while not b.questions:
            await asyncio.sleep(0.005)
        is_there = True
        b.questions.clear()
        heard = await asyncio.gather(*(hear(router) for _ in range(6)))
        assert [each.ending for each in heard] == [WHOLE] * 6
        assert len(b.questions) <= 7


async def test_where_no_stream_could_go_elsewhere_nobody_is_asked() -> None:
    async with Upstream(GOES_ON, renders(open_prompt)) as a, running(config_for({"left": a.url})) as router:
        assert (await hear(router)).ending == WHOLE
        assert a.questions == []


# -- completions ----------------------------------------------------------------------------------------

WROTE = breaks_after(*map(text_event, SENT))


async def test_a_bare_prompt_is_continued_as_it_is() -> None:
    async with two(WROTE, streams(*map(text_event, REST), text_event("", "stop"), DONE)) as (router, b):
        heard = await hear(router, "/v1/completions", max_tokens=9)
        assert (heard.content, heard.ending) == (TEXT, WHOLE)
        assert (b.received[0].json["prompt"], b.received[0].json["max_tokens"]) == ("Once" + "".join(SENT), 5)


async def test_not_even_a_bare_prompt_is_continued_where_that_is_ruled_out() -> None:
    right = streams(*map(text_event, (*SENT, *REST)), text_event("", "stop"), DONE)
    async with Upstream(WROTE) as a, Upstream(right) as b:
        config = config_for({"left": a.url, "right": b.url}, MODEL)
        async with running(config.replace("right: real-right", 'right: {name: real-right, continues: "no"}')) as router:
            assert (await hear(router, "/v1/completions", max_tokens=9)).ending == WHOLE
        assert b.received[0].json["prompt"] == "Once"


@pytest.mark.parametrize(
    "fields", [{"prompt": ["Once"], "max_tokens": 9}, {"prompt": [1, 2], "max_tokens": 9}, {}],
    ids=["a list of prompts", "tokens", "the engine's own limit"],
)  # fmt: skip
async def test_another_prompt_is_aligned(fields: dict[str, Any]) -> None:
    async with two(WROTE, streams(*map(text_event, (*SENT, *REST)), text_event("", "stop"), DONE)) as (router, b):
        heard = await hear(router, "/v1/completions", **fields)
        assert (heard.content, heard.ending) == (TEXT, WHOLE)
        assert b.received[0].json["prompt"] == fields.get("prompt", "Once")


# -- gpt-oss on vLLM ------------------------------------------------------------------------------------

CONVERSATION = [200006, 17360, 200008, 3575, 200007, 200006, 173781]
TOLD = {"choices": [{"finish_reason": "length"}], "prompt_token_ids": CONVERSATION}


async def goes_on_in_harmony(request: Received, connection: Connection) -> None:
    """A vLLM with a gpt-oss: chat tells the conversation's tokens, completions go on."""
    if request.path == "/v1/chat/completions":
        await connection.write(answer(TOLD))
        return
    usage = usage_event(len(request.json["prompt"]), 4, completion_tokens_details={"reasoning_tokens": 0})
    events = [*map(text_event, REST), text_event("", "stop"), usage, DONE]
    await connection.write(STREAM_HEAD, *map(chunked, events), END)


@pytest.mark.parametrize("reasoning", ["", "User says hi."])
async def test_a_gpt_oss_is_continued_in_its_own_format(reasoning: str) -> None:
    thought = says(reasoning, name="reasoning") if reasoning else []
    asks = {
        "max_tokens": 200,
        "temperature": 0.5,
        "reasoning_effort": "high",
        "stream_options": {"include_usage": True},
    }
    heard, asked = await resumed(breaks_after(ROLE, *thought, *says(*SENT)), goes_on_in_harmony, speaks_harmony, **asks)
    assert (heard.reasoning, heard.content, heard.ending) == (reasoning, TEXT, WHOLE)
    assert heard.alike("object") == {'"chat.completion.chunk"'} and len(heard.alike("id")) == 1
    told, call = asked
    assert (told.json["max_completion_tokens"], told.json["return_token_ids"]) == (1, True)
    assert told.json["reasoning_effort"] == "high" and "stream" not in told.json and "max_tokens" not in told.json
    opening = f"<|channel|>analysis<|message|>{reasoning}<|end|><|start|>assistant" if reasoning else ""
    opened = harmony_tokens(f"{opening}<|channel|>final<|message|>{''.join(SENT)}")
    assert call.path == "/v1/completions"
    assert call.json == {
        "model": "real-right",
        "prompt": CONVERSATION + opened,
        "max_tokens": 200 - len(opened),
        "temperature": 0.5,
        "stream": True,
        "stream_options": {"include_usage": True},
        "stop_token_ids": [200002, 200005, 200006, 200007, 200012],
    }
    (usage,) = heard.usages
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (len(CONVERSATION), len(opened) + 4)
    assert usage["completion_tokens_details"]["reasoning_tokens"] == bool(reasoning)


async def test_without_a_limit_of_its_own_it_may_fill_the_context() -> None:
    _, asked = await resumed(BREAKS, goes_on_in_harmony, speaks_harmony)
    assert asked[1].json["max_tokens"] == 4096 - len(asked[1].json["prompt"])


@pytest.mark.parametrize(
    ("sent", "fields"),
    [(SENT, {"tools": [A_TOOL]}), (("<|end|>",), {})],
    ids=["tools are offered", "the text holds one of the format's marks"],
)
async def test_a_gpt_oss_is_aligned_where_its_channel_cannot_be_known(
    sent: tuple[str, ...], fields: dict[str, Any]
) -> None:
    again = streams(ROLE, *says(*sent, *REST), STOP, DONE)
    lax = MODEL + "\naccept: {empty: allow}"  # such a mark at an answer's front is no answer otherwise
    async with two(breaks_after(ROLE, *says(*sent)), again, speaks_harmony, lax) as (router, b):
        heard = await hear(router, **fields)
    assert (heard.content, heard.ending) == ("".join((*sent, *REST)), WHOLE)
    assert [call.path for call in b.received] == ["/v1/chat/completions"]


async def test_an_engine_that_tells_no_tokens_is_asked_again() -> None:
    async def silent(request: Received, connection: Connection) -> None:
        if request.json.get("return_token_ids"):
            await connection.write(answer({"choices": [{}]}))
        else:
            await connection.write(STREAM_HEAD, *map(chunked, [ROLE, *says(*SENT, *REST), STOP, DONE]), END)

    async with two(BREAKS, silent, speaks_harmony, model="split: {left: 1.0}") as (router, b):
        assert (await hear(router)).ending == WHOLE
        assert json.loads(b.received[-1].body)["stream"] is True
