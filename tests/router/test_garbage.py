"""A call that went well is freed when it ends: nothing of it waits for the garbage collector, whose walks every call would pay for."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.running import config_for, running
from tests.upstream import Upstream, says

OURS = ("router.", "backends.", "policies.", "uvicorn.protocols.")


@contextmanager
def garbage() -> Iterator[Counter[str]]:
    """Counts the objects of the block, by type, that only the collector could free; those of the serving side alone."""
    found: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        names = (f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.garbage)
        found.update(name for name in names if name.startswith(OURS))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("stream", [False, True], ids=["a whole answer", "a stream"])
async def test_calls_leave_nothing_to_the_garbage_collector(stream: bool) -> None:
    async with Upstream(says("one two three")) as a, running(config_for({"a": a.url})) as router:
        await router.chat(stream=stream)  # what is built once is built now
        with garbage() as found:
            for _ in range(5):
                assert (await router.chat(stream=stream)).status_code == 200
            await router.client.get("/health/live")  # by now the last call has ended on the router's side too
        calls = {name: count for name, count in found.items() if count >= 5}
        assert not calls
