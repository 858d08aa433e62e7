"""Helpers whose assertions are rewritten as those of tests are: named before anything imports them, and several folders share some."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    "tests.hearing",
    "tests.dialects.case",
    "tests.dialects.stage",
    "tests.engines.load",
    "tests.engines.scenes",
    "tests.faults.invariants",
    "tests.faults.stage",
)
