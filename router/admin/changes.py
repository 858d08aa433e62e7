"""The changes that operators make over HTTP: each one operation on the journal, told who asks and in which revision it was thought out."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Header, Request

from policies.revisions import NotPossible, Revision, RoutingState, model_of, shifted
from router.admin.bodies import RampChange, Rollback, Shift, Target
from router.admin.documents import Changed, revision_document
from router.admin.door import ASKED, Asked
from router.admin.faults import refused
from router.faults import CallFailed
from router.fitness import unfit
from router.journal.journal import By
from router.parts import Parts

log = logging.getLogger("crossfade.admin")

ActorHeader = Annotated[
    str | None,
    Header(alias="x-crossfade-actor", min_length=1, max_length=100, description="Who asks, for the history."),
]
KeyHeader = Annotated[
    str | None,
    Header(
        alias="idempotency-key",
        min_length=1,
        max_length=200,
        description="A repeat with the same key and the same body is answered as the first one was, and changes nothing.",
    ),
]
MatchHeader = Annotated[
    str | None,
    Header(
        alias="if-match",
        max_length=40,
        description='The revision (as ETag: "7") that the change was thought out for; 412 where another one is in force.',
    ),
]


class Asking:
    """What the headers of a change say, and the door found out."""

    def __init__(
        self, request: Request, actor: ActorHeader = None, key: KeyHeader = None, if_match: MatchHeader = None
    ):
        asked: Asked = request.scope[ASKED]
        for name, value in (("x-crossfade-actor", actor), ("idempotency-key", key)):
            if value is not None and not (value.isascii() and value.isprintable() and value.strip()):
                raise CallFailed(refused(400, "invalid_field", f"{name} must be printable ASCII", name))
        self.actor = f"{asked.role.value}: {actor.strip()}" if actor is not None else asked.role.value
        self.key = key
        self.digest = asked.digest
        self.expected = _revision_of(if_match)

    def by(self, reason: str) -> By:
        """Who asks, for the journal."""
        return By(self.actor, reason, self.key, self.digest if self.key is not None else None, self.expected)


def _revision_of(if_match: str | None) -> int | None:
    if if_match is None or if_match.strip() == "*":
        return None
    tag = if_match.strip()
    number = tag[1:-1] if len(tag) > 2 and tag[0] == tag[-1] == '"' else ""
    if not (number.isascii() and number.isdigit()):
        raise CallFailed(
            refused(400, "invalid_field", 'if-match must be one revision in quotes, such as "7"', "if-match")
        )
    return int(number)


class Changes:
    """The changes of one router."""

    def __init__(self, parts: Parts):
        self._parts = parts

    async def shift(self, model: str, body: Shift, asking: Asking) -> Changed:
        """Give backends these shares."""
        await self._check_model(model)
        if not body.force and not await self._is_repeat(asking):
            await self._check_fitness(model, body)
        return await self._made(
            lambda by: self._parts.operations.shift(model, body.shares, by, body.over_s), body.reason, asking
        )

    async def rollback(self, model: str, body: Rollback, asking: Asking) -> Changed:
        """Take a model back."""
        await self._check_model(model)
        return await self._made(lambda by: self._parts.operations.rollback(model, by, body.to), body.reason, asking)

    async def ramp(self, model: str, body: RampChange, asking: Asking) -> Changed:
        """Let a ramp stand still, or go on."""
        await self._check_model(model)
        operations = self._parts.operations
        change = operations.pause if body.action == "pause" else operations.resume
        return await self._made(lambda by: change(model, by), body.reason, asking)

    async def drain(self, body: Target, asking: Asking) -> Changed:
        """Send no new calls there."""
        return await self._made(lambda by: self._parts.operations.drain(body.target, by), body.reason, asking)

    async def undrain(self, body: Target, asking: Asking) -> Changed:
        """Send calls there again."""
        return await self._made(lambda by: self._parts.operations.undrain(body.target, by), body.reason, asking)

    async def _made(self, change: Callable[[By], Awaitable[Revision]], reason: str, asking: Asking) -> Changed:
        journal = self._parts.journal
        seen = journal.last.number if journal.last is not None else 0
        is_repeat = await self._is_repeat(asking)
        by = asking.by(reason)
        revision = await change(by)
        is_ours = revision.number > seen and (revision.actor, revision.reason) == (by.actor, by.reason)
        document = revision_document(journal.revisions, revision, revision.model or None)
        if is_ours:
            log.info("revision %d by %s: %s", revision.number, revision.actor, "; ".join(document.changes))
        return Changed(revision=document, changes=document.changes, changed=is_ours or is_repeat)

    async def _check_model(self, model: str) -> None:
        """Raises CallFailed (404) where there is no such model."""
        await self._parts.journal.catch_up()
        try:
            model_of(self._state, model)
        except NotPossible as wrong:
            raise CallFailed(refused(404, "model_not_found", str(wrong), "model")) from wrong

    async def _check_fitness(self, model: str, body: Shift) -> None:
        """Raises CallFailed (422) where a backend that gains is not well."""
        live = self._parts.fleet.models.get(model)
        if live is None:
            return  # the file has it no more, which the operation will say
        now = self._state.models[model].split
        after = shifted(self._state, model, body.shares, live.route.backends).models[model].split
        gaining = [name for name, share in after.items() if share > now.get(name, 0.0)]
        if said := await unfit(self._parts.fleet, model, gaining):
            raise CallFailed(refused(422, "backend_unwell", f"{said}; force shifts there all the same", "shares"))

    async def _is_repeat(self, asking: Asking) -> bool:
        """Whether this very request has been made before, so that the state of things now is no matter."""
        kept = await self._parts.journal.store.by_key(asking.key) if asking.key is not None else None
        return kept is not None and kept.asked == asking.digest

    @property
    def _state(self) -> RoutingState:
        last = self._parts.journal.last
        return last.state if last is not None else RoutingState()
