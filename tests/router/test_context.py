"""A prompt that is too long for one backend goes to those whose context is larger or not known, and to no other."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from policies.choose import may_take_more
from tests.running import config_for, running
from tests.upstream import Script, Upstream, answer, says, sends

TOO_LONG = sends(
    answer({"error": {"message": "This model's maximum context length is 400 tokens."}}, "400 Bad Request")
)


def server(name: str, script: Script, tokens: int | None) -> Upstream:
    """A vLLM that lists its model with this context, or with none."""
    entry = {"id": f"real-{name}", **({"max_model_len": tokens} if tokens else {})}
    return Upstream(script, lists={"/v1/models": answer({"object": "list", "data": [entry]})})


# Contexts of a, b and c -> who is asked, in order; all but c find it too long, which nobody could tell by its bytes.
WAYS: list[tuple[str, tuple[int | None, ...], str, int]] = [
    ("the next has as little: it is passed over", (400, 400, 800), "ac", 200),
    ("the next has less: it is passed over", (400, 200, 800), "ac", 200),
    ("the next has more: it is asked", (400, 600, 800), "abc", 200),
    ("nothing is known of the next: it is asked", (400, None, 800), "abc", 200),
    ("nothing is known of the first: all are asked", (None, 400, 800), "abc", 200),
    ("nobody has more: the client hears of it at once", (800, 400, 800), "a", 400),
]


@pytest.mark.parametrize(("tokens", "asked", "status"), [row[1:] for row in WAYS], ids=[row[0] for row in WAYS])
async def test_after_an_overflow(tokens: tuple[int | None, ...], asked: str, status: int) -> None:
    scripts = (TOO_LONG, TOO_LONG, says("from c"))
    async with AsyncExitStack() as stack:
        servers = {
            name: await stack.enter_async_context(server(name, script, own))
            for name, script, own in zip("abc", scripts, tokens, strict=True)
        }
        config = config_for({name: each.url for name, each in servers.items()})
        router = await stack.enter_async_context(running(config))
        fleet = router.server.config.loaded_app.raw_endpoints[b"/v1/chat/completions"].fleet
        async with asyncio.timeout(5):
            while any(each.replicas[0].probed_at_s is None for each in fleet.backends.values()):
                await asyncio.sleep(0.005)
        response = await router.chat()
    assert response.status_code == status
    assert "".join(name for name, each in servers.items() if each.received) == asked
    assert status == 200 or response.json()["error"]["code"] == "context_length_exceeded"


def test_what_is_not_known_may_take_more() -> None:
    assert may_take_more(None, 4) and may_take_more(4, None) and may_take_more(5, 4)
    assert not may_take_more(4, 4) and not may_take_more(3, 4)


FIELDS = [
    ("/v1/responses", {"input": "hi"}, "input"),
    ("/v1/completions", {"prompt": "hi"}, "prompt"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}, "messages"),
]


@pytest.mark.parametrize(("path", "fields", "param"), FIELDS, ids=[row[0] for row in FIELDS])
async def test_a_client_hears_which_of_its_fields_is_too_long(path: str, fields: dict[str, object], param: str) -> None:
    async with server("a", TOO_LONG, None) as up, running(config_for({"a": up.url})) as router:
        response = await router.client.post(path, json={"model": "jane", **fields})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", param)
