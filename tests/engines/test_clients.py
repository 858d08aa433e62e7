"""The applications' SDKs on a real llama.cpp server behind a real `crossfade serve`."""

from __future__ import annotations

import pytest

from tests.clients.node import installed
from tests.clients.players import SDK_PACKAGE, SDKS, player_of
from tests.engines.engine import Engine
from tests.engines.scenes import router_over

pytestmark = [pytest.mark.llama, pytest.mark.node, pytest.mark.timeout(180)]


@pytest.mark.parametrize("sdk", SDKS)
async def test_an_sdk_reads_the_same_answer_whole_and_streamed(left: Engine, sdk: str) -> None:
    with router_over(left) as router:
        asked = {"baseURL": f"{router.url}/v1", "user": "user-0", "usage": True, "temperature": 0, "maxTokens": 16}
        async with player_of(installed(SDK_PACKAGE), sdk) as player:
            await player.play("whole", **asked)  # from here on the prompt is cached for both
            whole = await player.play("whole", **asked)
            streamed = await player.play("stream", **asked)
    assert whole["text"] == ["".join(streamed["text"])] != [""] and len(streamed["text"]) > 1
    assert whole["finish"] == streamed["finish"] and streamed["finish"] in (["stop"], ["length"])
    assert whole["usage"] == streamed["usage"] > 1
