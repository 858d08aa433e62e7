"""The cases of `tests/dialects` that real engines can show: two of different kinds, and the application cannot tell which one answered.

Each engine has a model of its own at the router (`jane of NUMBER`), so that a call's model says who answers it.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.dialects.shapes import FOREIGN, forms, keys, shape, shapes
from tests.engines.engine import Engine
from tests.engines.scenes import client_of
from tests.hearing import BROKEN, Heard, heard_in
from tests.rawclient import RawClient, connected, request
from tests.serving import RunningRouter

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
ENGINES = [
    pytest.param("left", marks=[pytest.mark.llama, pytest.mark.timeout(180)], id="llama.cpp"),
    pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.timeout(900)], id="vLLM"),
]
TOO_LONG = [{"role": "user", "content": "word " * 6000}]
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]}]


@contextmanager
def over(*engines: Engine, **more: Any) -> Iterator[RunningRouter]:
    """A router with models of the first engine, `jane of 0`, `wrong of 0` (which it lacks), `cool of 0` (temperature 0); and so on."""
    backends = {engine.role.name: {"kind": engine.role.kind, "url": engine.role.url} for engine in engines}
    models: dict[str, Any] = {}
    for number, engine in enumerate(engines):
        name = engine.role.name
        models[f"jane of {number}"] = {"on": {name: engine.role.model}, "split": {name: 1.0}, **more}
        models[f"wrong of {number}"] = {"on": {name: "nope"}, "split": {name: 1.0}}
        models[f"cool of {number}"] = {**models[f"jane of {number}"], "sampling": {"temperature": 0.0}}
    with RunningRouter({"backends": backends, "models": models}) as router:
        yield router


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Engine:
    found: Engine = request.getfixturevalue(request.param)
    return found


async def ask(router: RunningRouter, model: str, path: str = CHAT, **fields: Any) -> httpx.Response:
    """One short call at temperature 0."""
    asked = {"prompt": "The capital of France is"} if path == COMPLETIONS else {"messages": QUESTION}
    body = {"model": model, **asked, "max_tokens": 8, "temperature": 0, **fields}
    async with client_of(router.url) as client:
        return await client.post(path, json={name: value for name, value in body.items() if value is not None})


async def hear(router: RunningRouter, model: str, path: str = CHAT, **fields: Any) -> Heard:
    answer = await ask(router, model, path, stream=True, **fields)
    assert answer.status_code == 200, answer.text
    return heard_in(answer.text)


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The error, which must be in OpenAI's shape and name nothing of an engine's."""
    error: dict[str, Any] = answer.json()["error"]
    assert list(error) == ["message", "type", "param", "code"] and not isinstance(error["code"], int)
    assert not any(word in answer.text.lower() for word in ("smollm", "alias", "vllm", "llama", "pydantic"))
    return error


