"""A running router, its insides, and its configuration file in the hands of a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router.fleet import Fleet
from router.parts import Parts
from router.reload import Reload
from tests.running import Router, config_for, running_on
from tests.upstream import Upstream


@dataclass
class Desk:
    """A running router, its insides, and its file."""

    router: Router
    file: Path

    @property
    def parts(self) -> Parts:
        return self.router.parts

    @property
    def fleet(self) -> Fleet:
        return self.parts.fleet

    @property
    def reload(self) -> Reload:
        reload: Reload = self.router.server.config.loaded_app.state.reload
        return reload

    async def write(self, text: str) -> None:
        """Replace the file, as editors do."""
        draft = self.file.with_suffix(".new")
        draft.write_text(text)
        draft.replace(self.file)

    async def until(self, is_true: Callable[[], Any]) -> None:
        """Wait until it is true."""
        async with asyncio.timeout(10):
            while not is_true():
                self.reload.soon()
                await asyncio.sleep(0.01)

    async def change(self, text: str) -> None:
        """Write the file, and wait until it is in effect."""
        before = self.parts.file.taken_at_s
        await self.write(text)
        await self.until(lambda: self.parts.file.taken_at_s != before)

    async def refused(self, text: str) -> list[str]:
        """Write the file, and wait until it is refused: the sentences."""
        await self.write(text)
        await self.until(lambda: self.parts.file.refused)
        return list(self.parts.file.refused)

    async def ready(self) -> Any:
        return (await self.router.client.get("/health/ready")).json()


@asynccontextmanager
async def desk_on(tmp_path: Path, text: str, env: dict[str, str] | None = None) -> AsyncIterator[Desk]:
    file = tmp_path / "crossfade.yaml"
    file.write_text(text)
    async with running_on(file, env) as router:
        yield Desk(router, file)


def splits(a: Upstream, b: Upstream, share: float, more: str = "") -> str:
    return config_for({"a": a.url, "b": b.url}, f"split: {{a: {share}, b: {1 - share}}}\n{more}".strip())
