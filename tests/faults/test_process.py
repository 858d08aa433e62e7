"""What befalls the router's own process: it has no descriptors left (facts B5, 49)."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from tests.serving import RunningRouter
from tests.upstream import Connection, Received, Upstream, says

MOST_BUSY = 0.2  # of one core
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def child(urls: Mapping[str, str], **model: Any) -> AsyncIterator[RunningRouter]:
    """`crossfade serve` in front of these backends; the first has the whole share."""
    backends = {name: {"kind": "vllm", "url": url} for name, url in urls.items()}
    models = {"jane": {"on": dict.fromkeys(urls, "m"), "split": {next(iter(urls)): 1.0}, **model}}
    router = RunningRouter({"backends": backends, "models": models})
    await asyncio.to_thread(router.__enter__)
    try:
        yield router
    finally:
        await asyncio.to_thread(router.__exit__, None, None, None)


async def ask(client: httpx.AsyncClient, **fields: object) -> httpx.Response:
    body = {"model": "jane", "messages": [{"role": "user", "content": "hi"}], **fields}
    return await client.post("/v1/chat/completions", json=body)


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


async def test_without_a_descriptor_left_calls_are_refused_at_no_cost_and_answered_as_soon_as_there_is_one() -> None:
    busy = asyncio.Event()

    async def holds_the_first(request: Received, connection: Connection) -> None:
        if busy.is_set():
            await says("hello")(request, connection)
        else:
            busy.set()
            await connection.until_gone()

    async with (
        Upstream(holds_the_first) as a,
        child({"a": a.url}) as router,
        httpx.AsyncClient(base_url=router.url, timeout=20) as first,
        httpx.AsyncClient(base_url=router.url, timeout=20) as second,
    ):
        await second.get("/health/live")  # its connection stands
        holding = asyncio.create_task(ask(first))
        await busy.wait()
        with no_descriptors_left(router.pid):
            refused = await ask(second)
            assert refused.status_code == 503 and int(refused.headers["retry-after"]) <= 60
            knocks = [asyncio.create_task(_knock(router)) for _ in range(5)]
            began_s, used_s = time.monotonic(), cpu_s(router.pid)
            await asyncio.sleep(1.0)  # the time over which its work is measured
            assert cpu_s(router.pid) - used_s < MOST_BUSY * (time.monotonic() - began_s)
        async with asyncio.timeout(2):
            assert (await ask(second)).status_code == 200
            await asyncio.gather(*knocks)
        holding.cancel()


@contextmanager
def no_descriptors_left(pid: int) -> Iterator[None]:
    """The process may open nothing for the length of the block."""
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = max(int(name.name) for name in Path(f"/proc/{pid}/fd").iterdir())
    free = [number for number in range(used) if not Path(f"/proc/{pid}/fd/{number}").exists()]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (min([used + 1, *free]), limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


async def _knock(router: RunningRouter) -> None:
    """A new client, which may have to wait for a descriptor or be turned away."""
    async with httpx.AsyncClient(base_url=router.url, timeout=20) as client:
        with suppress(httpx.TransportError):
            await client.get("/health/live")
