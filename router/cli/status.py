"""`crossfade status`: where everything stands now, once or every second."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from router.cli.answers import note, refusals, show_json
from router.cli.options import ConfigOption, JsonOption, UrlOption, Whom

EVERY_S = 1.0
PASSING = ("not_reachable", "broken_off", "timeout")  # a router that starts anew does all three


def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again every second, until Ctrl-C.")] = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show each model's shares, the state of every replica, ramps, and what is not as it should be.

    The exit code is 1 where a model has no replica in rotation, or no router answers.
    """
    if watch and as_json:
        raise typer.BadParameter("--watch and --json exclude each other; --json is one document.")
    whom = Whom(config, url)
    if watch:
        with refusals(as_json):
            _watched(whom)
        return
    with refusals(as_json):
        document, where = _found(whom)
    from router.cli.status_table import is_well, table

    if as_json:
        show_json(document)
    else:
        _print(table(document, where))
    if not is_well(document):
        raise typer.Exit(1)


def _found(whom: Whom) -> tuple[dict[str, Any], str]:
    """The status, and whose it is."""
    from router.cli.offline import status_in_store
    from router.cli.remote import NotThere
    from router.cli.target import target_of

    target = target_of(whom)
    try:
        return {**target.remote.get("/status"), "through": "router"}, target.remote.url
    except NotThere as gone:
        document = status_in_store(target.its_config(gone))
        note(f"{gone.said}; this is what its store {target.store} holds.")
        return {**document, "through": "store"}, "not running"


def _watched(whom: Whom) -> None:
    """Redraw until Ctrl-C; a router that does not answer is waited for. Raises Refused where it will not be told."""
    from rich.text import Text

    from router.cli.remote import Refused
    from router.cli.status_table import BAD, table
    from router.cli.target import target_of

    target = target_of(whom)
    console = Console(highlight=False)
    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                try:
                    shown = table(target.remote.get("/status"), target.remote.url)
                except Refused as gone:
                    if gone.code not in PASSING:
                        raise
                    shown = Text(str(gone), style=BAD)
                if console.is_terminal:
                    live.update(shown, refresh=True)
                else:
                    _print(shown)
                time.sleep(EVERY_S)
    except KeyboardInterrupt:
        return


def _print(shown: Any) -> None:
    """In colours and as wide as the terminal; plain, and 80 wide, elsewhere."""
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(shown)
        return
    with console.capture() as captured:
        console.print(shown)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))
