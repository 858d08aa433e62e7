"""The stage of the cases: one for each module, and for each case as if nothing had happened on it yet."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.dialects.stage import Scene, staged


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Scene]:
    async with staged() as scene:
        yield scene


@pytest.fixture
def scene(stage: Scene) -> Scene:
    """The stage at the beginning of a case."""
    stage.begin()
    return stage
