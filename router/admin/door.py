"""Who gets to the admin API: everything that is judged of a request before FastAPI sees it.

    the origin                                a page of another site reaches nothing; rebound to this one, its Host has given it away before
    the key                                   of the admin API, as a bearer, in one header; no cookie, no query and no network counts
    the role                                  a viewer's key changes nothing
    the body                                  JSON by its type, whole, at most 64 KiB, each field once

No answer allows another origin anything (CORS), so no page can read one or send a key along.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from router.admin.faults import (
    CLIENTS_KEY,
    FOREIGN,
    LOOKS_ONLY,
    NO_KEY,
    NO_QUERY,
    NOT_JSON,
    ONLY_JSON,
    TOO_LATE,
    too_long,
    too_many_wrong_keys,
)
from router.admin.keys import AdminKeys, Role
from router.admin.wrong_keys import MOST, WrongKeys
from router.admission import digest
from router.doors import Doors
from router.edge import BODY_TIMEOUT_S, EXTENSION
from router.endpoints import request_id_of
from router.faults import CallFailed, Fault

log = logging.getLogger("crossfade.admin")

MOST_BYTES = 65_536  # of a body; the longest reason and a hundred backends take a tenth
ASKED = "crossfade.admin"  # where in the scope `Asked` stands
_READS = ("GET", "HEAD", "OPTIONS")
_ALWAYS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was let in: by whom, and a digest of what it asks for."""

    role: Role
    digest: str


class Door:
    """ASGI in front of the admin API. `is_clients(digest)`: whether a key lets clients in; such a key opens nothing here.

    `doors`: which has judged the Host already, and knows the names under which a proxy may show our pages, whatever it asks us for.
    """

    def __init__(
        self, app: ASGIApp, doors: Doors, keys: AdminKeys, is_clients: Callable[[bytes], bool], rng: random.Random
    ):
        self._app = app
        self._doors = doors
        self._rng = rng
        self._keys = keys
        self._is_clients = is_clients
        self._wrong = WrongKeys()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.get("extensions", {}).pop(EXTENSION, None)  # see `router.edge.turn_of`
        headers = _once(scope["headers"])
        request_id = request_id_of({name: value for name, value in headers.items() if value is not None}, self._rng)

        async def send_private(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id), *_ALWAYS]
            await send(message)

        try:
            self._check_origin(headers)
            role = await self._role(headers, scope)
            if scope["method"] not in _READS and role is not Role.OPERATOR:
                raise CallFailed(LOOKS_ONLY)
            body = b"" if scope["method"] in _READS else await _body(scope, headers, receive)
        except CallFailed as failed:
            await answer(failed.fault, send_private)
            return
        except _Gone:
            return
        asked = hashlib.blake2b(b"%b %b\n%b" % (scope["method"].encode(), scope["raw_path"], body), digest_size=16)
        scope[ASKED] = Asked(role, asked.hexdigest())
        await self._app(scope, _replayed(body, receive), send_private)

    def _check_origin(self, headers: dict[bytes, bytes | None]) -> None:
        host, origin = headers.get(b"host"), headers.get(b"origin", b"")
        if headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            raise CallFailed(FOREIGN)
        if origin != b"" and (origin is None or not self._is_own(origin.decode("latin-1"), host)):
            raise CallFailed(FOREIGN)

    def _is_own(self, origin: str, host: bytes | None) -> bool:
        """Whether a page from there came from the router itself: from the host that it asks, or one that the configuration names."""
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path or parts.query:
            return False
        asked = host.decode("latin-1").lower() if host is not None else ""
        return parts.netloc.lower() == asked or self._doors.named.is_named(parts.netloc)

    async def _role(self, headers: dict[bytes, bytes | None], scope: Scope) -> Role:
        now_s = asyncio.get_running_loop().time()
        await self._keys.open(now_s)
        scheme, _, key = (headers.get(b"authorization") or b"").partition(b" ")
        asked = digest(key.strip()) if scheme.lower() == b"bearer" else b""
        if self._is_clients(asked):
            raise CallFailed(CLIENTS_KEY)
        role = self._keys.role_of(asked)
        if role is not None:
            return role
        if asked:
            address = scope["client"][0] if scope.get("client") else ""
            number, wait_s = self._wrong.count(address, now_s)
            if number == MOST + 1:
                log.warning("more than %d wrong admin keys came from %s within a minute", MOST, address)
            if wait_s:
                raise CallFailed(too_many_wrong_keys(wait_s))
        raise CallFailed(NO_KEY)


class _Gone(Exception):
    """The client left before its request was whole."""


async def answer(fault: Fault, send: Send) -> None:
    """Send a refusal."""
    body = fault.body()
    headers = [*fault.all_headers(), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": fault.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _once(lines: list[tuple[bytes, bytes]]) -> dict[bytes, bytes | None]:
    """The headers by name; None for one that stands there twice: whoever stands in front may have judged either."""
    headers: dict[bytes, bytes | None] = {}
    for name, value in lines:
        headers[name] = None if name in headers else value
    return headers


async def _body(scope: Scope, headers: dict[bytes, bytes | None], receive: Receive) -> bytes:
    """The whole body, a JSON object. Raises CallFailed."""
    if scope.get("query_string"):
        raise CallFailed(NO_QUERY)
    media_type = (headers.get(b"content-type") or b"").partition(b";")[0].strip().lower()
    if media_type != b"application/json" or headers.get(b"content-encoding", b"identity") != b"identity":
        raise CallFailed(ONLY_JSON)
    length = headers.get(b"content-length") or b"0"
    if length.isdigit() and int(length) > MOST_BYTES:
        raise CallFailed(too_long(MOST_BYTES))
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Gone
                body += message.get("body", b"")
                if len(body) > MOST_BYTES:
                    raise CallFailed(too_long(MOST_BYTES))
                if not message.get("more_body"):
                    break
    except TimeoutError as exc:
        raise CallFailed(TOO_LATE) from exc
    if not _is_object(bytes(body)):
        raise CallFailed(NOT_JSON)
    return bytes(body)


def _is_object(body: bytes) -> bool:
    """Whether it is a JSON object that every reader understands alike: UTF-8, each name once, no NaN, no depth without end."""
    try:
        return isinstance(json.loads(body.decode(), object_pairs_hook=_unlike_names, parse_constant=_no_constant), dict)
    except (ValueError, RecursionError):
        return False


def _unlike_names(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is named twice")
    return fields


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` for whoever reads the request after the door has."""
    is_read = False

    async def again() -> Any:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
