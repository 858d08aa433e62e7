"""Helpers whose assertions are rewritten as those of tests are: named before anything imports them, and several folders share some."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests import postgres as postgresql

pytest.register_assert_rewrite(
    "tests.hearing",
    "tests.dialects.case",
    "tests.dialects.stage",
    "tests.engines.load",
    "tests.engines.scenes",
    "tests.faults.invariants",
    "tests.faults.stage",
)


@pytest.fixture(scope="session", autouse=True)
def no_state_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What routers that are child processes keep for their user goes with the tests."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgresql.Server]:
    """One server for all tests that do not stop it; each takes a `database()` of its own."""
    with postgresql.running() as server:
        yield server
