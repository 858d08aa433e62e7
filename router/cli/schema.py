"""`crossfade schema`: the JSON Schema of the configuration, for editors and tools."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from router.config.schema import json_schema, markdown


def schema(
    as_json: Annotated[bool, typer.Option("--json", help="JSON, as it is anyway.", hidden=True)] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="The keys as Markdown tables instead.")] = False,
) -> None:
    """Print the JSON Schema of the configuration file."""
    if as_json and as_markdown:
        raise typer.BadParameter("--json and --markdown exclude each other; give one of them.")
    typer.echo(markdown() if as_markdown else json.dumps(json_schema(), indent=2), nl=not as_markdown)
