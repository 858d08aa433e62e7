"""Whom a command speaks to: the router of a configuration file, or the one at a URL; with which key, and whose store it may use."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import typer

from router.admin.keys import KeyUnusable, admin_key_file, operator_key
from router.admin.status import plain_url
from router.cli.options import DEFAULT_FILE, Whom
from router.cli.remote import Refused, Remote
from router.config import Config, load

KEY_ENV = "CROSSFADE_ADMIN_KEY"


@dataclass(frozen=True, slots=True)
class Target:
    """A router. `config` and `file`: its configuration, where that is at hand; None where only its address is known."""

    remote: Remote
    config: Config | None
    file: Path | None

    @property
    def store(self) -> str:
        """The store's URL as it may be shown."""
        return plain_url(self.config.store.url) if self.config is not None else ""

    @property
    def is_shared(self) -> bool:
        """Whether other machines' routers may use the store."""
        return not self.store.startswith("sqlite")


def target_of(whom: Whom) -> Target:
    """The target of the options -c and --url. Raises Refused, ConfigInvalid, and BadParameter for what is no address."""
    env, url = os.environ, whom.url
    if url is not None and whom.file is None:
        key = env.get(KEY_ENV, "").strip()
        return Target(_remote(_checked(url), key, f"Set {KEY_ENV} to the router's admin key."), None, None)
    path = file_of(whom)
    config = load(path, env).config
    return Target(remote_of(config, url, env), config, path)


def file_of(whom: Whom) -> Path:
    """The configuration file that is meant."""
    return whom.file or Path(os.environ.get("CROSSFADE_CONFIG") or DEFAULT_FILE)


def remote_of(config: Config, url: str | None, env: Mapping[str, str]) -> Remote:
    """The admin API of the router of this configuration; at `url`, if that is given. Raises BadParameter."""
    key_env = config.server.admin.key_env
    try:
        key, hint = operator_key(config, env), f"Set {key_env}, or run this as the user who runs the router"
        hint += f": its key is in {admin_key_file(config.store.url)}."
    except KeyUnusable as unusable:
        key, hint = "", f"{unusable}."
    return _remote(_checked(url) if url is not None else address_of(config), key, hint)


def address_of(config: Config) -> str:
    """Where the router of this configuration can be reached from this machine."""
    server, admin = config.server, config.server.admin
    host, port = (admin.host or server.host), (admin.port or server.port)
    try:
        ip = ip_address(host)
        if ip.is_unspecified:
            host = "127.0.0.1" if ip.version == 4 else "::1"
    except ValueError:
        pass  # a name
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _remote(url: str, key: str, hint: str) -> Remote:
    if not all("!" <= character <= "~" for character in key):
        raise Refused(
            f"The admin key holds what no header may carry; it is printable ASCII without blank space. {hint}"
        )
    return Remote(url, key, hint)


def _checked(url: str) -> str:
    """The URL without what people paste behind it. Raises BadParameter."""
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable or "@" in parts.netloc or not (url.isascii() and url.isprintable() and " " not in url):
        raise typer.BadParameter("the address is no URL of a router; write it as http://HOST:PORT.")
    if parts.path.rstrip("/") not in ("", "/v1", "/admin", "/admin/api") or parts.query or parts.fragment:
        raise typer.BadParameter(f"{url} is not the address of a router alone; write it as http://HOST:PORT.")
    return f"{parts.scheme}://{parts.netloc}"
