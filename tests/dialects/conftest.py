"""The stage of the cases: one for each module, and for each case as if nothing had happened on it yet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

pytest.register_assert_rewrite("tests.dialects.stage", "tests.dialects.case", "tests.hearing", "tests.faults.stage")

from tests.dialects.stage import Scene, staged  # noqa: E402


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Scene]:
    async with staged() as scene:
        yield scene


@pytest.fixture
def scene(stage: Scene) -> Scene:
    """The stage at the beginning of a case."""
    stage.begin()
    return stage


_AWAITED = Path(__file__).with_name(
    "awaited.txt"
)  # what the router cannot do yet: it must fail, until its line is taken away


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    awaited = set(_AWAITED.read_text().splitlines()) if _AWAITED.is_file() else set()
    for item in items:
        if item.nodeid.removeprefix("tests/dialects/") in awaited:
            item.add_marker(pytest.mark.xfail(strict=True, reason="the router cannot do it yet"))
