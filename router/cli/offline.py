"""The operations on the store itself, for when no router answers: made as the router makes them, and in force as soon as one reads them.

The configuration is read first, as it is at a router's start: of file and command the later one wins, and the command is the later one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from pydantic import ValidationError

from policies.differences import percent
from policies.revisions import NotPossible, Revision, RoutingState, model_of, shifted
from router.admin.bodies import Body as Body
from router.admin.documents import Changed, History, concerning, revision_document
from router.admin.faults import of_fields
from router.admin.status import plain_url
from router.building import build_fleet
from router.cli.remote import Change, Refused, actor
from router.config import Config
from router.fitness import unfit
from router.fleet import Fleet
from router.journal.journal import By, Journal, KeyReused, Overtaken
from router.journal.store import StoreFailed
from router.operations import Operations
from router.parts import journal_of, operations_on
from router.routing import desired

T = TypeVar("T")
Act = Callable[["Offline", By], Awaitable[Revision]]


class Offline:
    """What a router would be made of, as far as an operation needs it.

    `is_repeat`: the change was made already, by a router that went before it had answered.
    """

    def __init__(self, fleet: Fleet, journal: Journal):
        self.fleet = fleet
        self.journal = journal
        self.operations: Operations = operations_on(journal, fleet)
        self.is_repeat = False

    async def check_fit(self, model: str, shares: dict[str, float]) -> None:
        """Probe the backends that are to get more of the model's calls. Raises NotPossible where one is not well."""
        last, live = self.journal.last, self.fleet.models.get(model)
        if last is None or live is None or self.is_repeat:
            return  # what is wrong is said by the operation itself
        now = model_of(last.state, model).split
        after = shifted(last.state, model, shares, live.route.backends).models[model].split
        gaining = [name for name, share in after.items() if share > now.get(name, 0.0)]
        if said := await unfit(self.fleet, model, gaining):
            raise Unwell(f"{said}; --force shifts there all the same")


class Unwell(NotPossible):
    """A backend that gains cannot take calls."""


_CODES = {  # as the admin API says them
    NotPossible: "not_possible",
    Unwell: "backend_unwell",
    Overtaken: "overtaken",
    KeyReused: "idempotency_key_reused",
}


def change_on_store(config: Config, change: Change, body: type[Body], act: Act) -> dict[str, Any]:
    """The change, made in the store: the admin API's own document, and its words for what is wrong. Raises Refused."""
    try:
        reason = str(getattr(body.model_validate(change.body), "reason", ""))
    except ValidationError as exc:
        errors = [{**error, "loc": ("body", *error["loc"])} for error in exc.errors(include_url=False)]
        raise _refused(of_fields(errors).message, "invalid_field") from exc

    async def made_in_store() -> dict[str, Any]:
        async def of(offline: Offline) -> dict[str, Any]:
            journal = offline.journal
            before = (await journal.file_changed(desired(config), "the file, read by the command line")).number
            by = By(f"operator: {actor()}", reason, change.key, change.digest)
            offline.is_repeat = await journal.store.by_key(change.key) is not None
            revision = await act(offline, by)
            document = revision_document(journal.revisions, revision, revision.model or None)
            changed = revision.number > before or offline.is_repeat
            return _plain(Changed(document, document.changes if changed else [], changed))

        return await _opened(config, of)

    return _run(made_in_store())


def history_in_store(config: Config, model: str, limit: int) -> dict[str, Any]:
    """The revisions of the model, newest first, as the admin API says them. Raises Refused."""

    async def found() -> dict[str, Any]:
        async def of(offline: Offline) -> dict[str, Any]:
            await offline.journal.catch_up()
            revisions = offline.journal.revisions
            if model not in config.models and all(model not in each.state.models for each in revisions):
                raise NotPossible(f"there is no model {model}; there are {', '.join(sorted(config.models))}")
            documents = [revision_document(revisions, each, model) for each in concerning(revisions, model)]
            return _plain(History(documents[::-1][:limit]))

        return await _opened(config, of)

    return _run(found()) if _is_there(config) else {"revisions": []}


def status_in_store(config: Config) -> dict[str, Any]:
    """What a router would start with: the admin API's document, as far as it can be known without one. Raises Refused."""

    async def found() -> tuple[RoutingState, Revision | None]:
        async def of(offline: Offline) -> tuple[RoutingState, Revision | None]:
            await offline.journal.catch_up()
            last = offline.journal.last
            return (last.state if last is not None else RoutingState()), last

        return await _opened(config, of)

    state, last = _run(found()) if _is_there(config) else (RoutingState(), None)
    asked = desired(config).state.models
    models = {}
    for name, settings in config.models.items():
        now = state.models.get(name, asked[name])
        models[name] = {
            "split": now.split,
            "file_split": asked[name].split,
            "drift": _given(now.split) != _given(asked[name].split) or now.ramp is not None,
            "ramp": None,
            "backends": {
                each: {"share": now.split.get(each, 0.0), "draining": each in state.draining, "replicas": []}
                for each in settings.on
            },
        }
    return {
        "revision": last.number if last is not None else None,
        "at_s": last.at_s if last is not None else None,
        "models": models,
        "draining": list(state.draining),
        "store": {"url": plain_url(config.store.url), "trouble": ""},
        "file": None,
    }


def _plain(document: Changed | History) -> dict[str, Any]:
    """As the admin API writes it."""
    plain: dict[str, Any] = msgspec.to_builtins(document)
    return plain


def _given(split: dict[str, float]) -> dict[str, str]:
    return {name: percent(share) for name, share in split.items() if share > 0}


def _is_there(config: Config) -> bool:
    """Whether there is a store to look into; looking must not make one."""
    url = sa.make_url(config.store.url)
    return url.get_backend_name() != "sqlite" or Path(url.database or "").exists()


async def _opened(config: Config, of: Callable[[Offline], Awaitable[T]]) -> T:
    fleet = build_fleet(config, os.environ, random.Random())
    journal = journal_of(config, fleet, os.environ)
    try:
        return await of(Offline(fleet, journal))
    except (NotPossible, Overtaken, KeyReused, StoreFailed) as exc:
        raise _refused(str(exc), _CODES.get(type(exc), "store_failed")) from exc
    finally:
        await journal.close()
        for backend in fleet.backends.values():
            for replica in backend.replicas:
                replica.server.pool.close()


def _refused(said: str, code: str) -> Refused:
    return Refused(said if said.endswith(".") else f"{said}.", code)


def _run(work: Coroutine[Any, Any, T]) -> T:
    log = logging.getLogger("crossfade")
    quiet = logging.NullHandler()  # what the journal logs stands in the refusal
    log.addHandler(quiet)
    try:
        return asyncio.run(work)
    finally:
        log.removeHandler(quiet)
