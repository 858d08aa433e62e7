"""`crossfade demo`: two real engines with Crossfade in front, no configuration."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, TextIO

import typer

from router.demo.cache import cache_root
from router.demo.faults import DemoFailed
from router.demo.progress import Progress
from router.demo.show import Demo, Wish
from router.demo.summary import Summary


class Engines(StrEnum):
    """Who plays the candidate beside llama.cpp's server."""

    VLLM = "vllm"
    LLAMA = "llama"


def demo(
    engines: Annotated[
        Engines, typer.Option(help="The candidate: vLLM on CPU, or a second llama.cpp server (smaller and quicker).")
    ] = Engines.VLLM,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where Crossfade answers, on 127.0.0.1.")] = 8000,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document when the first answers; progress goes to standard error.")
    ] = False,
) -> None:
    """Start two real engines on this machine and Crossfade in front of them; Ctrl-C stops everything."""
    stopping = threading.Event()
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, lambda *_: stopping.set())
    wish = Wish(port=port, with_vllm=engines is Engines.VLLM, home=cache_root(os.environ))
    try:
        progress = Progress(_writer(sys.stderr if as_json else sys.stdout), stopping)
        Demo(wish, progress, _once_as_json() if as_json else lambda summary: progress.show(summary.text())).run()
    except DemoFailed as exc:
        typer.echo(f"The demo cannot go on: {exc}", err=True)
        raise typer.Exit(1) from exc


def _writer(file: TextIO) -> Callable[[str], None]:
    """Lines to `file` until nobody reads it any more: that raises OSError once, and Python's own flush at the end finds nothing to say."""

    def write(text: str) -> None:
        try:
            print(text, file=file, flush=True)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
            raise

    return write


def _once_as_json() -> Callable[[Summary], None]:
    documents = iter([True])

    def announce(summary: Summary) -> None:
        if next(documents, False):
            typer.echo(json.dumps(summary.as_json(), indent=2))

    return announce
