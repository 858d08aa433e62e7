"""Where connections lead: dropped packets, names and addresses (facts B5, 8, 39, 40); a poisonous prompt (20); clocks (48)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.faults.invariants import Watch
from tests.faults.scripts import full_backlog, poisoned, says_error
from tests.faults.stage import Told, told
from tests.running import Router, config_for, running
from tests.upstream import Upstream, says

pytestmark = pytest.mark.asyncio(loop_scope="module")

FAR = "split: {a: 1.0}\ntimeouts: {connect_s: 0.3}"


@asynccontextmanager
async def in_front_of(url: str) -> AsyncIterator[tuple[Router, Upstream]]:
    """A router whose first backend is at `url`, and its second, which is well."""
    async with Upstream(says("from b")) as b, running(config_for({"a": f'"{url}"', "b": b.url}, FAR)) as router:
        yield router, b


async def test_a_backend_whose_connections_are_dropped_is_left_after_connect_s() -> None:
    async with full_backlog() as port, in_front_of(f"http://127.0.0.1:{port}") as (router, _):
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        response = await router.chat(headers={"x-crossfade-explain": "1"})
        assert response.headers["x-crossfade-backend"] == "b"
        assert "a connect_failed" in response.headers["x-crossfade-trail"]
        assert 0.29 <= loop.time() - began_s < 2


async def test_a_client_that_leaves_while_its_call_connects_leaves_nothing_behind() -> None:
    async with full_backlog() as port, in_front_of(f"http://127.0.0.1:{port}") as (router, b):

        async def until_in_flight(count: int) -> None:
            line = f'crossfade_in_flight{{backend="a",replica="http://127.0.0.1:{port}"}} {count}.0'
            async with asyncio.timeout(1):
                while line not in (await router.client.get("/metrics")).text:
                    await asyncio.sleep(0)

        call = asyncio.create_task(router.chat())
        await until_in_flight(1)
        call.cancel()
        await until_in_flight(0)
        assert not b.received


async def test_a_host_that_does_not_exist_is_left_at_once() -> None:
    async with in_front_of("http://no-such-host.invalid:80") as (router, _):
        async with asyncio.timeout(2):
            assert (await router.chat()).headers["x-crossfade-backend"] == "b"


@pytest.mark.parametrize("host", ["::1", "::ffff:127.0.0.1"], ids=["IPv6", "IPv4 in IPv6's clothes"])
async def test_a_backend_may_be_at_an_address_of(host: str) -> None:
    async with Upstream(says("from a")) as a:
        extra = await asyncio.start_server(a._accept, "::1", a.port) if host == "::1" else None
        async with in_front_of(f"http://[{host}]:{a.port}") as (router, _):
            response = await router.chat()
            assert response.headers["x-crossfade-backend"] == "a", response.text
            assert a.received[0].headers["host"] == f"[{host}]:{a.port}"
        if extra is not None:
            extra.close()


async def test_a_poisonous_prompt_costs_others_nothing(watch: Watch) -> None:
    for backend in (watch.stage.a, watch.stage.b):
        backend.script = poisoned("poison", says_error("500 Oh"), says("well"))
    poison = [{"role": "user", "content": "poison"}]
    assert told(await watch.ask("a", messages=poison)).status == 503
    for _ in range(4):
        assert told(await watch.ask("a")) == Told(200, "well", backend="a")


async def test_no_clock_that_can_be_set_decides_anything() -> None:
    """Only an HTTP date, which is wall time by its nature, and what is printed may ask the wall clock."""
    root = Path(__file__).parents[2]
    asks = ("time.time(", "datetime.now(", "datetime.utcnow(", "date.today(")
    found = {
        str(path.relative_to(root))
        for folder in ("router", "backends", "policies")
        for path in (root / folder).rglob("*.py")
        if any(ask in path.read_text() for ask in asks)
    }
    prints_created = {"backends/canonical_forms.py", "router/attempt.py", "router/reload.py"}
    assert found <= {"backends/faults.py"} | prints_created
