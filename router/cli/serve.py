"""`crossfade serve`: runs the router on a configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from router.cli.options import DEFAULT_FILE
from router.config import ConfigInvalid, load


def serve(
    config: Annotated[
        Path, typer.Option("--config", "-c", envvar="CROSSFADE_CONFIG", help="The configuration file.")
    ] = DEFAULT_FILE,
) -> None:
    """Run the router until it is stopped (Ctrl-C or SIGTERM)."""
    try:
        loaded = load(config, os.environ)
    except ConfigInvalid as exc:
        for problem in exc.problems:
            typer.echo(str(problem), err=True)
        raise typer.Exit(1) from exc
    from router.admin.listener import own_listener
    from router.logs import set_up_logging
    from router.serve import CannotListen, bound_for, run
    from router.workers import Supervisor

    set_up_logging()
    for notice in loaded.notices:
        typer.echo(str(notice), err=True)
    server = loaded.config.server
    try:
        bound = bound_for(server)
    except CannotListen as exc:
        typer.echo(f"crossfade: {exc}", err=True)
        raise typer.Exit(1) from exc
    typer.echo(f"crossfade: listening on http://{server.host}:{server.port}", err=True)
    if (own := own_listener(server)) is not None:
        typer.echo(f"crossfade: the admin API listens on http://{own[0]}:{own[1]}", err=True)
    if server.workers == 1:
        run(loaded.config, os.environ, bound, config)
    elif trouble := Supervisor(loaded.config, config, bound).run():
        typer.echo(f"crossfade: {trouble}", err=True)
        raise typer.Exit(1)
