"""A running router with an admin key, in front of two backends that are well."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.router.admin.operators import Admin, administered


@pytest.fixture
async def admin() -> AsyncIterator[Admin]:
    async with administered() as given:
        yield given
