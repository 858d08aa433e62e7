"""Whom a command speaks to: the router of a configuration file, or the one at a URL; with which key, and whose store it may use."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import typer

from router.admin.keys import KeyUnusable, admin_key_file, read_key
from router.admin.status import plain_url
from router.cli.options import DEFAULT_FILE, Whom
from router.cli.remote import NotThere, Refused, Remote
from router.config import Config, ConfigInvalid, Server, Store, load, load_whereabouts

KEY_ENV = "CROSSFADE_ADMIN_KEY"


@dataclass(frozen=True, slots=True)
class Target:
    """A router. `config`: its configuration; None where that is not at hand or, as `problem` says, cannot be used."""

    remote: Remote
    config: Config | None = None
    problem: str = ""

    @property
    def store(self) -> str:
        """The store's URL as it may be shown."""
        return plain_url(self.config.store.url) if self.config is not None else ""

    @property
    def is_shared(self) -> bool:
        """Whether other machines' routers may use the store."""
        return not self.store.startswith("sqlite")

    def its_config(self, gone: NotThere) -> Config:
        """The configuration, for doing without the router. Raises Refused where that cannot be."""
        if self.config is None:
            raise Refused(f"{gone.said}; its store is left alone: {self.problem}", gone.code) if self.problem else gone
        return self.config


def target_of(whom: Whom) -> Target:
    """The target of the options -c and --url. Raises Refused, ConfigInvalid, and BadParameter for what is no address."""
    env, url = os.environ, whom.url
    if url is not None and whom.file is None:
        key = env.get(KEY_ENV, "").strip()
        return Target(_remote(_checked(url), key, f"Set {KEY_ENV} to the router's admin key."))
    path = file_of(whom)
    try:
        config = load(path, env).config
    except ConfigInvalid as invalid:  # no reason to keep anybody from taking a shift back
        return Target(remote_of(load_whereabouts(path, env), url, env), problem=str(invalid.problems[0]))
    return Target(remote_of((config.server, config.store), url, env), config)


def file_of(whom: Whom) -> Path:
    """The configuration file that is meant."""
    return whom.file or Path(os.environ.get("CROSSFADE_CONFIG") or DEFAULT_FILE)


def remote_of(whereabouts: tuple[Server, Store], url: str | None, env: Mapping[str, str]) -> Remote:
    """The admin API of the router with these sections; at `url`, if that is given. Raises Refused and BadParameter."""
    server, store = whereabouts
    kept, key = admin_key_file(store.url), env.get(server.admin.key_env, "").strip()
    hint = f"Set {server.admin.key_env}, or run this as the user who runs the router: its key is in {kept}."
    try:
        key = key or read_key(kept)
    except KeyUnusable as unusable:
        hint = f"{unusable}."
    return _remote(_checked(url) if url is not None else address_of(server), key, hint)


def address_of(server: Server) -> str:
    """Where the admin API of this router can be reached from this machine."""
    admin = server.admin
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
