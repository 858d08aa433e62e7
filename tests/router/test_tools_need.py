"""A backend that answers calls with tools by a refusal of its own making: they go to who takes them. Through the router."""

from __future__ import annotations

from typing import Any

import pytest

from tests.router.test_capable_choice import Stage, error_of, on, stage
from tests.upstream import Connection, Received, Script, Upstream, answer, says

# What vLLM 0.32 says without a tool parser (vllm/renderers/online_renderer.py), and llama-server without --jinja.
AUTO = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
REQUIRED = 'tool_choice="required" requires --tool-call-parser to be set'
NAMED = 'tool_choice=function "sky" requires --tool-call-parser to be set'
NO_JINJA = "tools param requires --jinja flag"
WORDINGS = [AUTO, REQUIRED, NAMED, NO_JINJA]

TOOLS = [{"type": "function", "function": {"name": "sky", "parameters": {"type": "object"}}}]
PINS = "server: {clients: [{key_env: PINS, may_pin: true}]}"
PINNED = {"authorization": "Bearer pin-key", "x-crossfade-backend": "a"}


def refused(words: str, status: str = "400 Bad Request") -> bytes:
    error = {"message": words, "type": "BadRequestError", "param": None, "code": 400}
    return answer({"error": error}, status)


def without_tools(words: str = AUTO) -> Script:
    """A server that was started without a tool parser: all else it answers."""

    async def script(request: Received, connection: Connection) -> None:
        has_tools = "tools" in request.json and request.json.get("tool_choice") != "none"
        if has_tools:
            await connection.write(refused(words))
        else:
            await says("x")(request, connection)

    return script


async def with_tools(there: Stage, **fields: Any) -> Any:
    return await there.router.chat(tools=TOOLS, headers={"x-crossfade-explain": "1"}, **fields)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "a stream"])
@pytest.mark.parametrize("words", WORDINGS)
async def test_the_refusal_moves_the_call_is_remembered_and_costs_no_health(words: str, stream: bool) -> None:
    servers = {"a": ("vllm", Upstream(without_tools(words))), "b": ("vllm", Upstream(says("x")))}
    async with stage(servers, "eject: {consecutive_failures: 1}") as there:
        first = await with_tools(there, stream=stream)
        assert first.status_code == 200 and there.asked() == "ab"
        assert "a need_missing after" in first.headers["x-crossfade-trail"]
        second = await with_tools(there, stream=stream)
        assert second.status_code == 200 and there.asked() == "b", "who takes no tools is not asked first again"
        assert second.headers["x-crossfade-trail"] == "fallback (a need_missing: tools) -> b"
        plain_calls: list[dict[str, Any]] = [{}, {"tools": TOOLS, "tool_choice": "none"}]
        for plain in plain_calls:
            assert (await there.router.chat(**plain)).headers["x-crossfade-backend"] == "a", "it is as good as ever"
        report = (await there.router.client.get("/health/ready")).json()
        assert report["models"]["jane"]["a"][0]["state"] == "in_rotation"
        assert report["capabilities"]["jane"]["a"]["tools"] == {"can": False, "from": "answers"}


async def test_what_a_chat_taught_keeps_the_tools_of_other_apis_away_too() -> None:
    servers = {"a": ("openai", Upstream(without_tools())), "b": ("openai", Upstream(without_tools()))}
    async with stage(servers) as there:
        there.servers["b"].script = says("x")
        await with_tools(there)
        assert there.asked() == "ab"
        tool = {"type": "function", "name": "sky", "parameters": {"type": "object"}}
        await there.router.client.post("/v1/responses", json={"model": "jane", "input": "hi", "tools": [tool]})
        assert there.asked() == "b"
        tool = {"name": "sky", "input_schema": {"type": "object"}}
        message = {"model": "jane", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "tools": [tool]}
        await there.router.client.post("/v1/messages", json=message)
        assert there.asked() == "b"


async def test_anthropics_envelope_teaches_it_as_well() -> None:
    said = {"type": "error", "error": {"type": "BadRequestError", "message": AUTO}}

    async def script(_: Received, connection: Connection) -> None:
        await connection.write(answer(said, "400 Bad Request"))

    tool = {"name": "sky", "input_schema": {"type": "object"}}
    message = {"model": "jane", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "tools": [tool]}
    async with stage(on(a=("vllm", Upstream(script)))) as there:
        response = await there.router.client.post("/v1/messages", json=message)
        error = error_of(response)
        assert (response.status_code, error["type"]) == (400, "invalid_request_error") and "tools" in error["message"]
        report = (await there.router.client.get("/health/ready")).json()
        assert report["capabilities"]["jane"]["a"]["tools"] == {"can": False, "from": "answers"}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "a stream"])
async def test_where_nobody_takes_tools_the_client_gets_one_clear_400_every_time(stream: bool) -> None:
    servers = {name: ("vllm", Upstream(without_tools())) for name in "ab"}
    async with stage(servers) as there:
        for _ in range(2):
            response = await with_tools(there, stream=stream)
            error = error_of(response)
            assert (response.status_code, error["type"]) == (400, "invalid_request_error")
            assert (error["code"], error["param"]) == ("unsupported", "tools")
            assert "`jane`" in error["message"] and "tools" in error["message"]
            assert "tool-call-parser" not in response.text, "what the operator must mend is nothing to a client"
            assert there.asked() == "ab", "somebody may have mended it"


