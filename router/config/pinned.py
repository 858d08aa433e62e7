"""The keys that a process reads once, when it starts: what a changed file says of them takes effect with the next start."""

from __future__ import annotations

from router.config.root import Config

SERVER = ("host", "port", "workers", "admin", "drain_s")
STORE = ("url",)


def pinned(running: Config, file: Config) -> tuple[Config, tuple[str, ...]]:
    """What of `file` can be in effect where `running` is, and a sentence for each key that has to wait. Their values are not named."""
    server = {key: getattr(running.server, key) for key in SERVER}
    store = {key: getattr(running.store, key) for key in STORE}
    waiting = [f"server.{key}" for key, value in server.items() if getattr(file.server, key) != value]
    waiting += [f"store.{key}" for key, value in store.items() if getattr(file.store, key) != value]
    kept = {"server": file.server.model_copy(update=server), "store": file.store.model_copy(update=store)}
    return file.model_copy(update=kept), tuple(f"{key}: takes effect at the next start" for key in waiting)
