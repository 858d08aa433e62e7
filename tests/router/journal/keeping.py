"""Revisions to keep, stores that are closed again, and a look into a store past the product."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from typing import Any

import asyncpg

from policies.revisions import Kind, ModelState, Revision, RoutingState
from router.journal.store import Kept, Store


def kept(number: int, vllm: float = 0.5, key: str | None = None) -> Kept:
    state = RoutingState({"jane": ModelState({"lmstudio": 1 - vllm, "vllm": vllm})}, ("cloud",))
    return Kept(Revision(number, 12.5, "ops", "canary", Kind.SHIFT, state, "jane", 1), state, key)


@asynccontextmanager
async def opened(url: str, known: Sequence[Kept] = ()) -> AsyncIterator[Store]:
    store = Store(url)
    try:
        await store.open(known)
        yield store
    finally:
        await store.close()


async def said(url: str, statement: str) -> list[tuple[Any, ...]]:
    """What the database itself answers."""
    if url.startswith("postgresql"):
        connection = await asyncpg.connect(url)
        try:
            return [tuple(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close()

    def ask() -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
            return connection.execute(statement).fetchall()

    return await asyncio.to_thread(ask)
