"""The configuration: a YAML file, read into frozen models, or refused with every problem in it."""

from router.config.backend import BackendConfig, BackendTimeouts, Engine
from router.config.loading import Loaded, content_of, load, load_content, load_whereabouts, loads
from router.config.pinned import pinned
from router.config.problems import ConfigInvalid, Problem
from router.config.references import is_loopback
from router.config.rollout import Bake, Gate, Gates, Rollout, Shadow, Step
from router.config.root import Config
from router.config.routing import (
    Accept,
    Eject,
    Hedge,
    ModelConfig,
    OnBackend,
    Resume,
    Retry,
    Rule,
    Timeouts,
    When,
)
from router.config.server import Admin, ClientKeys, Server, Store

__all__ = [
    "Accept",
    "Admin",
    "BackendConfig",
    "BackendTimeouts",
    "Bake",
    "ClientKeys",
    "Config",
    "ConfigInvalid",
    "Eject",
    "Engine",
    "Gate",
    "Gates",
    "Hedge",
    "Loaded",
    "ModelConfig",
    "OnBackend",
    "Problem",
    "Resume",
    "Retry",
    "Rollout",
    "Rule",
    "Server",
    "Shadow",
    "Step",
    "Store",
    "Timeouts",
    "When",
    "content_of",
    "is_loopback",
    "load",
    "load_content",
    "load_whereabouts",
    "loads",
    "pinned",
]
