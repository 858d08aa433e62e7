"""`crossfade history`: what became of a model's shares, newest first: who, when, why, and what it changed."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from router.cli.answers import note, plain, refusals, show_json
from router.cli.options import ConfigOption, JsonOption, ModelArgument, UrlOption, Whom


def history(
    model: ModelArgument,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="So many revisions at most.")] = 50,
    config: ConfigOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the revisions of a model, newest first."""
    with refusals(as_json):
        document = _found(Whom(config, url), model, limit)
    if as_json:
        show_json(document)
        return
    for revision in document["revisions"]:
        typer.echo("\n".join(_said(revision, model)))
    if not document["revisions"]:
        typer.echo(f"{model} has no history yet; it begins with the router's first start.")


def _found(whom: Whom, model: str, limit: int) -> dict[str, Any]:
    from router.cli.offline import history_in_store
    from router.cli.remote import NotThere
    from router.cli.target import target_of

    target = target_of(whom)
    try:
        return {**target.remote.get("/history", model=model, limit=limit), "through": "router"}
    except NotThere as gone:
        document = history_in_store(target.its_config(gone), model, limit)
        note(f"{gone.said}; this is what its store {target.store} holds.")
        return {**document, "through": "store"}


def _said(revision: dict[str, Any], model: str) -> list[str]:
    """One revision in two lines or more."""
    when = datetime.fromtimestamp(revision["at_s"]).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    kind = revision["kind"] + (f" of revision {revision['part_of']}" if revision["part_of"] else "")
    kind += f" to revision {revision['restores']}" if revision["restores"] else ""
    head = f"revision {revision['number']}  {when}  {kind} by {revision['actor']}: {revision['reason']}"
    after = revision["after"] or {}
    changes = revision["changes"] or [f"{model}: {shares(after.get('split', {}))}"]
    return [plain(line) for line in (head, *(f"    {each}" for each in changes))]


def shares(split: dict[str, float]) -> str:
    """Shares in one line."""
    from policies.differences import percent

    return ", ".join(f"{name} {percent(share)}" for name, share in split.items())
