"""A stage for each module of the clients' tests, and the Node packages that play on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.clients.node import built, installed
from tests.clients.players import SDK_PACKAGE, Players, all_players
from tests.clients.stage import Stage, on_stage, on_stage_of_its_own

_HERE = Path(__file__).parent


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole_stage() -> AsyncIterator[Stage]:
    """Both backends in the module's loop and `crossfade serve` in front of them."""
    async with on_stage_of_its_own() as stage:
        yield stage


@pytest.fixture
def stage(whole_stage: Stage) -> Stage:
    """The stage as if nothing had happened on it yet. A test that stops a backend takes `on_stage()` for itself."""
    whole_stage.forget()
    return whole_stage


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole_brittle_stage() -> AsyncIterator[Stage]:
    async with on_stage(resume={"by": []}) as stage:
        yield stage


@pytest.fixture
def brittle_stage(whole_brittle_stage: Stage) -> Stage:
    """The stage where no stream is resumed, as if nothing had happened on it yet."""
    whole_brittle_stage.forget()
    return whole_brittle_stage


@pytest.fixture(scope="session")
def sdks() -> Path:
    """The package of scripts that call with the SDKs of Node applications, installed."""
    return installed(SDK_PACKAGE)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def players(sdks: Path) -> AsyncIterator[Players]:
    """Each SDK, ready for all tests of a module."""
    async with all_players(sdks) as players:
        yield players


@pytest.fixture(scope="session")
def jane() -> Iterator[Path]:
    """JANE, installed and built: the script that starts it."""
    with built(_HERE / "nestjs") as out:
        yield out / "main.js"
