"""The whole configuration."""

from __future__ import annotations

from pydantic import Field

from router.config.backend import BackendConfig
from router.config.parts import BackendName, PublicName, Section
from router.config.routing import ModelConfig
from router.config.server import Server, Store


class Config(Section):
    """Configuration of Crossfade: backends that answer, and models that are served from them."""

    server: Server = Field(default_factory=Server, description="Where Crossfade listens and whom it lets in.")
    store: Store = Field(default_factory=Store, description="What is kept of the calls, where and for how long.")
    backends: dict[BackendName, BackendConfig] = Field(
        min_length=1, description="Servers that can answer calls, each under a name of your choice."
    )
    models: dict[PublicName, ModelConfig] = Field(
        min_length=1, description="Models that clients can ask for, by their public names."
    )
