"""What no single key can tell: names that must exist, shares that must add up, doors that must not stand open.

The checks read the plain values, not the validated models, so that they find everything
at once however much else is wrong; where a value is of the wrong type, they pass it over.
"""

from __future__ import annotations

import ipaddress
import math
import re
import ssl
from collections.abc import Collection, Iterable, Iterator, Mapping

from router.config import doors
from router.config.document import Tree
from router.config.problems import Finding, KeyPath
from router.config.wording import did_you_mean

_CONVENTIONAL = re.compile(r"[A-Z_][A-Z0-9_]*")

SUM_TOLERANCE = 1e-6  # three shares of 0.333333 are meant to be one


def findings(tree: Tree, env: Mapping[str, str]) -> Iterator[Finding]:
    """Everything that is wrong between keys."""
    backends = _mapping(_at(tree, "backends"))
    yield from _exposure(_at(tree, "server"), env)
    yield from _clients(_at(tree, "server"), env)
    yield from doors.findings(_mapping(_at(tree, "server")), env)
    for name, backend in backends.items():
        yield from _backend(("backends", name), _mapping(backend), env)
    for name, model in _mapping(_at(tree, "models")).items():
        yield from _model(("models", name), _mapping(model), backends)


def warnings(tree: Tree, env: Mapping[str, str]) -> Iterator[Finding]:
    """What is allowed and yet worth a sentence."""
    server = _mapping(_at(tree, "server"))
    for index, network in enumerate(_texts(server.get("allow_from"))):
        remedy = "Make sure that nobody else is in that network, or give keys with keys_env."
        message = f"lets every client in {network} in without a key."
        yield Finding(("server", "allow_from", index), message, remedy)
    variable = server.get("keys_env")
    if isinstance(variable, str) and not has_keys(variable, env):
        message = f"names the variable {_variable_name(variable)}, which is not set: clients need no key."
        yield Finding(("server", "keys_env"), message, "Set it to one or more keys, comma-separated, if they should.")
    yield from doors.warnings(server, env)
    for name, backend in _mapping(_at(tree, "backends")).items():
        if _mapping(backend).get("verify") is False:
            message = "is false: whoever is in between can read and change what is sent."
            yield Finding(("backends", name, "verify"), message, "Name the authority in ca_file instead.")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on this host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def has_keys(variable: str, env: Mapping[str, str]) -> bool:
    """Whether the variable holds at least one key."""
    return any(key.strip() for key in env.get(variable, "").split(","))


def _exposure(server: Tree, env: Mapping[str, str]) -> Iterator[Finding]:
    values = _mapping(server)
    host, variable = values.get("host"), values.get("keys_env", "CROSSFADE_KEYS")
    if not isinstance(host, str) or is_loopback(host) or values.get("allow_from"):
        return
    if isinstance(variable, str) and has_keys(variable, env):
        return
    name = _variable_name(variable) if isinstance(variable, str) else "CROSSFADE_KEYS"
    message = f"is {host[:60]}; Crossfade refuses to listen beyond loopback without keys or allow_from."
    yield Finding(
        ("server", "host"),
        message,
        f"Set the variable {name} to the clients' keys, or name their networks in allow_from.",
    )


def _clients(server: Tree, env: Mapping[str, str]) -> Iterator[Finding]:
    values = _mapping(server)
    clients = values.get("clients")
    for index, client in enumerate(clients if isinstance(clients, list) else ()):
        yield from _variable(("server", "clients", index, "key_env"), _mapping(client).get("key_env"), env)
    admin = _mapping(values.get("admin"))
    yield from _variable(("server", "admin", "viewer_key_env"), admin.get("viewer_key_env"), env)
    for name in ("key_env", "viewer_key_env"):
        default = "CROSSFADE_ADMIN_KEY" if name == "key_env" else None
        yield from _key(("server", "admin", name), admin.get(name, default), env)


def _variable(path: KeyPath, name: Tree, env: Mapping[str, str]) -> Iterator[Finding]:
    if isinstance(name, str) and name.isidentifier() and not has_keys(name, env):
        shown = _variable_name(name)
        message = f"names the variable {shown}, which is not set."
        yield Finding(path, message, f"Set the variable {shown} to the key, or remove {path[-1]}.")


def _key(path: KeyPath, name: Tree, env: Mapping[str, str]) -> Iterator[Finding]:
    """A key is sent in a header; blank space at its ends, as files of secrets have it, is dropped."""
    key = env.get(name, "").strip() if isinstance(name, str) else ""
    if not all("!" <= character <= "~" for character in key):
        message = f"names the variable {_variable_name(str(name))}, whose value holds what no header may carry."
        yield Finding(path, message, "Set it to the key alone: printable ASCII without blank space.")


def _authority(path: KeyPath, file: Tree) -> Iterator[Finding]:
    if not isinstance(file, str):
        return
    try:
        ssl.create_default_context(cafile=file)
    except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
        reason = exc.strerror if isinstance(exc, OSError) and not isinstance(exc, ssl.SSLError) else "no PEM file"
        yield Finding(path, f"is {file!r}, which cannot be used: {reason}.", "Name a PEM file with certificates.")


