"""A journal that is closed has no work of its store left behind: a thread of it would find its loop closed, or its folder gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from policies.revisions import Desired, ModelState, RoutingState
from router.journal.journal import By, Draft, Journal
from router.journal.store import Kept, Store

FILE = Desired(RoutingState({"jane": ModelState({"a": 1.0})}), {"jane": ("a",)})


class SlowStore(Store):
    """A store that is asked something and takes its time."""

    def __init__(self, url: str):
        super().__init__(url)
        self.is_asked = asyncio.Event()
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.answers = 0

    async def after(self, number: int) -> list[Kept]:
        self.is_asked.set()
        await self.goes_on.wait()
        kept = await super().after(number)
        self.answers += 1
        return kept


def _no_change(_revisions: object) -> Draft | None:
    return None


@pytest.mark.parametrize(
    "ask",
    [lambda journal: journal.catch_up(), lambda journal: journal.change(_no_change, By("ops", "it looks well"))],
    ids=["a look", "a change"],
)
async def test_the_store_ends_what_it_was_asked_though_nobody_waits_any_more(
    tmp_path: Path, ask: Callable[[Journal], Coroutine[Any, Any, object]]
) -> None:
    store = SlowStore(f"sqlite:///{tmp_path}/crossfade.db")
    journal = Journal(store, lambda _revision: None)
    await journal.file_changed(FILE, "the start")
    store.is_asked.clear()
    store.goes_on.clear()
    asking = asyncio.create_task(ask(journal))
    await store.is_asked.wait()
    asking.cancel()
    await asyncio.wait([asking])
    answers, closing = store.answers, asyncio.create_task(journal.close())
    await asyncio.sleep(0)
    store.goes_on.set()
    await closing
    assert (asking.cancelled(), store.answers) == (True, answers + 1)
