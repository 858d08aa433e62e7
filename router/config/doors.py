"""What must hold between the keys and the listeners of clients and those of the admin API."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any

from router.config.problems import Finding, KeyPath

SHORT_CHARS = 22  # 128 bits in base64: what a random key has at least


def findings(server: Mapping[str, Any], env: Mapping[str, str]) -> Iterator[Finding]:
    """Keys that open two doors, and listeners that would take each other's port. `server`: that section, not validated yet."""
    admin = _mapping(server.get("admin"))
    clients = _clients_keys(server, env)
    operator, viewer = _admin_keys(admin, env)
    for path, key in ((("key_env",), operator), (("viewer_key_env",), viewer)):
        if key and key in clients:
            message = "names a variable whose key is a client's, too; a client's key never opens the admin API."
            yield Finding(("server", "admin", *path), message, "Set it to a key that no client has.")
    if viewer and viewer == operator:
        message = "names a variable with the operator's key; whoever may look could change everything."
        yield Finding(("server", "admin", "viewer_key_env"), message, "Set it to a key of its own, or remove it.")
    yield from _ports(server, admin)


def warnings(server: Mapping[str, Any], env: Mapping[str, str]) -> Iterator[Finding]:
    """Admin keys that somebody could guess."""
    for name, key in zip(("key_env", "viewer_key_env"), _admin_keys(_mapping(server.get("admin")), env), strict=True):
        if key and len(key) < SHORT_CHARS:
            path: KeyPath = ("server", "admin", name)
            message = f"names a variable with an admin key of less than {SHORT_CHARS} characters, which can be guessed."
            yield Finding(path, message, "Set it to 32 random bytes: openssl rand -base64 32.")


def _ports(server: Mapping[str, Any], admin: Mapping[str, Any]) -> Iterator[Finding]:
    host, port = server.get("host", "127.0.0.1"), server.get("port", 8000)
    own_host, own_port = admin.get("host") or host, admin.get("port") or port
    if str(own_port) == str(port) and own_host != host and (_is_everywhere(host) or _is_everywhere(own_host)):
        message = f"is {str(own_host)[:60]} on the server's own port, where the server listens already."
        yield Finding(("server", "admin", "host"), message, "Set server.admin.port to another port.")


def _is_everywhere(host: object) -> bool:
    try:
        return ipaddress.ip_address(str(host)).is_unspecified
    except ValueError:
        return False


def _admin_keys(admin: Mapping[str, Any], env: Mapping[str, str]) -> tuple[str, str]:
    names = (admin.get("key_env", "CROSSFADE_ADMIN_KEY"), admin.get("viewer_key_env"))
    operator, viewer = (env.get(name, "").strip() if isinstance(name, str) else "" for name in names)
    return operator, viewer


def _clients_keys(server: Mapping[str, Any], env: Mapping[str, str]) -> frozenset[str]:
    groups = server.get("clients")
    names = [server.get("keys_env", "CROSSFADE_KEYS")]
    names += [_mapping(group).get("key_env") for group in (groups if isinstance(groups, list) else ())]
    return frozenset(key.strip() for name in names if isinstance(name, str) for key in env.get(name, "").split(","))


def _mapping(tree: object) -> Mapping[str, Any]:
    return tree if isinstance(tree, dict) else {}
