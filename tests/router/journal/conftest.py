"""Both kinds of store, empty, for tests that hold for either."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.postgres import Server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/crossfade.db"
    server: Server = request.getfixturevalue("postgres")
    return server.database()
