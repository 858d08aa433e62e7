"""Answers that nobody waits for any more, read to their end all the same: some engines do not bear to be cut off.

A client that leaves ends its call at once; where the backend is configured with `on_client_gone: drain`, the exchange with it goes on
without a reader until the answer has ended or its time is over, and until then it holds its place at the backend, which is at work.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from backends.errors import AnswerTimeout, BackendError
from backends.exchange import Exchange
from backends.pool import Pool


class Leftovers:
    """What one backend is still saying to nobody."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def take(self, exchange: Exchange, pool: Pool, until_s: float, freed: Callable[[], None]) -> None:
        """Read `exchange` to its end, no longer than until `until_s` (an instant of the loop's clock), then call `freed`."""

        def end(
            task: asyncio.Task[None],
        ) -> None:  # not in the task: one that is cancelled before it begins runs nothing
            self._tasks.discard(task)
            connection = exchange.release()
            if connection is not None:
                pool.give(connection, asyncio.get_running_loop().time())
            freed()

        task = asyncio.create_task(_read(exchange, until_s))
        self._tasks.add(task)
        task.add_done_callback(end)

    async def close(self) -> None:
        """Cut off whatever is left: the router is being stopped."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _read(exchange: Exchange, until_s: float) -> None:
    exchange.tap(None)
    exchange.set_limit(until_s, _too_late)
    exchange.resume_reading()
    with contextlib.suppress(BackendError):
        await exchange.head()
        await exchange.pump(_drop)


def _too_late() -> BackendError:
    return AnswerTimeout("an answer that nobody waits for did not end in time")


def _drop(_data: bytes) -> None:
    """Nobody reads it."""
