"""Calls over HTTP as any client makes them: an answer and who gave it, and whether something is ready."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any

from policies.ejection import State
from router.demo.roles import MODEL

QUESTION = "What is the capital of France?"
ANSWER_S = 120.0  # the first answer of vLLM took 17 s on a busy machine
GLANCE_S = 5.0
TEXT_CHARS = 90


@dataclass(frozen=True, slots=True)
class Answer:
    """One line of text, and the backend that wrote it."""

    backend: str
    text: str


class NoAnswer(Exception):
    """The call was not answered; the message says why."""


def ask(origin: str, user: str, model: str = MODEL) -> Answer:
    """Ask the question as `user`. Raises NoAnswer."""
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 32, "temperature": 0}
    headers = {"content-type": "application/json", "x-user-id": user}
    call = urllib.request.Request(f"{origin}/v1/chat/completions", json.dumps(body).encode(), headers)  # noqa: S310
    try:
        with _open(call, ANSWER_S) as reply:
            said: Any = json.load(reply)
            text = " ".join(said["choices"][0]["message"]["content"].split())
            return Answer(reply.headers.get("x-crossfade-backend", ""), text[:TEXT_CHARS])
    except urllib.error.HTTPError as exc:
        raise NoAnswer(f"status {exc.code}: {exc.read()[:300].decode(errors='replace')}") from exc
    except (OSError, ValueError, LookupError) as exc:
        raise NoAnswer(str(exc)) from exc


def is_well(url: str) -> bool:
    """Whether GET `url` answers 200 now."""
    try:
        with _open(url, GLANCE_S) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def states(origin: str) -> dict[str, State]:
    """The state of each backend of the demo's model, as `/health/ready` tells; of none while nobody answers."""
    try:
        with _open(f"{origin}/health/ready", GLANCE_S) as reply:
            rows: Any = json.load(reply)["models"][MODEL]
        return {name: State(replicas[0]["state"]) for name, replicas in rows.items()}
    except (OSError, ValueError, LookupError):
        return {}


def curl_line(origin: str) -> str:
    """A line to paste."""
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 32})
    return f"curl -si {origin}/v1/chat/completions -H 'content-type: application/json' -H 'x-user-id: jane' -d '{body}'"


def _open(call: str | urllib.request.Request, timeout_s: float) -> HTTPResponse:
    """Without the proxies of the environment: all this stays on the machine."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    reply: HTTPResponse = direct.open(call, timeout=timeout_s)
    return reply
