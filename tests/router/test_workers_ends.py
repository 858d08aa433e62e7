"""How several workers end, and begin again: in order on a signal, without their supervisor, and where they cannot start at all."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.serving import RunningRouter
from tests.upstream import Upstream
from tests.workers import Crowd, all_up, chat, is_there, metrics, pids, workers

# Read by every Python that starts with it on its path: a worker that finds the file ends with status 3 before it has begun.
CANNOT_START = """
import os, sys
if "router.worker" in sys.orig_argv and os.path.exists({file!r}):
    os._exit(3)
"""

WAITS = ("in 0.25 s", "in 0.5 s", "in 1 s")


def config_for(url: str, **server: Any) -> dict[str, Any]:
    """The model `jane` on one backend, behind two workers."""
    return {
        "server": {"keys_env": None, "workers": 2, **server},
        "backends": {"a": {"kind": "vllm", "url": url}},
        "models": {"jane": {"on": {"a": "real"}, "split": {"a": 1.0}}},
    }


@pytest_asyncio.fixture
async def crowd() -> AsyncIterator[Crowd]:
    yield Crowd()


@pytest_asyncio.fixture
async def backend(crowd: Crowd) -> AsyncIterator[Upstream]:
    async with Upstream(crowd) as a:
        yield a


def client_of(router: RunningRouter) -> httpx.AsyncClient:
    """Every call has a connection of its own."""
    return httpx.AsyncClient(base_url=router.url, timeout=30, limits=httpx.Limits(max_keepalive_connections=0))


async def running_calls(crowd: Crowd, client: httpx.AsyncClient) -> list[asyncio.Task[httpx.Response]]:
    """So many that both workers have some of them."""
    calls = [asyncio.create_task(chat(client)) for _ in range(12)]
    await crowd.until(12)
    return calls


async def until_closed(router: RunningRouter) -> None:
    """Wait until nobody listens any more."""
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", int(router.url.rsplit(":", 1)[1]))
            except ConnectionError:
                return
            writer.transport.abort()
            await asyncio.sleep(0.02)


async def until_ended(there: list[int]) -> None:
    """Wait until none of these processes runs; who still does after that, and should not, is killed."""
    try:
        async with asyncio.timeout(10):
            while any(is_there(pid) for pid in there):
                await asyncio.sleep(0.02)
    except TimeoutError:
        for pid in filter(is_there, there):
            os.kill(pid, signal.SIGKILL)
        raise


async def test_sigterm_lets_running_calls_finish_and_the_status_says_that_all_went_well(
    crowd: Crowd, backend: Upstream, tmp_path: Path
) -> None:
    config = config_for(backend.url)
    async with workers(config, env={"TMPDIR": str(tmp_path)}) as router, client_of(router) as client:
        calls = await running_calls(crowd, client)
        there = await pids(router)
        assert list(tmp_path.iterdir()) != []
        assert [os.getsid(pid) for pid in there] == there, (
            "a Ctrl-C reaches the supervisor alone, and they hear of it once"
        )
        os.kill(router.pid, signal.SIGHUP)
        async with asyncio.timeout(5):
            while router.log().count("SIGHUP") < 2:  # by both of them, and it ends nobody
                await asyncio.sleep(0.02)
        os.kill(router.pid, signal.SIGTERM)
        await until_closed(router)
        crowd.let_go.set()
        assert {each.status_code for each in await asyncio.gather(*calls)} == {200}
        assert await asyncio.to_thread(router.stop) == 0
        assert not any(is_there(pid) for pid in there)
        assert "Traceback" not in router.log() and "anew" not in router.log()
        assert list(tmp_path.iterdir()) == []


async def test_a_second_signal_ends_it_at_once_and_who_does_not_hear_is_killed(crowd: Crowd, backend: Upstream) -> None:
    async with workers(config_for(backend.url, drain_s=600)) as router, client_of(router) as client:
        calls = await running_calls(crowd, client)
        deaf, hears = await pids(router)
        os.kill(deaf, signal.SIGSTOP)
        os.kill(router.pid, signal.SIGINT)
        assert await asyncio.to_thread(router.stop) == 0, "SIGTERM is the second one"
        assert not is_there(deaf) and not is_there(hears)
        assert f"a worker (pid {deaf}) did not end in time and is killed" in router.log()
        assert f"(pid {hears})" not in router.log()
        await asyncio.gather(*calls, return_exceptions=True)


async def test_workers_whose_supervisor_is_killed_finish_their_calls_and_end(
    crowd: Crowd, backend: Upstream, tmp_path: Path
) -> None:
    async with workers(config_for(backend.url), env={"TMPDIR": str(tmp_path)}) as router, client_of(router) as client:
        calls = await running_calls(crowd, client)
        there = await pids(router)
        os.kill(router.pid, signal.SIGKILL)
        try:
            await until_closed(router)
            crowd.let_go.set()
            assert {each.status_code for each in await asyncio.gather(*calls)} == {200}
        finally:
            await until_ended(there)
        assert "the supervisor is gone; stopping" in router.log()
        assert list(tmp_path.iterdir()) == [], "nothing is left behind"


async def test_a_worker_that_cannot_start_is_tried_again_later_and_later(
    crowd: Crowd, backend: Upstream, tmp_path: Path
) -> None:
    crowd.stays_s = 0.0
    spoilt = tmp_path / "spoilt"
    (tmp_path / "sitecustomize.py").write_text(CANNOT_START.format(file=str(spoilt)))
    async with (
        workers(config_for(backend.url), env=spoilt_by(tmp_path)) as router,
        client_of(router) as client,
    ):
        spoilt.touch()
        os.kill((await pids(router))[0], signal.SIGKILL)
        async with asyncio.timeout(20):
            while "ended with exit status 3; it is started anew in 1 s" not in router.log():
                assert (await chat(client)).status_code == 200, "the other one serves"
        spoilt.unlink()
        ended_at = {wait: instant(line) for line in router.log().splitlines() for wait in WAITS if line.endswith(wait)}
        assert ended_at["in 0.5 s"] - ended_at["in 0.25 s"] >= timedelta(seconds=0.25)
        assert ended_at["in 1 s"] - ended_at["in 0.5 s"] >= timedelta(seconds=0.5)
        await all_up(router)
        assert (await metrics(router))["crossfade_worker_restarts_total"]['worker="0"'] >= 3


async def test_a_worker_that_starts_later_begins_with_what_is_in_effect_and_not_with_what_was_refused(
    crowd: Crowd, backend: Upstream
) -> None:
    crowd.stays_s = 0.0
    config = config_for(backend.url)
    config["backends"]["b"] = {"kind": "vllm", "url": backend.url}
    config["models"]["jane"]["on"]["b"] = "real"
    async with workers(config) as router:
        config["models"]["jane"]["split"] = {"a": 0.5, "b": 0.5}
        router.file.write_text(json.dumps({**router.config, **config, "server": router.config["server"]}))
        async with asyncio.timeout(10):
            while (await metrics(router))["crossfade_revision"][""] < 2 or router.log().count("is in effect") < 2:
                await asyncio.sleep(0.05)
        router.file.write_text("models: {jane: {on: {}}}")
        async with asyncio.timeout(10):
            while router.log().count("the file is refused") < 2:
                await asyncio.sleep(0.05)
        for pid in await pids(router):
            os.kill(pid, signal.SIGKILL)
        await until_ended([pid])
        async with asyncio.timeout(20):
            while router.log().count("the file is refused") < 4:
                await asyncio.sleep(0.05)
        await all_up(router)
        found = await metrics(router)
        assert found["crossfade_share"] == {'backend="a",model="jane"': 0.5, 'backend="b",model="jane"': 0.5}
        assert found["crossfade_revision"][""] == 2, "they had nothing to say that was not said before"


def spoilt_by(folder: Path) -> dict[str, str]:
    """The environment in which every Python reads `sitecustomize.py` there."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))}


def instant(line: str) -> datetime:
    """When a line was written to the log."""
    return datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f")


def test_where_no_worker_can_start_it_ends_with_1_and_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(CANNOT_START.format(file="/"))
    router = RunningRouter(config_for("http://127.0.0.1:9"), env=spoilt_by(tmp_path), until="live")
    with pytest.raises(AssertionError, match="ended with status 1") as failed:
        router.__enter__()
    assert "crossfade: no worker can start; the reason is in the lines above." in str(failed.value.__notes__)


async def test_one_worker_is_one_process(crowd: Crowd, backend: Upstream) -> None:
    router = RunningRouter(config_for(backend.url, workers=1))
    await asyncio.to_thread(router.__enter__)
    try:
        children = Path(f"/proc/{router.pid}/task/{router.pid}/children").read_text()
        assert children == ""
        assert "crossfade_worker_up" not in await metrics(router)
    finally:
        await asyncio.to_thread(router.__exit__, None, None, None)
