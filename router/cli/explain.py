"""`crossfade explain`: which backend a request would go to, and why, without sending anything."""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from backends.dialects import DIALECTS
from backends.faults import MALFORMED
from policies.choose import BackendView, Choice, Snapshot, choose, describe
from policies.facts import CallFacts
from router.building import FIRST_REVISION, build_abilities, build_admission, build_route
from router.call import HeaderView
from router.cli.options import DEFAULT_FILE
from router.config import Config, ConfigInvalid, load
from router.endpoints import KINDS
from router.faults import CallFailed, nobody_can
from router.needs import needs_of
from router.reading import BadCall, read_body


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """A request file: the body alone, or this, where headers or the path matter."""

    body: msgspec.Raw
    headers: dict[str, str] = {}
    path: str = "/v1/chat/completions"


def explain(
    request: Annotated[
        str,
        typer.Option(
            "--request", "-r", help="File with a request's JSON body, or {path, headers, body}; - reads stdin."
        ),
    ],
    config: Annotated[
        Path, typer.Option("--config", "-c", envvar="CROSSFADE_CONFIG", help="The configuration file.")
    ] = DEFAULT_FILE,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of sentences.")] = False,
) -> None:
    """Say which backend a request would go to, and why. All backends are taken to be in rotation."""
    choice, error = Choice(()), ""
    try:
        facts, choice = _choose(load(config, os.environ).config, _read(request))
        if not choice.candidates:
            error = _error(nobody_can(facts, choice).message)
    except ConfigInvalid as exc:
        error = "\n".join(map(str, exc.problems))
    except (BadCall, CallFailed) as exc:
        error = _error(str(exc))
    if as_json:
        typer.echo(json.dumps(_document(choice, error), indent=2))
    else:
        lines = describe(choice) if choice != Choice(()) else []
        typer.echo("\n".join([*lines, *filter(None, [error])]), err=bool(error))
    if error:
        raise typer.Exit(1)


def _error(message: str) -> str:
    return f"The request would be answered with an error: {message}"


def _read(source: str) -> Request:
    try:
        text = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as exc:
        raise typer.BadParameter(f"{source} cannot be read: {exc.strerror}") from exc
    try:
        return msgspec.json.decode(text, type=Request)
    except MALFORMED:
        return Request(body=msgspec.Raw(text))


def _view(config: Config, model: str, backend: str) -> BackendView:
    """In rotation, and as able as its kind and the configuration say: nobody is asked."""
    abilities = build_abilities(config, model, backend)
    return BackendView(backend, in_rotation=True, lacks=abilities.lacks, context_tokens=abilities.context_tokens)


def _choose(config: Config, asked: Request) -> tuple[CallFacts, Choice]:
    kind = KINDS.get(asked.path, "pass")
    if kind == "pass" and asked.path not in config.server.pass_paths:
        raise BadCall(f"there is nothing at the path {asked.path}")
    body = read_body(kind, bytes(asked.body))
    model = config.models.get(body.model)
    if model is None:
        known = ", ".join(config.models)
        raise BadCall(f"the model {body.model!r} is not configured; configured are: {known}", param="model")
    headers = {name.lower().encode(): value.encode() for name, value in asked.headers.items()}
    callable_now = [name for name in model.on if config.backends[name].kind in DIALECTS]
    facts = CallFacts(
        model=body.model,
        kind=kind,
        headers=HeaderView(headers),
        stream=body.stream,
        tools=body.has_tools,
        prompt_bytes=body.size_bytes,
        user=body.user,
        messages=body.messages,
        pin=build_admission(config.server, os.environ).pin(headers, callable_now),
        needs=needs_of(kind, body),
        path=asked.path if kind == "pass" else "",
    )
    views = {name: _view(config, body.model, name) for name in callable_now}
    views |= {name: BackendView(name, False, is_callable=False) for name in model.on if name not in views}
    snapshot = Snapshot.of(FIRST_REVISION, views)
    return facts, choose(facts, build_route(body.model, model), snapshot, random.Random())


def _document(choice: Choice, error: str) -> dict[str, Any]:
    return {
        "error": error or None,
        "candidates": [{"backend": c.backend, "reason": c.reason.value, "detail": c.detail} for c in choice.candidates],
        "passed_over": [
            {"backend": p.backend, "reason": p.reason.value, "lacking": list(p.lacking)} for p in choice.passed_over
        ],
        "sticks_by": {"key": choice.cohort[0], "value": choice.cohort[1]} if choice.cohort else None,
    }
