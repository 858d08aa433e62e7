"""The list of guards is up to date; whether each is missed where it is gone takes minutes, and `make guards` tells."""

from __future__ import annotations

import pytest

from tests.faults.guards import GUARDS, ROOT, Guard


@pytest.mark.parametrize("guard", GUARDS, ids=[guard.name for guard in GUARDS])
def test_a_guard_stands_once_where_the_list_says(guard: Guard) -> None:
    assert (ROOT / guard.file).read_text().count(guard.old) == 1
    assert guard.old != guard.new
    assert guard.tests and all((ROOT / test).is_file() for test in guard.tests)
