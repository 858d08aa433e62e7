"""The SDKs as players of calls: each plays the same calls and says in the same words what its application saw.

A call says `text`, `reasoning` and `finish` (in the pieces that arrived), `usage` (the sum), `tools`, `thrown` for an error,
`requests` for how many the SDK made of it, and `waits` (ms) for what it meant to wait between them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from tests.clients.node import playing
from tests.clients.openai_python import PythonPlayer

SDK_PACKAGE = Path(__file__).parent / "sdks"
PYTHON = "openai for Python"
NODE_SDKS = ("openai", "ai", "langchain")
SDKS = (PYTHON, *NODE_SDKS)


class Player(Protocol):
    """Plays one call and says what the application saw of it."""

    async def play(self, call: str, **asked: Any) -> dict[str, Any]: ...


Players = Mapping[str, Player]


@asynccontextmanager
async def player_of(package: Path, sdk: str) -> AsyncIterator[Player]:
    """One SDK: of Node in a process of its own, Python's in the test's loop."""
    if sdk == PYTHON:
        yield PythonPlayer()
    else:
        async with playing(package / "play.mjs", sdk) as player:
            yield player


@asynccontextmanager
async def all_players(package: Path) -> AsyncIterator[Players]:
    """Each of them."""
    async with AsyncExitStack() as stack:
        yield {sdk: await stack.enter_async_context(player_of(package, sdk)) for sdk in SDKS}
