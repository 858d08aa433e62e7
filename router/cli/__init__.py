"""The command line: `crossfade COMMAND`. Exit codes: 0 done, 1 the answer is "no", 2 wrong usage."""

from __future__ import annotations

import io
import sys

import typer

from router.cli.check import check
from router.cli.demo import demo
from router.cli.drain import drain, undrain
from router.cli.explain import explain
from router.cli.history import history
from router.cli.preflight import preflight
from router.cli.rollback import rollback
from router.cli.schema import schema
from router.cli.serve import serve
from router.cli.shift import shift
from router.cli.status import status

app = typer.Typer(
    name="crossfade",
    help="One OpenAI-compatible URL in front of several LLM backends.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (serve, check, schema, explain, preflight, status, shift, rollback, history, drain, undrain, demo):
    app.command()(command)


def main() -> None:
    """The entry point of the `crossfade` script. A terminal without a letter for something shows `?` in its place."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app()
