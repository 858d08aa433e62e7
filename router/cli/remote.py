"""The admin API as the commands use it: one request at a time, JSON both ways, and a sentence for everything that can go wrong.

A change carries an idempotency key, so it may be repeated where the connection broke before the answer was there: the router makes it once.
"""

from __future__ import annotations

import getpass
import hashlib
import http.client
import json
import os
import socket
import ssl
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

TIMEOUT_S = 10.0  # for each step of one request; a shift may have to probe a backend first, which takes 5 s at most
MAX_BYTES = 64 << 20  # of one answer: a history of thousands of revisions is a few MB
BASE = "/admin/api"
MOST_CHARS = 100  # of an actor's name, as the admin API takes it


class Refused(Exception):
    """The answer is "no"; the message is one sentence for the operator."""

    def __init__(self, message: str, code: str = "refused"):
        super().__init__(message)
        self.code = code


class NotThere(Refused):
    """Nobody answers at the address; `said` is the same without the full stop."""

    def __init__(self, said: str):
        super().__init__(f"{said}.", "not_reachable")
        self.said = said


@dataclass(frozen=True, slots=True)
class Change:
    """A change that is asked for: `path` below the admin API, and the idempotency key that it keeps however often it is sent."""

    path: str
    body: Mapping[str, Any]
    key: str

    @property
    def content(self) -> bytes:
        """The body as it is sent."""
        return json.dumps(self.body, separators=(",", ":")).encode()

    @property
    def digest(self) -> str:
        """What the admin API keeps beside the key, so that a repetition on the store itself is known as one."""
        return hashlib.blake2b(b"POST %b\n%b" % ((BASE + self.path).encode(), self.content), digest_size=16).hexdigest()


def change_of(path: str, **fields: Any) -> Change:
    """A new change; fields that are None are left out."""
    return Change(path, {name: value for name, value in fields.items() if value is not None}, uuid.uuid4().hex)


def model_path(model: str, verb: str) -> str:
    """The path of an operation on a model."""
    return f"/models/{quote(model, safe='')}/{verb}"


def actor() -> str:
    """Who is at the keyboard: the local user's name, at this machine's."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in some containers
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"[:MOST_CHARS]


class Remote:
    """The admin API at `url`, with a key ("": none was found; `hint` says where one was looked for)."""

    def __init__(self, url: str, key: str, hint: str, timeout_s: float = TIMEOUT_S):
        self.url = url
        self._timeout_s = timeout_s
        self._key = key
        self._hint = hint

    def get(self, path: str, **query: object) -> dict[str, Any]:
        """What is at the path. Raises Refused."""
        asked = urlencode({name: value for name, value in query.items() if value is not None})
        return self._answer("GET", f"{BASE}{path}?{asked}" if asked else BASE + path, b"", {})

    def change(self, change: Change) -> dict[str, Any]:
        """Make the change. Raises Refused, and NotThere where there is nobody who could make it."""
        headers = {"idempotency-key": change.key, "content-type": "application/json"}
        return self._answer("POST", BASE + change.path, change.content, headers)

    def _answer(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
        try:
            status, content = self._asked(method, path, body, headers)
        except _Broken:
            try:
                status, content = self._asked(method, path, body, headers)
            except _Broken as exc:
                doubt = "; `crossfade history` shows whether it was done" if body else ""
                raise Refused(f"{self.url} broke off twice before it had answered{doubt}.", "broken_off") from exc
        return self._document(status, content, path)

    def _asked(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """One try. Raises NotThere, _Broken, Refused."""
        connection = self._connection()
        try:
            try:
                connection.connect()
            except ssl.SSLError as exc:
                raise Refused(f"{self.url} cannot be trusted: {exc.reason or exc}.", "tls") from exc
            except OSError as exc:
                said = exc.strerror or str(exc) or type(exc).__name__
                raise NotThere(f"The router at {self.url} does not answer ({said})") from exc
            try:
                connection.request(method, path, body or None, {**self._headers(), **headers})
                response = connection.getresponse()
                return response.status, response.read(MAX_BYTES)
            except TimeoutError as exc:
                doubt = "; `crossfade history` shows whether it was done" if body else ""
                raise Refused(f"{self.url} did not answer within {self._timeout_s:g} s{doubt}.", "timeout") from exc
            except (OSError, http.client.HTTPException) as exc:
                raise _Broken from exc
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        made = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        return made(parts.hostname or "", parts.port, timeout=self._timeout_s)

    def _headers(self) -> dict[str, str]:
        headers = {"accept": "application/json", "x-crossfade-actor": actor().encode("ascii", "replace").decode()}
        return {**headers, "authorization": f"Bearer {self._key}"} if self._key else headers

    def _document(self, status: int, content: bytes, path: str) -> dict[str, Any]:
        try:
            document = json.loads(content)
        except ValueError:
            document = None
        if status == 200 and isinstance(document, dict):
            return document
        error = document.get("error") if isinstance(document, dict) else None
        if isinstance(error, dict) and isinstance(error.get("message"), str):
            hint = f" {self._hint}" if status == 401 and self._hint else ""
            raise Refused(_sentence(error["message"]) + hint, str(error.get("code") or status))
        raise Refused(
            f"{self.url} answers {path} with {status} and not as Crossfade does; is something else there?",
            "not_crossfade",
        )


class _Broken(Exception):
    """The connection ended before the answer was whole."""


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
