"""Time limits that stand on a backend hold for each attempt on it, and leave the rest of the call its own."""

from __future__ import annotations

import pytest

from tests.running import config_for, running
from tests.upstream import Connection, Received, Upstream, chunked, event, hangs, says, stream


async def trickles(_request: Received, connection: Connection) -> None:
    """Content without end, each piece soon after the one before."""
    await connection.write(*stream("one ", "two ")[:4])
    while not connection.reader.at_eof():
        await connection.write(chunked(event({"content": "."})))


def limited(a: str, b: str) -> str:
    """A router whose backend a has less time than the model gives."""
    model = "split: {a: 1.0}\ntimeouts: {total_s: 20, answer_s: 15, first_token_s: 15}\nresume: {by: []}"
    config = config_for({"a": a, "b": b}, model)
    return config.replace(f"url: {a}}}", f"url: {a}, timeouts: {{total_s: 0.2}}}}")


@pytest.mark.parametrize("streams", [True, False], ids=["a stream", "a whole answer"])
async def test_what_does_not_begin_within_a_backends_total_moves(streams: bool) -> None:
    async with Upstream(hangs) as a, Upstream(says("from b")) as b, running(limited(a.url, b.url)) as router:
        response = await router.chat(stream=streams)
    assert response.status_code == 200 and response.headers["x-crossfade-backend"] == "b"
    assert len(a.received) == 1


async def test_a_stream_that_outlasts_its_backends_total_is_broken_and_charged() -> None:
    async with Upstream(trickles) as a, Upstream(says("x")) as b, running(limited(a.url, b.url)) as router:
        response = await router.chat(stream=True)
        metrics = (await router.client.get("/metrics")).text
    assert '"one "' in response.text and response.text.count('"error"') == 1
    assert "[DONE]" not in response.text and not b.received
    assert 'crossfade_attempts_total{backend="a",model="jane",outcome="stream_broken"} 1.0' in metrics