def _variable_name(name: str) -> str:
    """The variable's name if it looks like one; people paste the secret itself, and secrets are not repeated."""
    return name if _CONVENTIONAL.fullmatch(name) else "that it names"


def _backend(path: KeyPath, backend: dict[str, Tree], env: Mapping[str, str]) -> Iterator[Finding]:
    kind = backend.get("kind")
    given = [key for key in ("url", "urls") if backend.get(key)]
    if kind == "litellm":
        for key in given:
            yield Finding(
                (*path, key), "has no meaning for kind litellm.", "Name the provider instead, or use kind openai."
            )
        if not backend.get("provider"):
            yield Finding(path, "has no provider.", "Add provider: LiteLLM's name of it, such as openai or anthropic.")
    elif backend:
        if backend.get("provider"):
            yield Finding(
                (*path, "provider"), "has a meaning for kind litellm only.", "Remove it, or set kind: litellm."
            )
        if not given:
            yield Finding(path, "has no address.", "Add url: http://HOST:PORT, or urls: [...] for several replicas.")
    if len(given) == 2:
        yield Finding((*path, "urls"), "stands beside url.", "Keep one of the two: urls if there are several replicas.")
    if backend.get("engine") and kind != "vllm":
        yield Finding((*path, "engine"), "has a meaning for kind vllm only.", "Remove it, or set kind: vllm.")
    if backend.get("ca_file") and backend.get("verify") is False:
        yield Finding((*path, "ca_file"), "is of no use while verify is false.", "Remove verify, or ca_file.")
    yield from _twice((*path, "urls"), [url.rstrip("/").removesuffix("/v1") for url in _texts(backend.get("urls"))])
    yield from _variable((*path, "key_env"), backend.get("key_env"), env)
    yield from _key((*path, "key_env"), backend.get("key_env"), env)
    yield from _authority((*path, "ca_file"), backend.get("ca_file"))


def _model(path: KeyPath, model: dict[str, Tree], backends: Collection[str]) -> Iterator[Finding]:
    served_by = _mapping(model.get("on"))
    for name in served_by:
        yield from _known((*path, "on", name), name, backends, "`backends`")
    yield from _split((*path, "split"), _mapping(model.get("split")), served_by)
    for key, value in _uses(model):
        if isinstance(value, str):
            yield from _known((*path, *key), value, served_by, "this model's `on`")
    yield from _twice((*path, "fallback"), _texts(model.get("fallback")))
    yield from _twice((*path, "stick_by"), _texts(model.get("stick_by")))
    yield from _twice((*path, "resume", "by"), _texts(_mapping(model.get("resume")).get("by")))


def _uses(model: dict[str, Tree]) -> Iterator[tuple[KeyPath, Tree]]:
    """Every place in a model that names a backend, beside `on` and `split`."""
    fallback, rules = model.get("fallback"), model.get("rules")
    for index, name in enumerate(fallback if isinstance(fallback, list) else ()):
        yield ("fallback", index), name
    for index, rule in enumerate(rules if isinstance(rules, list) else ()):
        yield ("rules", index, "use"), _mapping(rule).get("use")
    yield ("shadow", "to"), _mapping(model.get("shadow")).get("to")
    for key in ("baseline", "candidate"):
        yield ("rollout", key), _mapping(model.get("rollout")).get(key)


def _split(path: KeyPath, split: dict[str, Tree], served_by: Collection[str]) -> Iterator[Finding]:
    for name in split:
        yield from _known((*path, name), name, served_by, "this model's `on`")
    shares = [_number(share) for share in split.values()]
    numbers = [share for share in shares if share is not None and math.isfinite(share)]
    if split and len(numbers) == len(shares) and abs(math.fsum(numbers) - 1) > SUM_TOLERANCE:
        total = math.fsum(numbers)
        verb = "Raise" if total < 1 else "Lower"
        message = f"sums to {total:.10g}; shares must sum to 1."
        yield Finding(path, message, f"{verb} one of them by {abs(total - 1):.10g}.")


def _known(path: KeyPath, name: str, known: Collection[str], where: str) -> Iterator[Finding]:
    if name in known or not known:  # an empty list of names is a finding of its own
        return
    remedy = did_you_mean(name, known) or f"Name one of {', '.join(list(known)[:8])}, or add {name[:60]} to {where}."
    yield Finding(path, f"names the backend {name[:60]!r}, which is not in {where}.", remedy)


def _twice(path: KeyPath, names: Iterable[str]) -> Iterator[Finding]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield Finding(path, f"names {name[:60]!r} twice.", "Remove one of the two.")
        seen.add(name)


def _at(tree: Tree, key: str) -> Tree:
    return _mapping(tree).get(key)


def _mapping(tree: Tree) -> dict[str, Tree]:
    return tree if isinstance(tree, dict) else {}


def _texts(tree: Tree) -> list[str]:
    return [item for item in tree if isinstance(item, str)] if isinstance(tree, list) else []


def _number(tree: Tree) -> float | None:
    if isinstance(tree, bool) or not isinstance(tree, int | float | str):
        return None
    try:
        return float(tree)
    except (ValueError, OverflowError):
        return None
