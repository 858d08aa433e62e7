"""The store: what is appended is there for everybody who shares it, in one order, or nothing has happened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from policies.revisions import Kind, ModelState, Revision, RoutingState
from router.journal.store import Conflict, Kept, Store, StoreFailed


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    yield f"sqlite:///{tmp_path}/crossfade.db"


async def opened(url: str) -> Store:
    store = Store(url)
    await store.open()
    return store


def kept(number: int, vllm: float = 0.5, key: str | None = None) -> Kept:
    state = RoutingState({"jane": ModelState({"lmstudio": 1 - vllm, "vllm": vllm})}, ("cloud",))
    return Kept(Revision(number, 12.5, "ops", "canary", Kind.SHIFT, state, "jane", 1), state, key)


async def test_what_is_appended_is_read_again_as_it_was_by_whoever_opens_it(url: str) -> None:
    one, other = await opened(url), await opened(url)
    await one.append(kept(1))
    await other.append(kept(2, 0.25, "k"))
    assert await one.after(0) == [kept(1), kept(2, 0.25, "k")] and await other.after(1) == [kept(2, 0.25, "k")]
    assert await one.by_key("k") == kept(2, 0.25, "k") and await one.by_key("none") is None
    await one.close()
    await other.close()


async def test_of_many_that_change_the_same_state_at_once_one_wins_and_the_others_are_told(url: str) -> None:
    stores = [await opened(url) for _ in range(8)]
    results = await asyncio.gather(
        *(store.append(kept(1, n / 10)) for n, store in enumerate(stores)), return_exceptions=True
    )
    assert (
        sorted(type(result) for result in results if result is not None) == [Conflict] * 7 or results.count(None) == 1
    )
    assert [result.last for result in results if isinstance(result, Conflict)] == [1] * 7
    assert len(await stores[0].after(0)) == 1
    for store in stores:
        await store.close()


async def test_a_store_that_cannot_be_written_says_so_in_one_sentence() -> None:
    store = Store("sqlite:////proc/nowhere/crossfade.db")
    with pytest.raises(
        StoreFailed, match="the store sqlite:////proc/nowhere/crossfade.db cannot be used: unable to open"
    ):
        await store.open()
    await store.close()
