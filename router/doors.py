"""The names under which the router may be asked for, and what all client connections of one server have in common.

Theory
------
A page on `evil.example` can point its own name at 127.0.0.1 and then talk to what listens there as to its own origin (DNS
rebinding; CVE-2025-66414 of the MCP SDK). What gives it away is the Host header: it still says `evil.example`. So a name is
accepted only where no stranger can own it:

    localhost, 127.0.0.1:8000     -> yes   an address is nobody's name, so no page can have been loaded from one and be rebound
    crossfade:8000                -> yes   one label: Docker's and Compose's service names; no such name exists in public DNS
    gpu.local, gpu.internal       -> yes   suffixes that are never delegated (RFC 6761, 6762, 8375; `internal`: ICANN 2024)
    llm.example.org               -> 421   unless it stands in `server.hosts`
    a/evil?, user@a, two of them  -> 400

Source: Vite's and webpack-dev-server's `allowedHosts` (any address), Ollama's `allowedHostsMiddleware` (`.local`, `.internal`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit

from router.config import Server
from router.faults import Fault

_HOST = re.compile(
    r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9_][a-z0-9._-]{0,254})(?::([0-9]{0,5}))?"
)  # RFC 9112, without what no client sends
_NOBODYS = (".localhost", ".local", ".internal", ".home.arpa")


class Hosts:
    """Judges Host headers: `accepted` are names as `server.hosts` has them, each with a port (only that one) or without (any)."""

    def __init__(self, accepted: Iterable[str] = ()):
        self.accept(accepted)

    def accept(self, accepted: Iterable[str]) -> None:
        """Accept these names from now on, and no others."""
        self._accepted = frozenset(name.lower().removesuffix(".") for name in accepted)

    def fault_of(self, host: str) -> Fault | None:
        """What is wrong with a Host header; None where nothing is."""
        match = _HOST.fullmatch(host.lower())
        if match is None:
            return Fault(400, "The Host header is not valid.", "invalid_request_error", "bad_request")
        name = match[1].removesuffix(".")
        if _is_nobodys(name) or name in self._accepted or f"{name}:{match[2]}" in self._accepted:
            return None
        message = f"This server is not known as {name}. If it should be, add the name to server.hosts."
        return Fault(421, message, "invalid_request_error", "unknown_host")

    def is_named(self, host: str) -> bool:
        """Whether the configuration itself names this host, with its port or without."""
        name = host.lower()
        return name in self._accepted or name.rpartition(":")[0] in self._accepted

    def is_foreign(self, origin: str) -> bool:
        """Whether an Origin header names a page that was not loaded from here."""
        try:
            return self.fault_of(urlsplit(origin).netloc) is not None
        except ValueError:
            return True


def _is_nobodys(name: str) -> bool:
    """Whether nobody can register the name and point it somewhere: an address, a single label, a suffix kept free of owners."""
    if "." not in name and not name.startswith("["):
        return True
    if name.endswith(_NOBODYS):
        return True
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _not_counted(_reason: str) -> None:
    """Nobody counts."""


@dataclass(slots=True)
class Doors:
    """What a connection asks before it lets a request in; one object for all connections of a server."""

    hosts: Hosts = field(default_factory=Hosts)
    named: Hosts = field(default_factory=Hosts)  # those alone that stand in `server.hosts`
    turned_away: Callable[[str], None] = _not_counted
    are_closing: bool = (
        False  # the server is being stopped: readiness is red, and every answer is its connection's last
    )


def accepted_hosts(server: Server) -> tuple[str, ...]:
    """The names under which the configuration lets clients and operators ask."""
    return (*server.hosts, *(host for host in (server.host, server.admin.host) if host is not None))
