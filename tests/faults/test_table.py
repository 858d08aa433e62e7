"""The table of faults: whatever a backend does, the client gets a whole answer or is told the truth, and nothing is left behind."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.faults.invariants import ATTEMPTS_PER_BACKEND, Watch
from tests.faults.rows_after import AFTER
from tests.faults.rows_before import BEFORE
from tests.faults.rows_refusals import REFUSALS
from tests.faults.stage import told
from tests.faults.table import Row

pytestmark = pytest.mark.asyncio(loop_scope="module")

TABLE = [*BEFORE, *REFUSALS, *AFTER]


@pytest.mark.parametrize("row", TABLE, ids=[row.id for row in TABLE])
async def test_a_backend_that(row: Row, watch: Watch) -> None:
    stage, loop = watch.stage, asyncio.get_running_loop()
    stage.a.script = row.plays
    if row.b is not None:
        stage.b.script = row.b
    counted = stage.endpoint.recorder.metrics.attempts
    before, began_s = Counter(counted), loop.time()
    answer = await watch.ask(row.model, stream=row.stream)
    took_s = loop.time() - began_s
    heard = told(answer)
    assert (heard.status, heard.text, heard.code, heard.retry_after_s) == (
        row.told.status,
        row.told.text,
        row.told.code,
        row.told.retry_after_s,
    )
    assert row.told.backend in (None, heard.backend)
    made = Counter({(backend, kind): n for (_, backend, kind), n in (Counter(counted) - before).items()})
    assert made == row.outcomes
    assert max(Counter(backend for backend, _ in row.outcomes.elements()).values()) <= ATTEMPTS_PER_BACKEND
    assert row.takes_s[0] <= took_s < row.takes_s[1]


async def test_every_row_says_something_of_its_own() -> None:
    assert [name for name, count in Counter(row.id for row in TABLE).items() if count > 1] == []
