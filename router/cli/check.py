"""`crossfade check`: says everything that is wrong with a configuration, or that nothing is."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from router.cli.options import DEFAULT_FILE
from router.config import ConfigInvalid, Loaded, Problem, load


def check(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="The configuration file; the same as -c FILE.", show_default=False),
    ] = None,
    config: Annotated[
        Path, typer.Option("--config", "-c", envvar="CROSSFADE_CONFIG", help="The configuration file.")
    ] = DEFAULT_FILE,
    url: Annotated[
        str | None,
        typer.Option(
            "--against", metavar="URL", help="Also say what the file would change there, in a running router."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of sentences.")] = False,
) -> None:
    """Check a configuration file: every problem with its line and its remedy."""
    path = file or config
    try:
        loaded = load(path, os.environ)
    except ConfigInvalid as exc:
        typer.echo(_document(path, None, exc.problems) if as_json else _refusal(path, exc.problems))
        raise typer.Exit(1) from exc
    if url is not None:
        _compare(path, loaded, url, as_json)
        return
    typer.echo(_document(path, loaded, ()) if as_json else _approval(path, loaded))


def _compare(path: Path, loaded: Loaded, url: str, as_json: bool) -> None:
    from router.cli.against import against
    from router.cli.answers import plain, refusals
    from router.cli.target import remote_of

    with refusals(as_json):
        found = against(loaded.config, remote_of((loaded.config.server, loaded.config.store), url, os.environ))
    if as_json:
        typer.echo(_document(path, loaded, (), found.as_json()))
    else:
        lines = "\n".join(map(plain, found.lines()))
        typer.echo("\n".join([_approval(path, loaded), _with_arrows(lines)]))


def _with_arrows(text: str) -> str:
    """Arrows as people write them, where the terminal has them."""
    shown = text.replace(" -> ", " → ")
    try:
        shown.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return text
    return shown


def _approval(path: Path, loaded: Loaded) -> str:
    backends, models = len(loaded.config.backends), len(loaded.config.models)
    counted = f"{_count(backends, 'backend')}, {_count(models, 'model')}"
    return "\n".join([*map(str, loaded.notices), f"{path} is valid: {counted}."])


def _refusal(path: Path, problems: tuple[Problem, ...]) -> str:
    return "\n".join([*map(str, problems), f"{path} is not valid: {_count(len(problems), 'problem')}."])


def _document(
    path: Path, loaded: Loaded | None, problems: tuple[Problem, ...], against: dict[str, Any] | None = None
) -> str:
    return json.dumps(
        {
            "file": str(path),
            "valid": loaded is not None,
            "backends": list(loaded.config.backends) if loaded else [],
            "models": list(loaded.config.models) if loaded else [],
            "problems": [asdict(problem) for problem in problems],
            "notices": [asdict(notice) for notice in loaded.notices] if loaded else [],
            **({"against": against} if against is not None else {}),
        },
        indent=2,
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
