"""How commands end: sentences for people or one JSON document on stdout, refusals on stderr, and the exit code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer

from router.cli.amounts import NoAmount
from router.cli.remote import Refused
from router.config import ConfigInvalid


@contextmanager
def refusals(as_json: bool) -> Iterator[None]:
    """What the block is refused is one sentence on stderr, and with --json a document as well; the exit code is 1, or 2 for wrong usage."""
    try:
        yield
    except NoAmount as exc:
        raise typer.BadParameter(str(exc)) from exc
    except ConfigInvalid as exc:
        _refuse("\n".join(map(str, exc.problems)), "config_invalid", as_json, exc)
    except Refused as exc:
        _refuse(str(exc), exc.code, as_json, exc)


def _refuse(message: str, code: str, as_json: bool, cause: Exception) -> None:
    if as_json:
        show_json({"error": {"message": message, "code": code}})
    typer.echo(message, err=True)
    raise typer.Exit(1) from cause


def show_json(document: Mapping[str, Any]) -> None:
    """The one document of a command with --json."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def show_change(document: Mapping[str, Any], as_json: bool) -> None:
    """What a change has changed, and the revision that is in force."""
    if as_json:
        show_json(document)
        return
    number = document["revision"]["number"]
    lines = (
        [*document["changes"], f"revision {number}"]
        if document["changed"]
        else [f"revision {number} has it so already"]
    )
    if "written" in document:
        lines.append(f"{document['written']} has it, too")
    typer.echo("\n".join(map(plain, lines)))


def plain(text: str) -> str:
    """What others have written, without anything that steers a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def note(sentence: str) -> None:
    """What is worth knowing beside the answer."""
    typer.echo(sentence, err=True)
