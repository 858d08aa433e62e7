"""Calls over HTTP as any client makes them: an answer and who gave it, and whether something is ready."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any

from policies.ejection import State
from router.demo.roles import MODEL

QUESTION = (
    "Which city is the capital of France?"  # both engines answer it well; the model is small and unpacked from 4 bits
)
ANSWER_S = 120.0  # the first answer of vLLM took 17 s on a busy machine
GLANCE_S = 5.0
TEXT_CHARS = 90
CALLER = "jane"  # who asks with the line to paste


@dataclass(frozen=True, slots=True)
class Answer:
    """One line of text, and the backend that wrote it."""

    backend: str
    text: str


class NoAnswer(Exception):
    """The call was not answered; the message says why."""


def ask(origin: str, user: str, model: str = MODEL) -> Answer:
    """Ask the question as `user`. Raises NoAnswer."""
    body = json.dumps(_question(model)).encode()
    headers = {"content-type": "application/json", "x-user-id": user}
    call = urllib.request.Request(f"{origin}/v1/chat/completions", body, headers)  # noqa: S310
    try:
        with _open(call, ANSWER_S) as reply:
            text = " ".join(_text_of(json.load(reply)).split())
            return Answer(reply.headers.get("x-crossfade-backend", ""), text[:TEXT_CHARS])
    except urllib.error.HTTPError as exc:
        raise NoAnswer(f"status {exc.code}: {exc.read()[:300].decode(errors='replace')}") from exc
    except (OSError, HTTPException, ValueError) as exc:
        raise NoAnswer(str(exc) or repr(exc)) from exc


def is_well(url: str) -> bool:
    """Whether GET `url` answers 200 now."""
    try:
        with _open(url, GLANCE_S) as reply:
            return bool(reply.status == 200)
    except (OSError, HTTPException):
        return False


def states(origin: str) -> dict[str, State]:
    """The state of each backend of the demo's model, as `/health/ready` tells; of none while nobody answers."""
    try:
        with _open(f"{origin}/health/ready", GLANCE_S) as reply:
            rows: Any = json.load(reply)["models"][MODEL]
        return {name: State(replicas[0]["state"]) for name, replicas in rows.items()}
    except (OSError, HTTPException, ValueError, LookupError):
        return {}


def curl_line(origin: str) -> str:
    """A line to paste."""
    headers = f"-H 'content-type: application/json' -H 'x-user-id: {CALLER}'"
    return f"curl -si -w '\\n' {origin}/v1/chat/completions {headers} -d '{json.dumps(_question(MODEL))}'"


def _question(model: str) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 32, "temperature": 0}


def _text_of(said: Any) -> str:
    try:
        text = said["choices"][0]["message"]["content"]
    except (LookupError, TypeError):
        text = None
    if not isinstance(text, str):
        raise NoAnswer(f"an answer without text: {json.dumps(said)[:300]}")
    return text


def _open(call: str | urllib.request.Request, timeout_s: float) -> HTTPResponse:
    """Without the proxies of the environment: all this stays on the machine."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    reply: HTTPResponse = direct.open(call, timeout=timeout_s)
    return reply