@pytest.mark.parametrize("engine", ENGINES[1:], indirect=True)
async def test_case_30_a_name_that_the_engine_does_not_have_leaks_no_other(engine: Engine) -> None:
    with over(engine) as router:
        answer = await ask(router, "wrong of 0")
    assert answer.status_code == 503 and error_of(answer)["code"] == "backend_unavailable"


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
async def test_errors_have_one_shape(engine: Engine) -> None:
    """Cases 31, 32, 34, 35, 36, 43, 45, 48 and 50: what each engine says in its own way."""
    name = "jane of 0"
    with over(engine) as router:
        nothing = await ask(router, name, EMBEDDINGS, input="hi", messages=None, max_tokens=None, temperature=None)
        assert nothing.status_code >= 400 and error_of(nothing)["message"] != "Not Found"
        slash = await ask(router, name, f"{CHAT}/")
        assert slash.status_code == 404 and error_of(slash)["code"] == "not_found" and "location" not in slash.headers
        hot = await ask(router, name, temperature="hot")
        assert hot.status_code == 400 and error_of(hot)["type"] == "invalid_request_error"
        for long in (
            await ask(router, name, messages=TOO_LONG),
            await ask(router, name, messages=TOO_LONG, stream=True),
        ):
            assert long.status_code == 400
            assert error_of(long) == {
                "message": "This model's maximum context length is 2048 tokens. Please reduce the length of the messages.",
                "type": "invalid_request_error",
                "param": "messages",
                "code": "context_length_exceeded",
            }
        for refused in (
            {"max_tokens": 0},
            {"stop": list("abcde")},
            {"messages": IMAGE},
            {"continue_final_message": True},
        ):
            answer = await ask(router, name, **refused)
            assert answer.status_code == 400 and error_of(answer)["type"] == "invalid_request_error", refused


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
async def test_what_some_engine_refuses_is_taken_by_each(engine: Engine) -> None:
    """Cases 40, 42, 43, 44, 46, 47 and 52."""
    name = "jane of 0"
    taken: list[dict[str, Any]] = [
        {"tools": []},
        {"stream_options": {"include_usage": True}},
        {"max_tokens": -1, "stop": [" ", "."]},
        {"repeat_penalty": 1.1},
        {"repetition_penalty": 1.1},
        {"priority": 1, "kv_transfer_params": {}, "cache_salt": "a/b", "ttl": 1, "vllm_xargs": {}},
        {"messages": [{"role": "developer", "content": "Be brief."}, *QUESTION]},
    ]
    with over(engine) as router:
        for fields in taken:
            answer = await ask(router, name, **fields)
            assert answer.status_code == 200, (fields, answer.text)
        short = (await ask(router, name, max_tokens=None, max_completion_tokens=3)).json()
        assert short["usage"]["completion_tokens"] <= 3 and short["choices"][0]["finish_reason"] == "length"
        two = (await ask(router, name, n=2, temperature=1)).json()
        assert [choice["index"] for choice in two["choices"]] == [0, 1]
        alike = {
            (await ask(router, "cool of 0", temperature=None)).json()["choices"][0]["message"]["content"]
            for _ in range(3)
        }
        assert len(alike) == 1, "the model's own temperature of 0 was not filled in"


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
async def test_an_answer_names_nobody_and_its_stream_is_whole(engine: Engine) -> None:
    """Cases 54, 63, 65 and 66."""
    name = "jane of 0"
    with over(engine) as router:
        for path in (CHAT, COMPLETIONS):
            whole = await ask(router, name, path)
            assert not keys(whole.json()) & set(FOREIGN) and engine.role.model not in whole.text
            assert not any(word in str(whole.headers).lower() for word in ("uvicorn", "llama.cpp"))
            assert whole.json()["usage"]["prompt_tokens_details"]["cached_tokens"] >= 0
            assert whole.json()["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0
            for asked in ({"include_usage": True}, None):
                heard = await hear(router, name, path, stream_options=asked)
                assert len(heard.usages) == (asked is not None) == len([e for e in heard.events if not e["choices"]])
                assert not set().union(*map(keys, heard.events)) & set(FOREIGN)
                assert (len(heard.finishes), heard.done, heard.errors) == (1, 1, [])
                assert path == COMPLETIONS or heard.deltas[0] == {"role": "assistant", "content": ""}
                assert heard.content == (
                    whole.json()["choices"][0].get("text") or whole.json()["choices"][0]["message"]["content"]
                )


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
async def test_one_stream_answers_each_of_several_prompts(engine: Engine) -> None:
    """llama.cpp's server opens it with an event that is null."""
    with over(engine) as router:
        heard = await hear(router, "jane of 0", COMPLETIONS, prompt=["Once", "The"])
    assert {event["choices"][0]["index"] for event in heard.events} == {0, 1}
    assert (len(heard.finishes), heard.done, heard.errors) == (2, 1, [])


async def _post(client: RawClient, model: str, *headers: str, **fields: Any) -> None:
    body = json.dumps({"model": model, "messages": QUESTION, "max_tokens": 4, **fields}).encode()
    await client.send(request(body, *headers))


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
async def test_the_wire_is_the_routers(engine: Engine) -> None:
    """Cases 73, 74, 75, 79 and 80."""
    name = "jane of 0"
    with over(engine) as router:
        port = int(router.url.rpartition(":")[2])
        async with connected(port) as client:
            head, _, body = request(
                json.dumps(
                    {"model": name, "messages": QUESTION, "max_tokens": 4, "metadata": {"x": "y" * 2_000_000}}
                ).encode(),
                "expect: 100-continue",
            ).partition(b"\r\n\r\n")
            await client.send(head + b"\r\n\r\n")
            assert (await client.head())[0] == 100
            await client.send(body)
            assert (await client.answer()).status == 200
            await _post(client, name, "accept-encoding: gzip", "x-request-id: mine-1", stream=True)
            streamed = await client.answer()
            assert "content-encoding" not in streamed.headers and streamed.body.startswith(b"data: {")
            assert streamed.headers["x-request-id"] == "mine-1" and b"mine-1" not in streamed.body
            await client.send(
                request(b"", "origin: https://example.test", line=f"OPTIONS {CHAT} HTTP/1.1", content_type=None)
            )
            preflight = await client.answer()
            assert preflight.status == 405 and not any(line.startswith("access-control") for line in preflight.headers)
        async with client_of(router.url) as http:
            listed = (await http.get("/v1/models")).json()["data"]
    assert [entry["id"] for entry in listed] == ["jane of 0", "wrong of 0", "cool of 0"]
    assert set().union(*map(keys, listed)) == {"id", "object", "created", "owned_by"}


@pytest.mark.llama
@pytest.mark.timeout(180)
async def test_case_14_a_stream_that_falls_silent_on_sigterm_is_not_waited_for(left: Engine) -> None:
    """llama.cpp's server ends its streams silently then, and cuts them after 30 s."""
    body = {"model": "jane of 0", "messages": QUESTION, "max_tokens": 1500, "ignore_eos": True, "stream": True}
    try:
        with over(left, timeouts={"between_tokens_s": 1.0}, resume={"by": []}) as router:
            async with (
                client_of(router.url) as client,
                client.stream("POST", CHAT, json=body) as answer,
                asyncio.timeout(20),
            ):
                lines = answer.aiter_lines()
                said = [await anext(lines) for _ in range(8)]
                left.send(signal.SIGTERM)
                said += [line async for line in lines]
    finally:
        left.stop()  # the next test gets a new one
    heard = heard_in("\n".join([*said, ""]))
    assert heard.content and heard.ending == BROKEN


@pytest.mark.vllm
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(
    "asked",
    [{}, {"logprobs": True, "top_logprobs": 2}, {"n": 2, "temperature": 1, "seed": 1}],
    ids=["plain", "with probabilities", "two answers"],
)
async def test_case_64_the_same_call_gets_an_answer_of_the_same_form_from_both(
    left: Engine, vllm: Engine, path: str, asked: dict[str, Any]
) -> None:
    """Keys, their order, and types: whole and streamed, with usage and without."""
    if path == COMPLETIONS and "logprobs" in asked:
        asked = {"logprobs": 2}
    with over(left, vllm) as router:
        wholes = [await ask(router, f"jane of {number}", path, **asked) for number in (0, 1)]
        assert shape(wholes[0].json()) == shape(wholes[1].json())
        assert [name for name in wholes[0].headers] == [name for name in wholes[1].headers]
        for options in (None, {"include_usage": True}):
            streams = [
                await hear(router, f"jane of {number}", path, stream_options=options, **asked) for number in (0, 1)
            ]
            assert forms(streams[0].events) == forms(streams[1].events)
            if not asked:
                assert shapes(streams[0].events) == shapes(streams[1].events)
