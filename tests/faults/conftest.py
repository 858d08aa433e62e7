"""The stage of the table, and the invariants after each case."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.faults.invariants import Held, Watch, fresh_log, settled
from tests.faults.stage import Stage, staged
from tests.upstream import says


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_stage() -> AsyncIterator[tuple[Stage, Held]]:
    async with staged() as stage:
        yield stage, await settled(stage)


@pytest_asyncio.fixture(loop_scope="module")
async def watch(running_stage: tuple[Stage, Held], caplog: pytest.LogCaptureFixture) -> AsyncIterator[Watch]:
    """One case on the stage; when it is over, everything must be as before it."""
    stage, before = running_stage
    stage.a.script, stage.b.script = says("from a"), says("from b")
    with fresh_log(caplog):
        watch = Watch(stage, caplog, before)
        yield watch
        await watch.check()
