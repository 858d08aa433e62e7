"""Two real llama.cpp servers behind a real `crossfade serve`: whole answers, streams, and everything that may befall an engine."""

from __future__ import annotations

import signal
from functools import partial

import pytest

from tests.engines import scenes
from tests.engines.engine import Engine
from tests.engines.scenes import router_over

pytestmark = [pytest.mark.llama, pytest.mark.timeout(180)]  # with the installation, where nothing is cached: 8 s


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_answer_is_the_direct_one_under_the_public_name(left: Engine, stream: bool) -> None:
    with router_over(left) as router:
        await scenes.equals_the_direct_answer(router, left, stream=stream)


async def test_each_of_two_engines_answers_its_half_of_the_callers(left: Engine, right: Engine) -> None:
    with router_over(left, right) as router:
        await scenes.both_answer(router)


@pytest.mark.parametrize("victim", ["left", "right"])
async def test_kill_9_loses_no_call_that_has_not_begun_and_the_engine_comes_back(
    left: Engine, right: Engine, victim: str
) -> None:
    engine = {"left": left, "right": right}[victim]
    with router_over(left, right) as router:
        await scenes.is_killed_and_comes_back(router, engine, partial(engine.send, signal.SIGKILL))


async def test_an_engine_that_stands_still_before_the_first_token_is_passed_over(left: Engine, right: Engine) -> None:
    limits = {"first_token_s": 1.0, "first_token_per_kib_s": 0.0}
    with router_over(left, right, timeouts=limits) as router:
        await scenes.stands_still_before_the_first_token(router, left)


async def test_an_engine_that_stands_still_in_mid_stream_costs_one_error_event(left: Engine, right: Engine) -> None:
    with router_over(left, right, timeouts={"between_tokens_s": 1.0}) as router:
        await scenes.stands_still_in_mid_stream(router, left)


async def test_a_client_that_leaves_in_mid_stream_frees_the_engine(left: Engine) -> None:
    with router_over(left) as router:
        await scenes.client_leaves_in_mid_stream(router, left)
