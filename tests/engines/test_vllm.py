"""A real vLLM engine on CPU and a real llama.cpp server behind a real `crossfade serve`: the migration that this is all about."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial

import pytest

from tests.engines import scenes
from tests.engines.engine import Engine
from tests.engines.scenes import router_over
from tests.family import family, left_of

# With the installation and the model's conversion, where nothing is cached: three minutes on two cores.
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_answer_is_the_direct_one_under_the_public_name(vllm: Engine, stream: bool) -> None:
    with router_over(vllm) as router:
        await scenes.equals_the_direct_answer(router, vllm, stream=stream)


async def test_each_of_two_engines_answers_its_half_of_the_callers(left: Engine, vllm: Engine) -> None:
    with router_over(left, vllm) as router:
        await scenes.both_answer(router)


async def test_a_client_that_leaves_in_mid_stream_frees_the_engine(vllm: Engine) -> None:
    with router_over(vllm) as router:
        await scenes.client_leaves_in_mid_stream(router, vllm)


async def test_an_engine_that_stands_still_before_the_first_token_is_passed_over(left: Engine, vllm: Engine) -> None:
    limits = {"first_token_s": 3.0, "first_token_per_kib_s": 0.0}
    with router_over(left, vllm, timeouts=limits) as router:
        await scenes.stands_still_before_the_first_token(router, vllm)


async def test_an_engine_that_stands_still_in_mid_stream_never_leaves_half_an_answer(
    left: Engine, vllm: Engine
) -> None:
    with router_over(left, vllm, timeouts={"between_tokens_s": 3.0}) as router:
        await scenes.stands_still_in_mid_stream(router, vllm)


async def test_kill_9_of_llama_loses_no_call_that_has_not_begun(left: Engine, vllm: Engine) -> None:
    with router_over(left, vllm) as router:
        await scenes.is_killed_and_comes_back(router, left, partial(left.send, signal.SIGKILL))


@pytest.mark.parametrize("part", ["vllm.entrypoints.openai.api_server", "VLLM::EngineCore"], ids=["server", "core"])
async def test_kill_9_of_vllm_loses_no_call_that_has_not_begun(left: Engine, vllm: Engine, part: str) -> None:
    members = family(vllm.process.pid)
    struck = next(member for member in members if part in member.line)
    kill: Callable[[], None] = partial(os.kill, struck.pid, signal.SIGKILL)
    with router_over(left, vllm) as router:
        await scenes.is_killed_and_comes_back(router, vllm, kill)
    assert left_of(members) == []
