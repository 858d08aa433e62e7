"""A process that appends one revision after another, as a router does, and prints the number of each that was acknowledged, and its key."""

from __future__ import annotations

import asyncio
import os
import sys

from router.journal.store import Conflict, Store
from tests.router.journal.keeping import kept


async def append_all(url: str, count: int) -> None:
    store = Store(url)
    found = await store.open()
    last = found[-1].revision.number if found else 0
    for n in range(count):
        key = f"{os.getpid()}-{n}"
        while True:
            try:
                await store.append(kept(last + 1, key=key))
                break
            except Conflict as conflict:
                last = conflict.last
        last += 1
        print(last, key, flush=True)
    await store.close()


if __name__ == "__main__":
    asyncio.run(append_all(sys.argv[1], int(sys.argv[2])))
