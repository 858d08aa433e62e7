"""`crossfade preflight`: whether the application could tell a model's backends apart, before any traffic moves."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path
from typing import Annotated

import typer

from backends.dialects import DIALECTS
from router.cli.options import DEFAULT_FILE
from router.config import Config, ConfigInvalid, load

INTERRUPTED = 130  # the shells' number for SIGINT


def preflight(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The public name of the model.")],
    config: Annotated[
        Path, typer.Option("--config", "-c", envvar="CROSSFADE_CONFIG", help="The configuration file.")
    ] = DEFAULT_FILE,
    backends: Annotated[
        str,
        typer.Option(metavar="NAMES", help="Only these, comma-separated, the baseline first. Default: all in `on`."),
    ] = "",
    timeout_s: Annotated[float, typer.Option("--timeout-s", min=0.1, help="Seconds that one call may take.")] = 60.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document; progress goes to standard error.")
    ] = False,
) -> None:
    """Ask each backend of a model the same small calls and show where the application could tell them apart.

    Green: it cannot. Amber: it can; what to do or to expect is said. Red: calls would break, and the exit code is 1.
    """
    try:
        loaded = load(config, os.environ).config
    except ConfigInvalid as exc:
        said = "\n".join(map(str, exc.problems))
        typer.echo(json.dumps({"error": said}, indent=2) if as_json else said, err=not as_json)
        raise typer.Exit(1) from exc
    names = _chosen(loaded, model, backends)
    logging.getLogger("crossfade").addHandler(logging.NullHandler())  # what happens to each call stands in the matrix
    from router.preflight.run import Wish, run
    from router.preflight.show import Watched, document, printed

    try:
        with Watched(names) as watched:
            findings = asyncio.run(run(loaded, os.environ, Wish(model, names, timeout_s), watched.said))
    except KeyboardInterrupt as exc:
        typer.echo("preflight: interrupted; nothing was changed anywhere.", err=True)
        raise typer.Exit(INTERRUPTED) from exc
    if as_json:
        typer.echo(json.dumps(document(findings), indent=2))
    else:
        printed(findings)
    raise typer.Exit(1 if findings.is_red else 0)


def _chosen(config: Config, model: str, given: str) -> tuple[str, ...]:
    """The backends to ask, the baseline first. Raises BadParameter."""
    if model not in config.models:
        raise typer.BadParameter(f"{model} is no model of this file; it has {', '.join(config.models)}.")
    on = list(config.models[model].on)
    names = list(dict.fromkeys(name.strip() for name in given.split(",") if name.strip())) or _baseline_first(
        config, model
    )
    for name in names:
        if name not in on:
            raise typer.BadParameter(f"{model} is not on a backend {name}; it is on {', '.join(on)}.")
        if config.backends[name].kind not in DIALECTS:
            kind = config.backends[name].kind
            raise typer.BadParameter(f"{name} is of the kind {kind}, which this version cannot call; leave it out.")
    return tuple(names)


def _baseline_first(config: Config, model: str) -> list[str]:
    """All that can be called, in the order of `on`; the baseline of a rollout comes first."""
    settings = config.models[model]
    names = [name for name in settings.on if config.backends[name].kind in DIALECTS]
    baseline = settings.rollout.baseline if settings.rollout is not None else None
    return sorted(names, key=lambda name: name != baseline)
