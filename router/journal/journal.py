"""The journal as one process sees it: every revision in memory, in step with the store, and the one way to add to it.

A change is made of the last revision, kept in the store, and only then put in force and acknowledged. Every process puts in force what
it reads from the store, whoever made it: so workers, machines and a router that was killed all come to the same state, the last one
that was acknowledged. While the store cannot be used the last known state stays in force, nothing can be changed, and `trouble` says why.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from policies.revisions import Desired, Kind, Revision, RoutingState, filed
from router.journal.kept import BUSY_S
from router.journal.sidecar import Sidecar
from router.journal.store import Conflict, Kept, Lost, Store, StoreFailed

log = logging.getLogger("crossfade.journal")

ROUTER = "crossfade"  # the actor of what the router does by itself
AGAIN_S = 0.5  # after a failure of the store
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class By:
    """Who asks for a change, and why. `key`: the request's idempotency key, `asked`: a digest of what it asked for.

    `expected`: the number of the revision that the change was thought out for; None where any will do.
    """

    actor: str
    reason: str
    key: str | None = None
    asked: str | None = None
    expected: int | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """A revision that is not numbered yet; the fields are those of `policies.revisions.Revision`. `file`: what a file asked for."""

    kind: Kind
    state: RoutingState
    model: str = ""
    restores: int | None = None
    part_of: int | None = None
    file: RoutingState | None = None


class Overtaken(Exception):
    """Nothing was changed, because others were faster: `revisions` are theirs, oldest first."""

    def __init__(self, revisions: Sequence[Revision]):
        self.revisions = tuple(revisions)
        last = self.revisions[-1]
        what = f"{last.kind.value} of {last.model}" if last.model else last.kind.value
        super().__init__(f"revision {last.number} was made meanwhile: {what} by {last.actor}; look again, then repeat")


class KeyReused(Exception):
    """The idempotency key belongs to another request; nothing was changed."""

    def __init__(self) -> None:
        super().__init__("this idempotency key was used for another request; use a new one")


Make = Callable[[Sequence[Revision]], Draft | None]


class Journal:
    """`on_revision` puts a revision in force; it is called with the newest only, in the loop's own thread, and must not wait."""

    def __init__(
        self,
        store: Store,
        on_revision: Callable[[Revision], None],
        now_s: Callable[[], float] = time.time,
        sidecar: Sidecar | None = None,
    ):
        self.store = store
        self.revisions: list[Revision] = []
        self.file: RoutingState | None = None  # what the last file asked for
        self.trouble = ""
        self.is_open = False
        self.now_s = now_s
        self._on_revision = on_revision
        self._sidecar = sidecar if sidecar is not None else Sidecar()
        self._kept: list[Kept] = []  # the same as `revisions`, with all that a store needs to have them again
        self._unsaid: tuple[Desired, str] | None = None
        self._changing = asyncio.Lock()
        self._news = asyncio.Event()
        self._asking: set[asyncio.Future[Any]] = set()

    @property
    def last(self) -> Revision | None:
        """The revision in force; None until one is known."""
        return self.revisions[-1] if self.revisions else None

    async def catch_up(self) -> None:
        """Put in force what others have made. Raises StoreFailed."""
        async with self._changing:
            await self._catch_up()

    async def run(self) -> None:
        """Follow the store until cancelled."""
        while True:
            try:
                if self.is_open:
                    await self.store.wait()
                await self.catch_up()
                if self._unsaid is not None:
                    await self.file_changed(*self._unsaid)
            except StoreFailed:
                await asyncio.sleep(AGAIN_S)
            except Exception:  # the supervisor of a background loop
                log.exception("following the journal stumbled; it goes on")
                await asyncio.sleep(AGAIN_S)

    async def news(self, timeout_s: float | None) -> None:
        """Return when a further revision is in force, or in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            pass
        self._news.clear()

    async def change(self, make: Make, by: By) -> Revision:
        """Keep what `make` makes of all revisions so far, and put it in force; the revision in force where that changes nothing.

        Whoever changed something else at the same time is no obstacle: then `make` is called again, with theirs. Raises Overtaken,
        KeyReused, StoreFailed, and what `make` raises; nothing has been changed then. (Where the store breaks in the very moment
        of keeping, a StoreFailed leaves open whether it was kept; the next `catch_up` tells.)
        """
        async with self._changing:
            await self._catch_up()
            draft, seen = None, self._number
            while True:
                if (done := await self._made_before(by)) is not None:
                    return done  # also where the same request came in twice, at two workers
                if by.expected is not None and self._number != by.expected:
                    raise Overtaken(self._since(by.expected) or self.revisions[-1:])
                theirs = self._since(seen)
                if draft is not None and any(_is_in_the_way(each, draft) for each in theirs):
                    raise Overtaken(theirs)
                before, seen = self.last, self._number
                draft = make(self.revisions)
                if draft is None or (draft.file is None and before is not None and draft.state == before.state):
                    assert before is not None, "the first revision is always made"
                    return before
                kept = Kept(self._revision(draft, by), draft.file, by.key, by.asked)
                try:
                    await self._told(self.store.append(kept))
                except Conflict:
                    await self._catch_up()
                    continue
                self._take([kept])
                return kept.revision

    async def file_changed(self, wanted: Desired, reason: str) -> Revision:
        """Let a file, read for the first time, have its say: the revision in force afterwards.

        Raises StoreFailed; then `run` lets it have its say as soon as the store can be used.
        """
        self._unsaid = (wanted, reason)
        return await self.file_taken(wanted, reason)

    async def file_taken(self, wanted: Desired, reason: str) -> Revision:
        """The same for a file that is read anew. Raises StoreFailed; then it has had no say, and gets none but by asking again."""

        def of_file(revisions: Sequence[Revision]) -> Draft | None:
            if not revisions:
                return Draft(Kind.START, wanted.state, file=wanted.state)
            state = filed(revisions[-1].state, self.file, wanted.state, wanted.served)
            if state == revisions[-1].state and self.file == wanted.state:
                return None
            return Draft(Kind.FILE, state, file=wanted.state)

        revision = await self.change(of_file, By(ROUTER, reason))
        self._unsaid = None
        return revision

    async def close(self) -> None:
        """Give the store back, when it has ended what it was asked."""
        if self._asking:
            await asyncio.wait(self._asking, timeout=BUSY_S)
        await self.store.close()
        await self._sidecar.close()

    @property
    def _number(self) -> int:
        return self.revisions[-1].number if self.revisions else 0

    def _since(self, number: int) -> list[Revision]:
        return [each for each in self.revisions if each.number > number]

    def _revision(self, draft: Draft, by: By) -> Revision:
        return Revision(
            self._number + 1,
            self.now_s(),
            by.actor,
            by.reason,
            draft.kind,
            draft.state,
            draft.model,
            draft.restores,
            draft.part_of,
        )

    async def _made_before(self, by: By) -> Revision | None:
        """What an earlier copy of this very request has made."""
        if by.key is None:
            return None
        kept = await self._told(self.store.by_key(by.key))
        if kept is not None and kept.asked != by.asked:
            raise KeyReused
        return kept.revision if kept is not None else None

    async def _catch_up(self) -> None:
        if not self.is_open:
            await self._open()
        else:
            try:
                self._take(await self._told(self.store.after(self._number)))
            except Lost:
                await self._open()  # what it has lost it gets back at once
        self._is_well()

    async def _open(self) -> None:
        """Open the store with what is known, and put in force what it says then; where it cannot be used, what was known last."""
        known = self._kept or await self._sidecar.read()
        try:
            found = await self._told(self.store.open(known))
        except StoreFailed:
            if not self._kept:
                self._take(known)
            raise
        self.is_open = True
        if found[: len(self._kept)] != self._kept:
            self._kept, self.revisions, self.file = [], [], None
        self._take(found[len(self._kept) :])

    def _take(self, kept: Sequence[Kept]) -> None:
        for each in kept:
            self._kept.append(each)
            self.revisions.append(each.revision)
            if each.file is not None:
                self.file = each.file
        if kept:
            self._on_revision(self.revisions[-1])
            self._news.set()
            self._sidecar.keep(self._kept)

    async def _told(self, asked: Awaitable[T]) -> T:
        """What the store answers; that it fails is said once, and again only when it says something else. Then it is to be opened anew.

        Whoever asks may be cancelled; the store's work is not, or a thread of it would go on where nobody waits for its end.
        """
        asking = asyncio.ensure_future(asked)
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        try:
            return await asyncio.shield(asking)
        except StoreFailed as failed:
            self.is_open = False
            if self.trouble != str(failed):
                log.error("%s; serving goes on with revision %d", failed, self._number)
            self.trouble = str(failed)
            raise

    def _is_well(self) -> None:
        if self.trouble:
            log.warning("the store can be used again; revision %d is in force", self._number)
            self.trouble = ""


_DECISIONS = (Kind.SHIFT, Kind.ROLLBACK, Kind.ROLLOUT)


def _is_in_the_way(theirs: Revision, mine: Draft) -> bool:
    """Whether both decide about the same model. Whatever else is made anew on top of theirs, and is the later one."""
    return mine.kind in _DECISIONS and (
        theirs.kind is Kind.FILE or (theirs.kind in _DECISIONS and theirs.model == mine.model)
    )
