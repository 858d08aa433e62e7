"""`crossfade rollback`: takes a model back to the state before, or to that of a revision."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from policies.revisions import Revision
from router.cli.answers import refusals, show_change
from router.cli.options import ConfigOption, JsonOption, ModelArgument, UrlOption, Whom


def rollback(  # each parameter is a word of the command line
    model: ModelArgument,
    to: Annotated[
        int | None,
        typer.Option("--to", metavar="REVISION", min=1, help="To this revision's state.", show_default=False),
    ] = None,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; it is kept with the revision.")
    ] = "taken back",
    config: ConfigOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a model back to the state before; a second rollback goes one further back."""
    with refusals(as_json):
        document = _rolled_back(Whom(config, url), model, to, reason)
    show_change(document, as_json)


def _rolled_back(whom: Whom, model: str, to: int | None, reason: str) -> dict[str, Any]:
    from router.admin.bodies import Rollback
    from router.cli.changing import changed
    from router.cli.offline import Offline
    from router.cli.remote import change_of, model_path
    from router.cli.target import target_of
    from router.journal.journal import By

    async def act(offline: Offline, by: By) -> Revision:
        return await offline.operations.rollback(model, by, to)

    change = change_of(model_path(model, "rollback"), to=to, reason=reason)
    return changed(target_of(whom), change, Rollback, act)