async def test_one_that_says_so_and_one_that_is_said_to_lack_it_are_a_400_as_well() -> None:
    async with stage(
        on(a=("vllm", Upstream(without_tools())), b=("vllm", Upstream(says("x")), "can: {tools: false}"))
    ) as there:
        response = await with_tools(there)
        assert (response.status_code, error_of(response)["code"], there.asked()) == (400, "unsupported", "a")


@pytest.mark.parametrize("first", ["a", "b"], ids=["the one without them first", "the one that is down first"])
async def test_where_another_may_take_tools_and_is_down_the_client_may_come_back(first: str) -> None:
    servers = {"a": ("vllm", Upstream(without_tools())), "b": ("vllm", Upstream(says("x")))}
    async with stage({name: servers[name] for name in sorted(servers, key=lambda name: name != first)}) as there:
        await there.servers["b"].stop()
        for _ in range(2):
            response = await with_tools(there)
            assert (response.status_code, error_of(response)["code"]) == (503, "backend_unavailable")


async def test_a_pin_to_who_refuses_them_is_a_400_that_names_it() -> None:
    servers = {"a": ("vllm", Upstream(without_tools())), "b": ("vllm", Upstream(says("x")))}
    async with stage(servers, server=PINS) as there:
        response = await there.router.chat(tools=TOOLS, headers=PINNED)
        error = error_of(response)
        assert (response.status_code, error["code"], error["param"]) == (400, "unsupported", "tools")
        assert "`a`" in error["message"] and there.asked() == "a"


async def test_the_configuration_passes_such_a_backend_over_with_its_reason() -> None:
    async with stage(
        on(a=("vllm", Upstream(says("x")), "can: {tools: false}"), b=("vllm", Upstream(says("x"))))
    ) as there:
        response = await with_tools(there)
        assert (response.headers["x-crossfade-trail"], there.asked()) == ("fallback (a incapable: tools) -> b", "b")
        assert (await there.router.chat()).headers["x-crossfade-backend"] == "a"
    async with stage(on(a=("vllm", Upstream(says("x")), "can: {tools: false}"))) as there:
        response = await with_tools(there)
        error = error_of(response)
        assert (response.status_code, error["code"], error["param"]) == (400, "unsupported", "tools")
        assert there.asked() == ""


async def test_where_the_configuration_says_that_it_takes_tools_nothing_is_remembered() -> None:
    servers = on(a=("vllm", Upstream(without_tools()), "can: {tools: true}"), b=("vllm", Upstream(says("x"))))
    async with stage(servers) as there:
        for _ in range(2):
            assert (await with_tools(there)).status_code == 200 and there.asked() == "ab"


QUOTES = [
    ("a call that asks for no tools", {}, AUTO),
    ("a validation dump", {"tools": TOOLS}, f"1 validation error:\n {{'input': '{NAMED}'}}"),
    ("words around it", {"tools": TOOLS}, f"the value `{AUTO}` is no model"),
    ("a tool that is called so", {"tools": TOOLS}, f"unknown tool {REQUIRED}"),
]


@pytest.mark.parametrize(("fields", "words"), [row[1:] for row in QUOTES], ids=[row[0] for row in QUOTES])
async def test_a_client_cannot_take_tools_from_the_others_by_what_it_writes(fields: dict[str, Any], words: str) -> None:
    async def script(_: Received, connection: Connection) -> None:
        await connection.write(refused(words))

    async with stage(on(a=("vllm", Upstream(script)), b=("vllm", Upstream(says("x"))))) as there:
        response = await there.router.chat(**fields)
        assert response.status_code == 400 and there.asked() == "a"
        report = (await there.router.client.get("/health/ready")).json()
        assert "tools" not in report["capabilities"]["jane"]["a"]


async def test_the_owner_of_a_response_that_takes_no_tools_is_asked_alone_and_it_is_a_400() -> None:
    made = {"id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "m", "output": [
        {"type": "message", "id": "m1", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "hello", "annotations": []}]}]}  # fmt: skip

    async def script(request: Received, connection: Connection) -> None:
        await connection.write(refused(AUTO) if "tools" in request.json else answer(made))

    async with stage(on(a=("vllm", Upstream(script)), b=("vllm", Upstream(script)))) as there:
        first = await there.router.client.post("/v1/responses", json={"model": "jane", "input": "hi"})
        there.asked()
        tool = {"type": "function", "name": "sky", "parameters": {"type": "object"}}
        more = {"model": "jane", "input": "on", "tools": [tool], "previous_response_id": first.json()["id"]}
        response = await there.router.client.post("/v1/responses", json=more)
        error = error_of(response)
        assert (response.status_code, error["code"], error["param"]) == (400, "unsupported", "tools")
        assert there.asked() == "a"
