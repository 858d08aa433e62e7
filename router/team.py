"""A worker among its colleagues: what they share, and how whoever is asked answers for the whole router.

Each worker listens on a socket in the supervisor's private folder and tells its metrics to a colleague that asks. What it tells stands in
a file beside it before it is told: so its successor can go on from there, and nobody has ever seen a number that is lost with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from router.accepted import Accepted
from router.config import Config
from router.limits import OWN, Limits
from router.metrics import as_text
from router.shared import Shared
from router.shared_limits import Bells, SharedLimits
from router.summing import counted, packed, summed, unpacked

ANSWERS_WITHIN_S = 1.0  # a scrape is given up after 10 s by Prometheus' default; a healthy worker needs milliseconds

Own = Callable[[], Iterable[Metric]]

log = logging.getLogger("crossfade")


class Alone:
    """The one process of a router that has no others."""

    limits: Limits = OWN

    @asynccontextmanager
    async def joined(self, own: Own) -> AsyncIterator[None]:
        """While it serves. `own`: its metrics, as they are now."""
        yield

    def takes(self, config: Config) -> None:
        """A changed configuration is in effect."""

    async def exposition(self, own: Own) -> bytes:
        """The text that Prometheus scrapes, of the whole router."""
        return as_text(own())


ALONE = Alone()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker stands, by descriptors that it inherited: memory, bells, the end of a pipe, and what is in effect."""

    me: int
    workers: int
    folder: Path
    memory: int
    hears: int
    rings: tuple[int, ...]
    lifeline: int
    accepted: int


class Team(Alone):
    """One of several workers."""

    def __init__(self, place: Place):
        self._me = place.me
        self._folder = place.folder
        self._lifeline = place.lifeline
        self._accepted = Accepted(place.accepted)
        self._shared = Shared(place.memory, place.workers, place.me)
        self._bells = Bells(place.hears, place.rings)
        self.limits = SharedLimits(self._shared, self._bells)
        self._before = self._last_words(place.me)

    @asynccontextmanager
    async def joined(self, own: Own) -> AsyncIterator[None]:
        async def tell(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                writer.write(packed(self._tell(own)))
                await writer.drain()
            except ConnectionError:
                pass  # who asked has given up
            finally:
                writer.close()

        loop = asyncio.get_running_loop()
        server = await asyncio.start_unix_server(tell, self._folder / f"{self._me}.socket")
        loop.add_reader(self._bells.hears, self._bells.heard)
        loop.add_reader(self._lifeline, self._orphaned)
        self._shared.serves()
        try:
            yield
        finally:
            loop.remove_reader(self._bells.hears)
            loop.remove_reader(self._lifeline)
            server.close()

    def takes(self, config: Config) -> None:
        self._accepted.put(config)

    async def exposition(self, own: Own) -> bytes:
        mine = self._tell(own)
        others = [worker for worker in range(self._shared.workers) if worker != self._me]
        said = await asyncio.gather(*(self._ask(worker) for worker in others))
        answered = {self._me} | {worker for worker, families in zip(others, said, strict=True) if families is not None}
        known = [
            self._last_words(worker) if families is None else families
            for worker, families in zip(others, said, strict=True)
        ]
        return as_text((*summed([mine, *known]), *self._about_workers(answered)))

    def _tell(self, own: Own) -> list[Metric]:
        """What this worker has to tell now, with all that its predecessors counted."""
        families = summed([own(), self._before])
        file = self._folder / f"{self._me}.counted"
        with suppress(OSError):  # a full disk: what is told now is lost if this worker is killed before the next time
            file.with_suffix(".new").write_bytes(packed(counted(families)))
            file.with_suffix(".new").replace(file)
        return families

    def _last_words(self, worker: int) -> list[Metric]:
        try:
            return unpacked((self._folder / f"{worker}.counted").read_bytes())
        except (OSError, msgspec.DecodeError):
            return []

    async def _ask(self, worker: int) -> list[Metric] | None:
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S):
                reader, writer = await asyncio.open_unix_connection(self._folder / f"{worker}.socket")
                try:
                    return unpacked(await reader.read())
                finally:
                    writer.close()
        except (OSError, TimeoutError, msgspec.DecodeError):
            return None

    def _about_workers(self, answered: set[int]) -> Iterable[Metric]:
        up = GaugeMetricFamily(
            "crossfade_worker_up",
            "1 where a worker has answered; of another only what it counted last is here.",
            labels=("worker",),
        )
        pid = GaugeMetricFamily("crossfade_worker_pid", "The process of a worker.", labels=("worker",))
        restarts = CounterMetricFamily(
            "crossfade_worker_restarts", "Times that a worker was started anew.", labels=("worker",)
        )
        for worker in range(self._shared.workers):
            up.add_metric((str(worker),), float(worker in answered))
            pid.add_metric((str(worker),), self._shared.pid(worker))
            restarts.add_metric((str(worker),), self._shared.restarts(worker))
        yield from (up, pid, restarts)

    def _orphaned(self) -> None:
        """The supervisor is gone, however it ended; what is told to stop by a signal stops in order."""
        asyncio.get_running_loop().remove_reader(self._lifeline)
        log.error("worker %d: the supervisor is gone; stopping", self._me)
        shutil.rmtree(self._folder, ignore_errors=True)
        os.kill(os.getpid(), signal.SIGTERM)
