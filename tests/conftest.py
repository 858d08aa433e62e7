"""Helpers whose assertions are rewritten as those of tests are: named before anything imports them, and several folders share some."""

from __future__ import annotations

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


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgresql.Server]:
    """One server for all tests that do not stop it; each takes a `database()` of its own."""
    with postgresql.running() as server:
        yield server
