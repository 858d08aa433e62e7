"""The command line: `crossfade COMMAND`. Exit codes: 0 done, 1 the answer is "no", 2 wrong usage."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from types import ModuleType

import typer

# Where each command is, in the order of the help. Only the one that is asked for is imported: whoever takes a shift back has no time
# to wait for what the router itself needs.
COMMANDS: dict[str, Callable[[], ModuleType]] = {
    "serve": lambda: import_module("router.cli.serve"),
    "check": lambda: import_module("router.cli.check"),
    "schema": lambda: import_module("router.cli.schema"),
    "explain": lambda: import_module("router.cli.explain"),
    "preflight": lambda: import_module("router.cli.preflight"),
    "status": lambda: import_module("router.cli.status"),
    "shift": lambda: import_module("router.cli.shift"),
    "rollback": lambda: import_module("router.cli.rollback"),
    "history": lambda: import_module("router.cli.history"),
    "drain": lambda: import_module("router.cli.drain"),
    "undrain": lambda: import_module("router.cli.drain"),
    "demo": lambda: import_module("router.cli.demo"),
}


def build(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """The command line with these commands."""
    app = typer.Typer(
        name="crossfade",
        help="One OpenAI-compatible URL in front of several LLM backends.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(lambda: None)  # else one command alone would not be named
    for name in names:
        app.command(name)(getattr(COMMANDS[name](), name))
    return app


def main() -> None:
    """The entry point of the `crossfade` script. A terminal without a letter for something shows `?` in its place."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    asked = sys.argv[1:2]
    build(asked if asked and asked[0] in COMMANDS else COMMANDS)()
