"""A call goes to who can answer it, or is refused in one clear sentence; never is it answered poorer. Through the router."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from policies.choose import MOST_BYTES_PER_TOKEN
from tests.offered import A_TOOL
from tests.running import Router, running
from tests.upstream import Script, Upstream, answer, says, sends

IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]
VECTORS = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
    "model": "m",
    "usage": {"prompt_tokens": 1, "total_tokens": 1},
}
COMPLETED = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 1,
    "model": "real",
    "choices": [{"index": 0, "text": "there", "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
NO_ROUTE = answer({"detail": "Not Found"}, "404 Not Found")
LIES = answer({"error": "Unexpected endpoint or method. (POST /v1/embeddings)"})
NOT_BUILT_IN = answer(
    {"error": {"code": 501, "message": "This server does not support embeddings."}}, "501 Not Implemented"
)


def only_chat(refusal: bytes) -> Script:
    """A backend that answers chat, and every other path with `refusal`."""

    async def script(request: Any, connection: Any) -> None:
        await (says("chat") if request.path == "/v1/chat/completions" else sends(refusal))(request, connection)

    return script


def lmstudio_list(**types: str) -> dict[str, bytes]:
    entries = [{"id": name, "type": kind, "state": "loaded"} for name, kind in types.items()]
    return {"/v1/models": answer({"data": entries}), "/api/v0/models": answer({"data": entries})}


@dataclass
class Stage:
    router: Router
    servers: dict[str, Upstream]

    async def embed(self, **headers: str) -> httpx.Response:
        body = {"model": "jane", "input": "hi"}
        return await self.router.client.post("/v1/embeddings", json=body, headers=headers)

    def asked(self) -> str:
        """Who was asked since the last look, each once, in the order of their names."""
        names = "".join(name for name, each in self.servers.items() if each.received)
        for each in self.servers.values():
            each.received.clear()
        return names


Given = tuple[str, Upstream] | tuple[str, Upstream, str]  # kind, server, more of `on`


def on(**servers: Given) -> Mapping[str, Given]:
    return servers


@asynccontextmanager
async def stage(servers: Mapping[str, Given], model: str = "", server: str = "") -> AsyncIterator[Stage]:
    """A router before these servers, the first of which has the whole share; after their first probe."""
    async with AsyncExitStack() as stack:
        ups = {name: await stack.enter_async_context(given[1]) for name, given in servers.items()}
        backends = [f"  {name}: {{kind: {given[0]}, url: {ups[name].url}}}" for name, given in servers.items()]
        names = [f"{name}: {{name: real, {given[2] if len(given) > 2 else ''}}}" for name, given in servers.items()]
        lines = [server, "backends:", *backends, "models:", "  jane:", f"    on: {{{', '.join(names)}}}"]
        lines += [f"    split: {{{next(iter(servers))}: 1.0}}", "    retry: {attempts_per_backend: 1}"]
        lines += [f"    {line}" for line in model.splitlines()]
        router = await stack.enter_async_context(running("\n".join(lines), {"PINS": "pin-key"}))
        fleet = router.server.config.loaded_app.raw_endpoints[b"/v1/chat/completions"].fleet
        async with asyncio.timeout(5):
            while any(
                one.probed_at_s is None or b"" in one.about for each in fleet.backends.values() for one in each.replicas
            ):
                await asyncio.sleep(0.005)
        yield Stage(router, ups)


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    return error


# -- what a call needs -------------------------------------------------------------------------------

NEEDS: list[tuple[str, dict[str, Any], str, str]] = [
    ("several answers", {"n": 2}, "n", "(`n`)"),
    ("logprobs", {"logprobs": True}, "logprobs", "`logprobs`"),
    ("an image", {"messages": IMAGE}, "messages", "images"),
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "a stream"])
@pytest.mark.parametrize(("fields", "param", "words"), [row[1:] for row in NEEDS], ids=[row[0] for row in NEEDS])
async def test_what_lm_studio_cannot_do_goes_to_who_can_and_else_is_a_400(
    fields: dict[str, Any], param: str, words: str, stream: bool
) -> None:
    async with stage(
        on(a=("lmstudio", Upstream(says("x"))), b=("vllm", Upstream(says("x")), "can: {images: true}"))
    ) as there:
        response = await there.router.chat(**fields, stream=stream, headers={"x-crossfade-explain": "1"})
        assert response.status_code == 200 and there.asked() == "b"
        need = {"messages": "images"}.get(param, param)
        assert response.headers["x-crossfade-trail"] == f"fallback (a incapable: {need}) -> b"
        plain = await there.router.chat(stream=stream)
        assert plain.headers["x-crossfade-backend"] == "a"
    async with stage(on(a=("lmstudio", Upstream(says("x"))))) as there:
        response = await there.router.chat(**fields, stream=stream)
        error = error_of(response)
        assert (response.status_code, error["code"], error["param"]) == (400, "unsupported", param)
        assert "`jane`" in error["message"] and words in error["message"]
        assert there.asked() == "" and response.headers["x-crossfade-attempts"] == "0"


CUSTOM = {"tools": [A_TOOL, {"type": "custom", "custom": {"name": "x"}}]}
# what it asks, the kind of server that would drop it, fail at it or take it for the client's mistake, path, fields
DROPPED: list[tuple[str, str, str, dict[str, Any]]] = [
    ("echo", "llama-server", "completions", {"prompt": "hi", "echo": True}),
    ("suffix", "llama-server", "completions", {"prompt": "hi", "suffix": "!"}),
    ("best_of", "llama-server", "completions", {"prompt": "hi", "best_of": 3}),
    ("functions", "llama-server", "chat/completions", {"functions": [{"name": "f"}]}),
    ("echo", "lmstudio", "completions", {"prompt": "hi", "echo": True}),
    ("suffix", "lmstudio", "completions", {"prompt": "hi", "suffix": "!"}),
    ("best_of", "lmstudio", "completions", {"prompt": "hi", "best_of": 3}),
    ("functions", "lmstudio", "chat/completions", {"functions": [{"name": "f"}]}),
    ("suffix", "vllm", "completions", {"prompt": "hi", "suffix": "!"}),
    ("best_of", "vllm", "completions", {"prompt": "hi", "best_of": 3}),
    ("functions", "vllm", "chat/completions", {"functions": [{"name": "f"}]}),
    ("custom_tools", "llama-server", "chat/completions", CUSTOM),
    ("custom_tools", "lmstudio", "chat/completions", CUSTOM | {"stream": True}),
    ("custom_tools", "vllm", "chat/completions", CUSTOM | {"tool_choice": "none"}),
]


@pytest.mark.parametrize(("need", "kind", "path", "fields"), DROPPED, ids=[f"{row[0]}, {row[1]}" for row in DROPPED])
async def test_what_a_server_would_drop_goes_to_another_and_else_is_a_400(
    need: str, kind: str, path: str, fields: dict[str, Any]
) -> None:
    body = {"model": "jane", "messages": [{"role": "user", "content": "hi"}], **fields}
    if path == "completions":
        del body["messages"]
    whole = sends(answer(COMPLETED)) if path == "completions" else says("x")
    async with stage(on(a=(kind, Upstream(whole)), b=("openai", Upstream(whole)))) as there:
        response = await there.router.client.post(f"/v1/{path}", json=body)
        assert (response.status_code, there.asked()) == (200, "b")
    async with stage(on(a=(kind, Upstream(whole), f"can: {{{need}: true}}"))) as there:
        response = await there.router.client.post(f"/v1/{path}", json=body)
        assert (response.status_code, there.asked()) == (200, "a"), "the configuration knows better"
    async with stage(on(a=(kind, Upstream(whole)))) as there:
        response = await there.router.client.post(f"/v1/{path}", json=body)
        error = error_of(response)
        param = {"custom_tools": "tools"}.get(need, need)
        assert (response.status_code, error["code"], error["param"]) == (400, "unsupported", param)
        assert f"`{param}`" in error["message"] and there.asked() == ""


async def test_vllm_is_taken_to_see_nothing_unless_the_configuration_says_so() -> None:
    async with stage(on(a=("vllm", Upstream(says("x"))))) as there:
        response = await there.router.chat(messages=IMAGE)
        assert (response.status_code, error_of(response)["code"], there.asked()) == (400, "unsupported", "")
    async with stage(on(a=("vllm", Upstream(says("x")), "can: {images: true}"))) as there:
        assert (await there.router.chat(messages=IMAGE)).status_code == 200 and there.asked() == "a"


async def test_an_lm_studio_that_says_it_sees_is_believed_and_the_configuration_more_so() -> None:
    sees = Upstream(says("x"), lists=lmstudio_list(real="vlm"))
    async with stage(on(a=("lmstudio", sees))) as there:
        assert (await there.router.chat(messages=IMAGE)).status_code == 200
    sees = Upstream(says("x"), lists=lmstudio_list(real="vlm"))
    async with stage(on(a=("lmstudio", sees, "can: {images: false}"))) as there:
        assert (await there.router.chat(messages=IMAGE)).status_code == 400


async def test_where_who_can_is_down_the_client_may_come_back_and_nobody_answers_poorer() -> None:
    async with stage(on(a=("lmstudio", Upstream(says("x"))), b=("vllm", Upstream(says("x"))))) as there:
        await there.servers["b"].stop()
        for _ in range(7):  # before it is ejected, and after
            response = await there.router.chat(n=2)
            assert (response.status_code, error_of(response)["code"]) == (503, "backend_unavailable")
            assert "retry-after" in response.headers
        assert there.asked() == ""
        assert (await there.router.chat()).status_code == 200


async def test_a_pin_to_who_cannot_is_a_400_that_says_so() -> None:
    servers = {"a": ("lmstudio", Upstream(says("x"))), "b": ("vllm", Upstream(says("x")))}
    async with stage(servers, server="server: {clients: [{key_env: PINS, may_pin: true}]}") as there:
        key = {"authorization": "Bearer pin-key"}
        response = await there.router.chat(n=2, headers=key | {"x-crossfade-backend": "a"})
        error = error_of(response)
        assert (response.status_code, error["code"], error["param"], there.asked()) == (400, "unsupported", "n", "")
        assert "`a`" in error["message"] and "x-crossfade-backend" in error["message"]
        assert (await there.router.chat(n=2, headers=key | {"x-crossfade-backend": "b"})).status_code == 200
        response = await there.router.client.post(
            "/tokenize", json={"model": "jane", "prompt": "x"}, headers=key | {"x-crossfade-backend": "a"}
        )
        assert (response.status_code, error_of(response)["code"]) == (400, "unsupported")


async def test_a_refused_call_says_in_its_trail_who_lacked_what() -> None:
    async with stage(
        on(a=("lmstudio", Upstream(says("x"))), b=("vllm", Upstream(says("x")), "can: {logprobs: false}"))
    ) as there:
        response = await there.router.chat(n=2, logprobs=True, headers={"x-crossfade-explain": "1"})
        assert response.headers["x-crossfade-trail"] == "nobody (a incapable: logprobs, n, b incapable: logprobs)"
        assert "`logprobs` and so many choices (`n`)" in error_of(response)["message"]


# -- contexts ----------------------------------------------------------------------------------------


async def test_a_context_that_is_surely_too_small_is_passed_over_before_anybody_is_asked() -> None:
    small = {"/v1/models": answer({"data": [{"id": "real", "max_model_len": 100}]})}
    long = "x" * (100 * MOST_BYTES_PER_TOKEN)
    async with stage(on(a=("vllm", Upstream(says("x"), lists=small)), b=("openai", Upstream(says("x"))))) as there:
        assert (await there.router.chat()).headers["x-crossfade-backend"] == "a"
        response = await there.router.chat(
            messages=[{"role": "user", "content": long}], headers={"x-crossfade-explain": "1"}
        )
        assert response.headers["x-crossfade-trail"] == "fallback (a context_too_small) -> b"
    async with stage(
        on(a=("vllm", Upstream(says("x"), lists=small), "context_tokens: 9000"), b=("openai", Upstream(says("x"))))
    ) as there:
        response = await there.router.chat(messages=[{"role": "user", "content": long}])
        assert response.headers["x-crossfade-backend"] == "a", "the configuration knows better than the server"


# -- whole APIs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", [NO_ROUTE, LIES, NOT_BUILT_IN], ids=["404", "200 and an error", "501"])
async def test_a_missing_route_moves_the_call_is_remembered_and_costs_no_health(refusal: bytes) -> None:
    servers = {
        "a": ("openai", Upstream(only_chat(refusal))),
        "b": ("openai", Upstream(sends(answer(VECTORS)))),
    }
    async with stage(servers, "eject: {consecutive_failures: 1}") as there:
        first = await there.embed(**{"x-crossfade-explain": "1"})
        assert first.status_code == 200 and there.asked() == "ab"
        assert "a route_missing after" in first.headers["x-crossfade-trail"]
        second = await there.embed(**{"x-crossfade-explain": "1"})
        assert second.status_code == 200 and there.asked() == "b", "who has no route is not asked first again"
        assert second.headers["x-crossfade-trail"] == "fallback (a route_missing: embeddings) -> b"
        assert (await there.router.chat()).headers["x-crossfade-backend"] == "a", "its chat is as good as ever"
        report = (await there.router.client.get("/health/ready")).json()
        assert report["models"]["jane"]["a"][0]["state"] == "in_rotation"
        assert report["capabilities"]["jane"]["a"] == {"embeddings": {"can": False, "from": "answers"}}


async def test_where_nobody_has_the_api_the_client_hears_it_every_time_and_the_servers_are_asked_again() -> None:
    servers = {name: ("openai", Upstream(only_chat(NO_ROUTE))) for name in "ab"}
    async with stage(servers) as there:
        for _ in range(2):
            response = await there.embed()
            error = error_of(response)
            assert (response.status_code, error["code"], error["param"]) == (404, "unsupported", "model")
            assert "`jane`" in error["message"] and "embeddings" in error["message"]
            assert there.asked() == "ab", "somebody may have mended it"


@pytest.mark.parametrize("first", ["a", "b"], ids=["the one without it first", "the one that is down first"])
async def test_where_another_may_have_the_api_and_is_down_the_client_may_come_back(first: str) -> None:
    servers = {"a": ("openai", Upstream(only_chat(NO_ROUTE))), "b": ("openai", Upstream(sends(answer(VECTORS))))}
    async with stage({name: servers[name] for name in sorted(servers, key=lambda name: name != first)}) as there:
        await there.servers["b"].stop()
        for _ in range(2):
            response = await there.embed()
            assert (response.status_code, error_of(response)["code"]) == (503, "backend_unavailable")


async def test_a_route_that_vllm_does_not_list_is_never_asked_for() -> None:
    document = {"/openapi.json": answer({"paths": {"/v1/chat/completions": {}, "/v1/models": {}}})}
    async with stage(on(a=("vllm", Upstream(says("x"), lists=document)))) as there:
        response = await there.embed()
        assert (response.status_code, error_of(response)["code"], there.asked()) == (404, "unsupported", "")
        report = (await there.router.client.get("/health/ready")).json()["capabilities"]["jane"]["a"]
        assert report["embeddings"] == {"can": False, "from": "probed"} and report["chat"]["can"]
        assert report["images"] == {"can": False, "from": "dialect"}
    document = {"/openapi.json": document["/openapi.json"]}
    vectors = Upstream(sends(answer(VECTORS)), lists=document)
    async with stage(on(a=("vllm", vectors, "can: {embeddings: true}"))) as there:
        assert (await there.embed()).status_code == 200, "the configuration knows better"


async def test_a_backend_without_chat_is_the_wrong_server_and_loses_its_health() -> None:
    servers = {"a": ("openai", Upstream(sends(NO_ROUTE))), "b": ("openai", Upstream(says("x")))}
    async with stage(servers, "eject: {consecutive_failures: 1}") as there:
        assert (await there.router.chat()).headers["x-crossfade-backend"] == "b"
        state = (await there.router.client.get("/health/ready")).json()["models"]["jane"]["a"][0]["state"]
        assert state != "in_rotation"


async def test_the_models_are_the_same_whoever_is_alive_and_can_what() -> None:
    async with stage(on(a=("lmstudio", Upstream(says("x"))), b=("vllm", Upstream(says("x"))))) as there:
        before = (await there.router.client.get("/v1/models")).content
        await there.servers["a"].stop()
        await there.router.chat()
        assert (await there.router.client.get("/v1/models")).content == before
    assert [entry["id"] for entry in json.loads(before)["data"]] == ["jane"]
