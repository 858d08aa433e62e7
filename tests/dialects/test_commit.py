"""Cases 1 to 17: an answer that is none moves the call until its first content is sent, and ends it honestly after."""

from __future__ import annotations

import ast
import asyncio
from dataclasses import replace
from typing import Any

import pytest

from router.config.routing import Timeouts
from tests.backends.captured import FOLDER
from tests.dialects.case import Case, captured, each_form, play, stream_of
from tests.dialects.stage import Scene
from tests.faults.scripts import COMMITTED, ROLE, closed_port, repeats_after, resets_after, silent_after, streamed
from tests.faults.stage import Told, told
from tests.faults.table import LATE, OVERLOADED, UNAVAILABLE
from tests.rawclient import Answer
from tests.running import Router, config_for, running
from tests.upstream import (
    END,
    STREAM_HEAD,
    Connection,
    Received,
    Script,
    Upstream,
    answer,
    chunked,
    event,
    says,
    sends,
    stream,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

GPT_OSS = "vllm-0.33-gpt-oss"
OF_B = Told(200, "from b", backend="b")
BROKEN = Told(200, "one two", code="stream_broken")
STOP, DONE = event({}, "stop"), b"data: [DONE]\n\n"
ONE, TWO = (event({"content": f"{word} "}) for word in ("one", "two"))
COUNTS = sends(*stream("one ", "two ", "three "))


def overload(line: int) -> list[bytes]:
    """One answer of the captured overload, which has one on each line: 1 is a stream that lost the race for the last place, 3 a 503."""
    raw = (FOLDER / GPT_OSS / "overload_503.txt").read_text().splitlines()[line]
    _, status, _, body = ast.literal_eval(raw)
    if status == 200:
        return [STREAM_HEAD, *(chunked(f"{one}\n\n".encode()) for one in body.split("\n\n") if one), END]
    return [answer(body.encode(), f"{status} Service Unavailable")]


async def overloaded(request: Received, connection: Connection) -> None:
    await connection.write(*overload(1 if request.json.get("stream") else 3))


def is_one_stream(_scene: Scene, told: Answer) -> None:
    """One role, one id, one end: nothing of the backend that failed is heard."""
    heard = stream_of(told)
    assert heard.roles == ["assistant"] and len(heard.alike("id")) == 1 and heard.ending == (["stop"], 1, [])


def says_error_last(_scene: Scene, told: Answer) -> None:
    """The error event is the end: no finish_reason, no [DONE], nothing of another answer, no word of the backend's."""
    assert stream_of(told).ending == ([], 0, ["stream_broken"])
    assert b"abort" not in told.body and b"The server had an error" not in told.body


def is_in_openai_form(_scene: Scene, told: Answer) -> None:
    """The words are the backend's, the envelope is OpenAI's."""
    error = told.json["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", "logprobs", None)
    assert "max allowed: 20" in error["message"]


def passes_no_comment(_scene: Scene, told: Answer) -> None:
    assert b"keep-alive" not in told.body and not told.body.startswith(b":")


def broken(number: int, what: str, plays: Script, model: str = "vllm") -> list[Case]:
    """What breaks after content, twice: with `resume: {by: []}` it ends with an error event, else b carries it on."""
    name = model.split(" ")[0]
    case = Case(
        number,
        f"{what} ends with one error event",
        plays,
        BROKEN,
        f"{name} stream_broken",
        model=model,
        also=says_error_last,
    )
    on = replace(
        case,
        what=f"{what} is resumed where it may be",
        model=f"{model} resumed",
        told=Told(200, "one two three"),
        tries=f"{name} stream_broken, b ok",
        b=COUNTS,
        also=is_one_stream,
    )
    return [case, on]


ABORTED = captured(f"{GPT_OSS}/fail_abort_stream")  # one delta of reasoning, then the abort
DIED = captured(f"{GPT_OSS}/fail_dead_stream")  # "Hel", then the error
THOUGHT = streamed(ROLE, event({"reasoning": "Thinking."}), event({"content": "Hello"}), STOP, DONE)
HELLO = sends(*stream("Hel", "lo there!"))
# Captured: the stream of a llama-server that got SIGTERM goes silent for 30 s, one comment apart, and is cut then.
TERMINATED = silent_after(*COMMITTED, chunked(b":\n\n"))
COMMENTS = repeats_after(STREAM_HEAD, again=chunked(b": keep-alive\n\n"))

CASES = [
    Case(
        1,
        "a first event that is an error moves the call",
        captured(f"{GPT_OSS}/fail_paused_stream"),
        OF_B,
        "vllm refused, b ok",
        also=is_one_stream,
    ),
    Case(
        2,
        "a first event that is the call's own fault is a 400 and blames nobody",
        captured(f"{GPT_OSS}/err_logprobs30_stream"),
        Told(400),
        "vllm rejected",
        also=is_in_openai_form,
    ),
    Case(
        3,
        "an abort after the role moves the call, and there is one role in all",
        captured(f"{GPT_OSS}/fail_abort0_stream"),
        OF_B,
        "vllm failed, vllm failed, b ok",
        also=is_one_stream,
    ),
    Case(
        4,
        "an abort after content ends with one error event",
        ABORTED,
        Told(200, "", code="stream_broken"),
        "vllm stream_broken",
        also=says_error_last,
    ),
    Case(
        4,
        "an abort after content is resumed where it may be",
        ABORTED,
        Told(200, "Hello"),
        "vllm stream_broken, b ok",
        model="vllm resumed",
        b=THOUGHT,
        also=is_one_stream,
    ),
    Case(
        5,
        "an aborted whole answer, empty, moves the call",
        captured(f"{GPT_OSS}/fail_abort0"),
        OF_B,
        "vllm failed, vllm failed, b ok",
        forms="w",
    ),
    Case(
        5,
        "an aborted whole answer, half said, moves the call",
        captured(f"{GPT_OSS}/fail_abort"),
        OF_B,
        "vllm failed, vllm failed, b ok",
        forms="w",
    ),
    Case(
        5,
        "an aborted whole answer of the last backend is a 503",
        captured(f"{GPT_OSS}/fail_abort"),
        UNAVAILABLE,
        "vllm failed, vllm failed",
        forms="w",
        model="vllm alone",
    ),
    Case(
        6,
        "an error and [DONE] after content is no success",
        DIED,
        Told(200, "Hel", code="stream_broken"),
        "vllm stream_broken",
        also=says_error_last,
    ),
    Case(
        6,
        "an error and [DONE] after content is resumed where it may be",
        DIED,
        Told(200, "Hello there!"),
        "vllm stream_broken, b ok",
        model="vllm resumed",
        b=HELLO,
        also=is_one_stream,
    ),
    *broken(7, "a socket cut after content", resets_after(*COMMITTED)),
    Case(
        8,
        "a socket cut before content moves the call",
        resets_after(STREAM_HEAD, chunked(ROLE)),
        OF_B,
        "vllm protocol_broken, b ok",
        also=is_one_stream,
    ),
    *broken(9, "a clean end without finish_reason and without [DONE]", sends(*COMMITTED, END)),
    Case(
        10,
        "an empty stream moves the call",
        sends(STREAM_HEAD, END),
        OF_B,
        "lmstudio protocol_broken, b ok",
        model="lmstudio",
    ),
    Case(
        10,
        "[DONE] alone moves the call",
        sends(STREAM_HEAD, chunked(DONE), END),
        OF_B,
        "lmstudio protocol_broken, b ok",
        model="lmstudio",
    ),
    Case(
        11,
        "a finish_reason without [DONE] is a success, and [DONE] is added",
        streamed(ROLE, ONE, TWO, STOP),
        Told(200, "one two"),
        "vllm ok",
        also=is_one_stream,
    ),
    Case(
        11,
        "a finish_reason is a success, even if the socket is cut before [DONE]",
        resets_after(STREAM_HEAD, *map(chunked, (ROLE, ONE, TWO, STOP))),
        Told(200, "one two"),
        "vllm stream_broken",
        also=is_one_stream,
    ),
    *broken(
        12,
        "malformed JSON in mid-stream",
        sends(*COMMITTED, chunked(b"data: {oops\n\n"), chunked(STOP), chunked(DONE), END),
    ),
    Case(
        13,
        "comments are no progress, and are not passed on",
        COMMENTS,
        OF_B,
        "vllm first_token_timeout, b ok",
        model="vllm hasty",
        also=passes_no_comment,
    ),
    *broken(14, "a stream that falls silent", TERMINATED, "llama-server hasty"),
    Case(15, "an overload moves the call", overloaded, OF_B, "vllm refused, b ok", forms="ws"),
    Case(
        15,
        "an overload of the last backend says when to come back, and not to try again at once",
        overloaded,
        OVERLOADED,
        "vllm refused",
        forms="ws",
        model="vllm alone",
    ),
    Case(
        16,
        "a refused connection moves the call",
        says("x"),
        OF_B,
        "closed connect_failed, b ok",
        forms="ws",
        model="closed",
    ),
    Case(
        17,
        "a whole answer that is a 500 moves the call",
        captured(f"{GPT_OSS}/fail_dead"),
        OF_B,
        "vllm failed, vllm failed, b ok",
        forms="w",
    ),
]


@each_form(CASES)
async def test_case(case: Case, stream: bool, scene: Scene) -> None:
    await play(case, stream, scene)


async def readiness(router: Router) -> Any:
    """The state of each model's replicas, as anybody may ask."""
    return (await router.client.get("/health/ready")).json()["models"]


@pytest.mark.parametrize(
    ("plays", "state"),
    [(captured(f"{GPT_OSS}/err_logprobs30_stream"), "in_rotation"), (resets_after(*COMMITTED), "ejected")],
    ids=["02-a first event that is the call's own fault is no vote", "07-a socket cut after content is a vote"],
)
async def test_against_the_backend(plays: Script, state: str) -> None:
    one_vote = "split: {a: 1.0}\neject: {consecutive_failures: 1, at_most_share: 1.0}\nresume: {by: []}"
    async with (
        Upstream(plays) as a,
        Upstream(says("x")) as b,
        running(config_for({"a": a.url, "b": b.url}, one_vote)) as router,
    ):
        await router.chat(stream=True)
        assert (await readiness(router))["jane"]["a"][0]["state"] == state


async def test_case_06_what_broke_off_is_counted_as_that_and_no_tokens_for_it(scene: Scene) -> None:
    """The engine told no usage before it died; the call is no success, and nothing is made up for it."""
    ok, broken = (
        f'crossfade_calls_total{{backend="vllm",model="vllm",result="{how}"}}' for how in ("ok", "stream_broken")
    )
    tokens = 'crossfade_tokens_total{backend="vllm",'
    before = [await scene.metric(line) for line in (ok, broken, tokens)]
    scene.begin(vllm=DIED)
    await scene.ask(stream=True)
    assert [await scene.metric(line) for line in (ok, broken, tokens)] == [before[0], before[1] + 1, before[2]]


async def test_case_13_comments_for_ever_are_a_504_of_the_last_backend(scene: Scene) -> None:
    scene.begin(vllm=COMMENTS, b=COMMENTS)
    heard = told(await scene.ask("vllm hasty", stream=True))
    assert (heard.status, heard.code) == (LATE.status, LATE.code)


async def test_case_14_the_default_limit_of_silence_is_no_longer_than_what_llama_server_takes_to_cut_the_stream() -> (
    None
):
    assert Timeouts().between_tokens_s <= 30


async def test_case_16_a_backend_that_refuses_connections_is_not_ready() -> None:
    """The router is ready as long as another is; with nobody else it says so too, since the last one never leaves and is tried."""
    with closed_port() as port:
        async with (
            Upstream(says("x")) as b,
            running(config_for({"a": f"http://127.0.0.1:{port}", "b": b.url})) as router,
        ):
            async with asyncio.timeout(5):
                while (rows := (await readiness(router))["jane"])["a"][0]["state"] == "in_rotation":
                    await asyncio.sleep(0.01)
    assert [rows[name][0]["state"] for name in "ab"] == ["ejected", "in_rotation"]
