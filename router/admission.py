"""Who may come in, how much they may bring, and how many at once: keys, size, class, the limit of concurrent calls."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Container, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

from policies.admission import BY_LABEL, Priority, lowered
from router.client import Client
from router.clients import ANYONE, Caller
from router.config import ClientKeys
from router.faults import OUT_OF_MEMORY_S, CallFailed, Fault, overloaded, unsupported
from router.gate import Gate

_SECONDS = re.compile(rb"[0-9]{1,9}(?:\.[0-9]{1,9})?")
LAST_REPEAT = 2  # the default of OpenAI's SDKs, for Python and Node: after two repeats they give up
# Of bodies that came in more than one read, of all calls that run or wait: 25 of the largest, 2,500 prompts of 25,000 tokens. What is
# more is refused, because a process that is out of memory ends with all its calls.
MAX_HELD_BYTES = 268_435_456
Receive = Callable[[], Awaitable[dict[str, Any]]]

NO_KEY = Fault(
    401,
    "Incorrect API key provided.",
    "invalid_request_error",
    "invalid_api_key",
    headers=((b"www-authenticate", b"Bearer"),),
)


NOBODY = frozenset[bytes]()


@dataclass(frozen=True, slots=True)
class Keys:
    """Clients' keys, known only as SHA-256 digests, so that comparing them takes the same time whatever they share.

    `callers`: those that are not like everybody, also by their `groups`.
    """

    known: frozenset[bytes] = NOBODY
    may_pin: frozenset[bytes] = NOBODY
    callers: Mapping[bytes, Caller] = field(default_factory=dict)
    groups: Mapping[ClientKeys, Caller] = field(default_factory=dict)


def digest(key: str | bytes) -> bytes:
    """The form in which a key is kept and compared; one of the environment is the bytes that stand there, UTF-8 or not."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape") if isinstance(key, str) else key).digest()


class Admission:
    """The door."""

    def __init__(self, keys: Keys, networks: tuple[IPv4Network | IPv6Network, ...], gate: Gate, max_body_bytes: int):
        self.gate = gate
        self._held_bytes = 0
        self.follow(keys, networks, max_body_bytes)

    def follow(self, keys: Keys, networks: tuple[IPv4Network | IPv6Network, ...], max_body_bytes: int) -> None:
        """Let in by these from now on; who is in stays."""
        self.keys = keys
        self._networks = networks
        self._max_body_bytes = max_body_bytes

    def check_key(self, headers: dict[bytes, bytes], client: tuple[str, int] | None) -> Caller:
        """Who calls. Raises CallFailed (401) where a key is needed and not given."""
        keys = self.keys
        if not keys.known:
            return ANYONE
        digest = _digest_of(headers)
        if digest in keys.known:
            return keys.callers.get(digest, ANYONE)
        if client is not None and self._networks and self._is_allowed(client[0]):
            return ANYONE
        raise CallFailed(NO_KEY)

    def knows(self, digest: bytes) -> bool:
        """Whether the key with this digest is a client's."""
        return digest in self.keys.known

    def _is_allowed(self, address: str) -> bool:
        ip = ip_address(address)
        mapped = getattr(ip, "ipv4_mapped", None)
        return any((mapped or ip) in network for network in self._networks)

    async def read_body(self, headers: dict[bytes, bytes], receive: Receive, client: Client) -> bytes:
        """The whole body. Raises CallFailed where it is too long or too slow; nothing is buffered beyond the limit."""
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise CallFailed(unsupported("Compressed bodies are not accepted."))
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_body_bytes:
            raise self._too_long(client)
        body = client.take_body()
        if body is None:
            return await self._read_slowly(receive, client)
        if len(body) > self._max_body_bytes:
            raise self._too_long(client)
        return body

    async def _read_slowly(self, receive: Receive, client: Client) -> bytes:
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(client.edge.body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise asyncio.CancelledError
                    part = message.get("body", b"")
                    parts.append(part)
                    size += len(part)
                    if size > self._max_body_bytes:
                        raise self._too_long(client)
                    self._hold(len(part), client)
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError as exc:
            client.edge.hang_up_after(client.cycle)
            message_text = f"The body did not arrive within {client.edge.body_timeout_s:g} s."
            raise CallFailed(Fault(408, message_text, "invalid_request_error", "request_timeout")) from exc

    def _hold(self, size_bytes: int, client: Client) -> None:
        if self._held_bytes + size_bytes > MAX_HELD_BYTES:
            client.edge.hang_up_after(client.cycle)
            raise CallFailed(overloaded(OUT_OF_MEMORY_S))
        self._held_bytes += size_bytes
        client.held_bytes += size_bytes

    def let_go(self, client: Client) -> None:
        """The call is over, and its body is nobody's any more."""
        self._held_bytes -= client.held_bytes
        client.held_bytes = 0

    def _too_long(self, client: Client) -> CallFailed:
        client.edge.hang_up_after(client.cycle)
        message = f"The body is longer than {self._max_body_bytes} bytes."
        return CallFailed(Fault(413, message, "invalid_request_error", "request_too_large"))

    def pin(self, headers: dict[bytes, bytes], backends: Container[str]) -> str | None:
        """The backend that the caller asks for by name. Raises CallFailed where its key may not, or the model has no such backend."""
        raw = headers.get(b"x-crossfade-backend")
        if raw is None:
            return None
        if _digest_of(headers) not in self.keys.may_pin:
            raise CallFailed(
                Fault(403, "This key may not choose a backend.", "invalid_request_error", "pin_not_allowed")
            )
        name = raw.decode("latin-1")
        if name not in backends:
            raise CallFailed(
                Fault(
                    400,
                    "x-crossfade-backend names no backend of this model.",
                    "invalid_request_error",
                    "unknown_backend",
                )
            )
        return name

    def priority(self, headers: dict[bytes, bytes], caller: Caller) -> Priority:
        """The call's class: the caller's, or a worse one if it asks for that. Raises CallFailed where there is no such class."""
        own = caller.priority
        if repeats(headers) >= LAST_REPEAT:  # who comes for the third time makes an overload three times as large
            own = max(own, Priority.BATCH)
        raw = headers.get(b"x-crossfade-priority")
        if raw is None:
            return own
        priority = lowered(own, raw.decode("latin-1"))
        if priority is None:
            message = f"x-crossfade-priority must be one of {', '.join(BY_LABEL)}."
            raise CallFailed(Fault(400, message, "invalid_request_error", "invalid_priority"))
        return priority

    def total_s(self, headers: dict[bytes, bytes], configured_s: float) -> float:
        """How long the call may take in all: the configured limit, or less if the client asks for less."""
        raw = headers.get(b"x-crossfade-timeout-s")
        if raw is None:
            return configured_s
        asked_s = float(raw) if _SECONDS.fullmatch(raw) else 0.0  # alone, `float` takes 1_0, nan and blank space too
        if asked_s <= 0:
            message = "x-crossfade-timeout-s must be a number of seconds above 0."
            raise CallFailed(Fault(400, message, "invalid_request_error", "invalid_timeout"))
        return min(asked_s, configured_s)


def repeats(headers: Mapping[bytes, bytes]) -> int:
    """How often the client's SDK has made this call before, by its own word; what is no number is none."""
    raw = headers.get(b"x-stainless-retry-count")
    return int(raw) if raw is not None and len(raw) < 4 and raw.isdigit() else 0


def _digest_of(headers: dict[bytes, bytes]) -> bytes:
    """The digest of the bearer key that was sent; b"" where there is none, which is no key's digest."""
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    return digest(key.strip()) if scheme.lower() == b"bearer" else b""
