"""Backends that refuse this call's `n` and no other: another is asked, and nothing is remembered. Through the router."""

from __future__ import annotations

import pytest

from tests.router.test_capable_choice import error_of, stage
from tests.router.test_tools_need import refused
from tests.upstream import Connection, Received, Script, Upstream, says

SLOTS = "n_cmpl cannot be greater than the number of slots, please increase -np"  # tools/server/server-task.cpp
GREEDY = "n must be 1 when using greedy sampling, got 8."  # a capture of vLLM 0.33


def refusing(words: str) -> Script:
    """A server that refuses more than four choices."""

    async def script(request: Received, connection: Connection) -> None:
        if request.json.get("n", 1) > 4:
            await connection.write(refused(words))
        else:
            await says("x")(request, connection)

    return script


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "a stream"])
@pytest.mark.parametrize("words", [SLOTS, GREEDY], ids=["slots", "greedy"])
async def test_the_call_moves_on_and_fewer_choices_still_go_there(words: str, stream: bool) -> None:
    servers = {"a": ("vllm", Upstream(refusing(words))), "b": ("vllm", Upstream(says("x")))}
    async with stage(servers, "eject: {consecutive_failures: 1}") as there:
        for _ in range(2):
            assert (await there.router.chat(n=8, stream=stream)).status_code == 200 and there.asked() == "ab"
        assert (await there.router.chat(n=2, stream=stream)).status_code == 200 and there.asked() == "a"


async def test_where_nobody_gives_so_many_it_is_one_clear_400() -> None:
    async with stage({name: ("vllm", Upstream(refusing(SLOTS))) for name in "ab"}) as there:
        error = error_of(response := await there.router.chat(n=8))
        assert (response.status_code, error["code"], error["param"], there.asked()) == (400, "unsupported", "n", "ab")


@pytest.mark.parametrize("down", ["a", "b"], ids=["the first is down", "the second is down"])
async def test_where_another_may_give_so_many_and_is_down_the_client_may_come_back(down: str) -> None:
    async with stage({name: ("vllm", Upstream(refusing(SLOTS))) for name in "ab"}) as there:
        await there.servers[down].stop()
        response = await there.router.chat(n=8)
        assert (response.status_code, error_of(response)["code"]) == (503, "backend_unavailable")
