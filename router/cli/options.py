"""The options that all commands to a running router share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_FILE = Path("crossfade.yaml")

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="The router's configuration file. Default: $CROSSFADE_CONFIG, then crossfade.yaml.",
        show_default=False,
    ),
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The router's address, such as http://127.0.0.1:8000; the key is then in $CROSSFADE_ADMIN_KEY.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document instead of sentences.")]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="The public name of the model.")]


@dataclass(frozen=True, slots=True)
class Whom:
    """The router that is meant, as it was typed: by its file, by its address, or neither."""

    file: Path | None
    url: str | None
