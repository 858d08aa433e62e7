"""The running configuration as JSON that holds no secret, for whoever compares it with a file."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

from router.admin.status import plain_url
from router.config import Config

HIDDEN = "***"
_SECRET_NAME = re.compile(r"key|token|secret|password|credential", re.IGNORECASE)


def plain_config(config: Config) -> dict[str, Any]:
    """Keys stand in it by the names of their variables alone; a webhook's path, often its secret, as a digest."""
    plain: dict[str, Any] = config.model_dump(mode="json", by_alias=True)
    plain["store"]["url"] = plain_url(config.store.url)
    for backend in plain["backends"].values():
        if backend.get("engine"):
            backend["engine"]["args"] = _without_secrets(backend["engine"]["args"])
    for model in plain["models"].values():
        if model.get("rollout"):
            model["rollout"]["webhooks"] = [_webhook(url) for url in model["rollout"].get("webhooks", ())]
    return plain


def _without_secrets(value: Any) -> Any:
    """Arguments of an engine: those whose names speak of a secret without their values."""
    if isinstance(value, dict):
        return {
            name: HIDDEN if _SECRET_NAME.search(name) and isinstance(each, str) else _without_secrets(each)
            for name, each in value.items()
        }
    return [_without_secrets(each) for each in value] if isinstance(value, list) else value


def _webhook(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/{HIDDEN} (sha256 {sha256(url.encode()).hexdigest()[:12]})"
