"""The admin API's own listener, where the configuration names one: nothing else is served there, and the admin API nowhere else."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from router.config import Server

PATHS = b"/admin/api/"


def own_listener(server: Server) -> tuple[str, int] | None:
    """Host and port of the admin API's own listener; None where it is served on the server's."""
    address = (server.admin.host or server.host, server.admin.port or server.port)
    return address if address != (server.host, server.port) else None


def divided(server: Server, bound: Iterable[socket.socket]) -> tuple[list[socket.socket], list[socket.socket]]:
    """The sockets of the clients, and those of the admin API's own listener."""
    address = own_listener(server)
    found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM) if address is not None else ()
    addresses = {place[:2] for *_, place in found}
    is_own = [(each, each.getsockname()[:2] in addresses) for each in bound]
    return [each for each, own in is_own if not own], [each for each, own in is_own if own]
