"""`crossfade drain` and `undrain`: whether a backend, or one replica of it, takes new calls; those that run end as they are."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from policies.revisions import Revision
from router.cli.answers import refusals, show_change
from router.cli.options import ConfigOption, JsonOption, UrlOption, Whom

TargetArgument = Annotated[
    str,
    typer.Argument(metavar="BACKEND[/REPLICA]", help="A backend, or one replica of it: vllm/http://127.0.0.1:8001."),
]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is kept with the revision.")]


def drain(
    target: TargetArgument,
    reason: ReasonOption = "drained by hand",
    config: ConfigOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a backend no new calls, whatever the shares say; those that run are finished."""
    with refusals(as_json):
        document = _changed(Whom(config, url), "drain", target, reason)
    show_change(document, as_json)


def undrain(
    target: TargetArgument,
    reason: ReasonOption = "back from drain",
    config: ConfigOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a drained backend its calls again."""
    with refusals(as_json):
        document = _changed(Whom(config, url), "undrain", target, reason)
    show_change(document, as_json)


def _changed(whom: Whom, verb: Literal["drain", "undrain"], target: str, reason: str) -> dict[str, Any]:
    from router.admin.bodies import Target
    from router.cli.changing import changed
    from router.cli.offline import Offline
    from router.cli.remote import change_of
    from router.cli.target import target_of
    from router.journal.journal import By

    async def act(offline: Offline, by: By) -> Revision:
        operations = offline.operations
        return await (operations.drain(target, by) if verb == "drain" else operations.undrain(target, by))

    return changed(target_of(whom), change_of(f"/{verb}", target=target, reason=reason), Target, act)
