"""The configuration file is changed while the router runs: noticed, put in effect in one step, or refused with everything as it was."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from router.fleet import Fleet
from router.parts import Parts
from router.reload import Reload
from tests.running import Router, config_for, running_on
from tests.upstream import Upstream, says


@dataclass
class Desk:
    """A running router, its insides, and its file."""

    router: Router
    file: Path

    @property
    def parts(self) -> Parts:
        parts: Parts = self.router.server.config.loaded_app.parts
        return parts

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


async def test_a_changed_file_is_noticed_by_itself_and_becomes_a_revision(tmp_path: Path) -> None:
    async with Upstream(says("a")) as a, Upstream(says("b")) as b, desk_on(tmp_path, splits(a, b, 1.0)) as desk:
        first = await desk.router.chat()
        await desk.write(splits(a, b, 0.0))
        async with asyncio.timeout(5):
            while (await desk.router.chat()).headers["x-crossfade-backend"] != "b":
                await asyncio.sleep(0.05)
        last = desk.parts.journal.last
        assert last is not None and (last.kind.value, last.number) == ("file", 2)
        answered = await desk.router.chat()
        assert [each.headers["x-crossfade-revision"] for each in (first, answered)] == ["1", "2"]


async def test_an_invalid_file_is_refused_with_its_lines_and_nothing_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Upstream(says("a")) as a, Upstream(says("b")) as b, desk_on(tmp_path, splits(a, b, 1.0)) as desk:
        before = desk.fleet.models["jane"]
        with caplog.at_level(logging.ERROR, "crossfade.config"):
            said = await desk.refused(splits(a, b, 1.0).replace("b: 0.0", "b: 0.3"))
            await asyncio.sleep(1.2)  # two further looks say nothing new
        assert len(said) == 1 and "models.jane.split" in said[0] and f"{desk.file}:9:" in said[0]
        assert [record.getMessage() for record in caplog.records].count(
            f"the file is refused, and nothing was changed: {said[0]}"
        ) == 1
        assert desk.fleet.models["jane"] is before
        ready = await desk.ready()
        assert ready["status"] == "ready" and "models.jane.split is refused" in ready["file"]["refused"][0]
        await desk.write(splits(a, b, 1.0))
        await desk.until(lambda: not desk.parts.file.refused)
        assert "file" not in await desk.ready()
