"""`crossfade shift`: gives backends other shares of a model's callers, at once or in small steps, which can be paused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from policies.revisions import Revision
from router.cli.amounts import seconds_of, shares_of
from router.cli.answers import refusals, show_change
from router.cli.options import ConfigOption, JsonOption, ModelArgument, UrlOption, Whom

STAND_ALONE = "--pause and --resume stand alone: crossfade shift MODEL --pause --reason TEXT."
NOT_YET = "--write and --over exclude each other: a changed file takes effect at once. Write it when the ramp is over."


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for."""

    model: str
    shares: dict[str, float]
    reason: str
    over_s: float | None
    is_forced: bool


def shift(  # each parameter is a word of the command line
    model: ModelArgument,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is kept with the revision.")],
    shares: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="BACKEND=SHARE",
            help="0.25 or 25%. Backends that are not named share the rest in proportion to what they have.",
            show_default=False,
        ),
    ] = None,
    over: Annotated[
        str | None, typer.Option("--over", metavar="DURATION", help="In small steps over 30s, 10m, 2h, 1d.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also to a backend that is not well.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Put the shares into the file, too; comments stay.")] = False,
    pause: Annotated[bool, typer.Option("--pause", help="Let the model's ramp stand still instead.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Let it go on from there instead.")] = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give backends these shares of a model's callers. Raising a share only adds callers to that backend."""
    if (pause and resume) or ((pause or resume) and (shares or over or force or write)):
        raise typer.BadParameter(STAND_ALONE)
    if not (pause or resume or shares):
        raise typer.BadParameter("name at least one backend and its share, such as vllm=0.25.")
    if write and url and config is None:
        raise typer.BadParameter("--write beside --url needs the file that is meant: -c FILE.")
    if write and over:
        raise typer.BadParameter(NOT_YET)
    with refusals(as_json):
        if pause or resume:
            document = _on_ramp(Whom(config, url), model, "pause" if pause else "resume", reason)
        else:
            wish = Wish(model, shares_of(shares or ()), reason, seconds_of(over) if over else None, force)
            document = _written(Whom(config, url), wish) if write else _shifted(Whom(config, url), wish)
    show_change(document, as_json)


def _on_ramp(whom: Whom, model: str, action: str, reason: str) -> dict[str, Any]:
    from router.admin.bodies import RampChange
    from router.cli.changing import changed
    from router.cli.offline import Offline
    from router.cli.remote import change_of, model_path
    from router.cli.target import target_of
    from router.journal.journal import By

    async def act(offline: Offline, by: By) -> Revision:
        operations = offline.operations
        return await (operations.pause(model, by) if action == "pause" else operations.resume(model, by))

    change = change_of(model_path(model, "ramp"), action=action, reason=reason)
    return changed(target_of(whom), change, RampChange, act)


def _shifted(whom: Whom, wish: Wish) -> dict[str, Any]:
    from router.admin.bodies import Shift
    from router.cli.changing import changed
    from router.cli.offline import Offline
    from router.cli.remote import change_of, model_path
    from router.cli.target import target_of
    from router.journal.journal import By

    async def act(offline: Offline, by: By) -> Revision:
        if not wish.is_forced:
            await offline.check_fit(wish.model, wish.shares)
        return await offline.operations.shift(wish.model, wish.shares, by, wish.over_s)

    change = change_of(
        model_path(wish.model, "shift"),
        shares=wish.shares,
        reason=wish.reason,
        over_s=wish.over_s,
        force=wish.is_forced or None,
    )
    return changed(target_of(whom), change, Shift, act)


def _written(whom: Whom, wish: Wish) -> dict[str, Any]:
    """The shift, and then the file; where the file could not be edited, neither."""
    from router.cli.remote import Refused
    from router.cli.target import file_of
    from router.config.editing import NotEditable, check_editable, write_split

    file = file_of(whom)
    try:
        check_editable(file, wish.model, wish.shares)
    except NotEditable as exc:
        raise Refused(f"Nothing was changed: {exc}", "not_editable") from exc
    document = _shifted(whom, wish)
    revision = document["revision"]
    try:
        write_split(file, wish.model, revision["after"]["split"])
    except NotEditable as exc:
        said = f"Revision {revision['number']} is in force, but not in the file: {exc}"
        raise Refused(said, "not_written") from exc
    return {**document, "written": str(file)}
