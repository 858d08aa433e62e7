"""A changed configuration file: noticed, validated whole, and put in effect in one step, or refused with everything left as it is.

How it is noticed
-----------------
By looking: twice a second, and at once on SIGHUP, however often that comes. Editors replace a file by another, a mounted ConfigMap moves a
link, network folders tell nobody; a look finds all of them. A content counts only when two looks agree: one that is half written
is left alone until it is whole, and most likely no valid YAML before.

How it is put in effect
-----------------------
The new backends and models are built beside the running ones. Then the file's shares are kept in the store, as a revision where they
differ from what the file said before; and only then the fleet, the door and the paths are changed, in the same step of the event loop as
the revision comes in force. What is refused at any point has changed nothing; it is in the log once, and in status and readiness until
another content is taken, or the old one is back. A refusal by the store is tried again with each look.

Of several workers each follows the file by itself; one of them makes the revision, and the others find that there is nothing left to say.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from weakref import WeakSet

from backends.leftovers import Leftovers
from policies.drift import drift
from router.building import build_keys, build_networks
from router.config import Config, ConfigInvalid, Loaded, Problem, content_of, load_content, pinned
from router.doors import accepted_hosts
from router.journal.store import StoreFailed
from router.limits import Limits
from router.monitor import Monitor
from router.parts import Parts
from router.rebuilding import Done, Plan
from router.routing import apply, desired
from router.shared import NoMoreCounters
from router.skills import learn

EVERY_S = 0.5  # between two looks: sooner than an operator looks for the effect, and two reads of some KiB cost nothing
SETTLES_S = 0.1  # between the two looks that must agree

log = logging.getLogger("crossfade.config")

Look = tuple[tuple[int, ...], bytes | ConfigInvalid]


def _nobody_listens() -> None:
    """Nothing else changes."""


class Reload:
    """Follows `file` for one router; without one there is nothing to follow.

    `on_taken` is called with each configuration that comes in effect, in the same step. What is seen of new servers is `monitor`'s to find.
    """

    def __init__(self, file: Path | None, parts: Parts, limits: Limits, monitor: Monitor):
        self._file = file
        self._parts = parts
        self._limits = limits
        self._monitor = monitor
        self.on_taken: Callable[[], None] = _nobody_listens
        self._state = parts.file
        self._state.path = str(file) if file is not None else ""
        self._state.drift = self._drift
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked = asyncio.Event()
        self._settled: Look | None = None
        self._refused: bytes | str | None = None  # the content that the refusal is about
        self._known: tuple[bytes, Loaded] | None = None  # what was read last; a store may let it wait
        self._errands: set[asyncio.Task[None]] = set()
        self._leftovers: WeakSet[Leftovers] = WeakSet()

    def soon(self) -> None:
        """Look now. May be called from a handler of signals, as often as it likes."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._asked.set)

    async def run(self) -> None:
        """Follow the file until cancelled."""
        self._loop = asyncio.get_running_loop()
        try:
            while self._file is not None:
                try:
                    await self._look(self._file)
                except Exception:  # the supervisor of a background loop
                    log.exception("following the configuration file stumbled; it goes on")
                await self._until_next()
        finally:
            for errand in self._errands:
                errand.cancel()
            for leftovers in list(self._leftovers):
                await leftovers.close()

    async def _until_next(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(EVERY_S):
                await self._asked.wait()
                log.info("SIGHUP: looking at %s", self._file)
                await asyncio.sleep(SETTLES_S)  # a thousand of them are one
        self._asked.clear()

    def report(self) -> dict[str, object]:
        """What has become of the file."""
        return self._state.report()

    def _drift(self) -> Iterable[str]:
        last = self._parts.journal.last
        return drift(desired(self._parts.config).state, last.state) if last is not None else ()

    # -- noticing ----------------------------------------------------------------------------------

    async def _look(self, file: Path) -> None:
        found = await asyncio.to_thread(_looked, file, self._settled)
        if self._settled is not None and _same(found, self._settled):
            return
        while True:
            await asyncio.sleep(SETTLES_S)
            again = await asyncio.to_thread(_looked, file, None)
            if _same(again, found):
                break
            found = again
        if await self._take(file, found[1]):
            self._settled = found

    async def _take(self, file: Path, content: bytes | ConfigInvalid) -> bool:
        """Put a content in effect, or refuse it; whether that is the last word about it."""
        try:
            if isinstance(content, ConfigInvalid):
                raise content
            if self._known is None or self._known[0] != content:
                self._known = content, await asyncio.to_thread(load_content, content, file, self._parts.env)
            loaded = self._known[1]
            config, waiting = pinned(self._parts.config, loaded.config)
            await self._change_to(config)
        except ConfigInvalid as invalid:
            self._refuse(content, map(str, invalid.problems), map(_place, invalid.problems))
        except (
            OSError,
            ValueError,
            NoMoreCounters,
        ) as unusable:  # of an authority's file, a key, the limits of workers
            self._refuse(content, [f"{file}: {unusable}"], ["a backend cannot be built; the log says why"])
        except StoreFailed as failed:
            said = f"{file} is tried again until its shares can be kept: {failed}"
            self._refuse(content, [said], ["the store cannot be written; the file is tried again until it can"])
            return False
        except Exception:  # the supervisor of a background loop: said once, not with each look
            log.exception("taking the configuration file stumbled")
            said = "it cannot be put in effect, by an error of the router that stands in the log"
            self._refuse(content, [f"{file}: {said}"], [said])
        else:
            self._accept(waiting)
        return True

    def _refuse(self, content: bytes | ConfigInvalid, sentences: Iterable[str], places: Iterable[str]) -> None:
        said = tuple(sentences)
        if (said, _said(content)) != (self._state.refused, self._refused):
            for sentence in said:
                log.error("the file is refused, and nothing was changed: %s", sentence)
        self._state.refused, self._state.places = said, tuple(places)
        self._refused = _said(content)

    def _accept(self, waiting: tuple[str, ...]) -> None:
        if self._state.refused:
            log.info("the file is not refused any more")
        for sentence in waiting:
            if sentence not in self._state.at_next_start:
                log.warning("%s", sentence)
        self._state.refused, self._state.places, self._refused = (), (), None
        self._state.at_next_start = waiting

    # -- putting in effect -------------------------------------------------------------------------

    async def _change_to(self, config: Config) -> None:
        """Raises OSError, ValueError and StoreFailed; nothing has been changed then."""
        parts, before = self._parts, self._parts.config
        if config == before:
            return
        plan = Plan(parts.fleet, before, config, parts.env, self._limits)
        await asyncio.to_thread(plan.load)
        wanted = desired(config)
        if wanted != desired(before):
            await parts.journal.file_taken(wanted, "a change of the file")
        # From here to the end nothing waits: no call sees half of it.
        done = plan.carry_out(asyncio.get_running_loop().time())
        parts.config = config
        self._open_the_door()
        self._apply()
        parts.owners.follow(parts.fleet.models)
        self.on_taken()
        self._state.taken_at_s = time.time()
        log.info(
            "the file has changed, and is in effect: %s; revision %d", _changes(before, config), parts.fleet.revision
        )
        self._follow_up(done)

    def _open_the_door(self) -> None:
        parts, server = self._parts, self._parts.config.server
        keys = build_keys(server, parts.env, self._limits, parts.admission.keys)
        parts.admission.follow(keys, build_networks(server), server.max_body_bytes)
        parts.admission.gate.requeue(server.queue_size, server.queue_wait_s)
        parts.admission.gate.resize(server.max_in_flight)
        parts.doors.hosts.accept(accepted_hosts(server))
        parts.doors.named.accept(server.hosts)

    def _apply(self) -> None:
        """The shares and drains in force, to what is new as well."""
        fleet, last, now_s = self._parts.fleet, self._parts.journal.last, asyncio.get_running_loop().time()
        if last is not None:
            apply(fleet, last, now_s)
            return
        for model in fleet.models.values():
            model.adopt(model.split, fleet.revision, now_s)

    def _follow_up(self, done: Done) -> None:
        self._leftovers.update(done.leftovers)
        for errand in (self._monitor.meet(done.unmet), learn(self._parts.fleet)):
            task = asyncio.create_task(errand)
            self._errands.add(task)
            task.add_done_callback(self._errands.discard)


def _looked(file: Path, settled: Look | None) -> Look:
    """What is there now; not read again where it is the file that is settled."""
    try:
        about = file.stat()
        mark: tuple[int, ...] = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
    except (OSError, ValueError):
        mark = ()
    if settled is not None and mark and mark == settled[0]:
        return settled
    try:
        return mark, content_of(file)
    except ConfigInvalid as unreadable:
        return mark, unreadable


def _same(one: Look, other: Look) -> bool:
    return one[0] == other[0] and _said(one[1]) == _said(other[1])


def _said(content: bytes | ConfigInvalid) -> bytes | str:
    return str(content) if isinstance(content, ConfigInvalid) else content


def _place(problem: Problem) -> str:
    """A problem without what stands in the file, which may name addresses."""
    where = f"line {problem.line}" if problem.line else "the file"
    return f"{where}: {problem.key or 'it'} is refused; the log and the status say why"


def _changes(before: Config, after: Config) -> str:
    """The keys that changed, without their values."""
    said = [
        f"server.{key}"
        for key in type(after.server).model_fields
        if getattr(before.server, key) != getattr(after.server, key)
    ]
    said += ["store"] if before.store != after.store else []
    for section in ("backends", "models"):
        old, new = getattr(before, section), getattr(after, section)
        said += [
            f"{section}.{name}"
            for name in (*old, *(name for name in new if name not in old))
            if old.get(name) != new.get(name)
        ]
    return ", ".join(said)
