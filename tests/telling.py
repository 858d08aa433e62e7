"""One answer in pieces, as two servers would tell it, and the router in front of both: for tests of streams that break in the middle."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.running import Router, config_for, running
from tests.upstream import Script, Upstream, event

ROLE = event({"role": "assistant", "content": ""})
STOP = event({}, "stop")
DONE = b"data: [DONE]\n\n"
WORDS = ("Once", " upon", " a", " time", " é🚀\n", ' "there"', " was.")
TEXT = "".join(WORDS)
ALIGN = "split: {left: 1.0}\nresume: {by: [align]}"


def says(*words: str, name: str = "content") -> list[bytes]:
    return [event({name: word}) for word in words]


def whole(*words: str) -> list[bytes]:
    return [ROLE, *says(*words), STOP, DONE]


def other(events: list[bytes]) -> list[bytes]:
    """The same events as another server would identify them."""
    return [
        one.replace(b"chatcmpl-1", b"chatcmpl-2").replace(b'"created":1,', b'"created":2,').replace(b'"m"', b'"n"')
        for one in events
    ]


SENT = [ROLE, *says(*WORDS[:4])]  # all that comes before the break


@asynccontextmanager
async def two(left: Script, right: Script, model: str = ALIGN) -> AsyncIterator[tuple[Router, Upstream, Upstream]]:
    """The router in front of two backends; the left one has the whole share."""
    async with (
        Upstream(left) as a,
        Upstream(right) as b,
        running(config_for({"left": a.url, "right": b.url}, model)) as router,
    ):
        yield router, a, b


async def metric(router: Router, line: str) -> str:
    """The value of a metric, "" where it is not there."""
    text = (await router.client.get("/metrics")).text
    return next((row.rpartition(" ")[2] for row in text.splitlines() if row.startswith(line)), "")
