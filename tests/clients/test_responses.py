"""What the SDKs that speak the Responses API make of it: an answer, a stream that goes on from it, and one that breaks."""

from __future__ import annotations

import pytest

from tests.clients.captured import PIECES, SAYS, VLLM
from tests.clients.players import Players
from tests.clients.stage import Stage, cut_off_after
from tests.upstream import Connection, Received

pytestmark = [
    pytest.mark.node,
    pytest.mark.timeout(60, func_only=True),
    pytest.mark.asyncio(loop_scope="module"),
]

EACH = pytest.mark.parametrize("sdk", ["openai for Python", "openai", "langchain"])


@EACH
async def test_a_response_arrives_whole_and_the_next_goes_on_from_it_at_its_owner(
    players: Players, stage: Stage, sdk: str
) -> None:
    saw = await players[sdk].play("responses", baseURL=stage.url, user=stage.callers["vllm"])
    assert saw["text"] == [SAYS["vllm"], *PIECES["vllm"]] and saw.get("thrown") is None
    assert saw["requests"] == 2
    first, second = stage.received["vllm"]
    assert first.json["model"] == second.json["model"] == "gpt-oss-20b"
    assert second.json["previous_response_id"] == "resp_871c54759ddb9de0", "the owner's own id, not the router's"
    assert saw["ids"] != ["resp_871c54759ddb9de0"]
    assert not stage.received["lmstudio"]


@EACH
async def test_a_response_that_breaks_after_its_first_content_is_thrown(
    players: Players, stage: Stage, sdk: str
) -> None:
    half = [packet for packet in VLLM["responses stream"] if b"output_text.done" not in packet][:20]

    async def script(request: Received, connection: Connection) -> None:
        if request.json.get("stream"):
            await cut_off_after(*half)(request, connection)
        else:
            await connection.write(*VLLM["responses"])

    stage.backends["vllm"].script = script
    saw = await players[sdk].play("responses", baseURL=stage.url, user=stage.callers["vllm"])
    assert saw["requests"] == 2
    assert len(saw["text"]) > 1
    assert "broke off" in saw["thrown"]["message"]
