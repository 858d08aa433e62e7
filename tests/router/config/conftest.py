"""A small valid configuration, and variations of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from router.config import ConfigInvalid, Loaded, Problem, loads

Load = Callable[..., Loaded]
Problems = Callable[..., tuple[Problem, ...]]

SMALL: dict[str, Any] = {
    "backends": {
        "lmstudio": {"kind": "lmstudio", "url": "http://127.0.0.1:1234"},
        "vllm": {"kind": "vllm", "urls": ["http://127.0.0.1:8001", "http://127.0.0.1:8002"]},
    },
    "models": {
        "jane": {
            "on": {"lmstudio": "openai/gpt-oss-20b", "vllm": "unsloth/gpt-oss-20b"},
            "split": {"lmstudio": 0.95, "vllm": 0.05},
        }
    },
}
GONE = "<gone>"  # as a value: the key is taken out


def varied(changes: Mapping[str, Any]) -> str:
    """The small configuration with values put at paths such as `models/jane/split`."""
    tree = copy.deepcopy(SMALL)
    for path, value in changes.items():
        *parents, last = path.split("/")
        at: Any = tree
        for part in parents:
            at = at.setdefault(part, {})
        if value == GONE:
            del at[last]
        else:
            at[last] = value
    return json.dumps(tree, indent=1).replace("Infinity", ".inf").replace("NaN", ".nan")  # as YAML writes them


@pytest.fixture
def load_with() -> Load:
    """Loads the small configuration with changes."""

    def load(changes: Mapping[str, Any] | None = None, env: Mapping[str, str] | None = None) -> Loaded:
        return loads(varied(changes or {}), env or {})

    return load


@pytest.fixture
def problems_with(load_with: Load) -> Problems:
    """The problems of the small configuration with changes."""

    def problems(changes: Mapping[str, Any], env: Mapping[str, str] | None = None) -> tuple[Problem, ...]:
        with pytest.raises(ConfigInvalid) as caught:
            load_with(changes, env)
        return caught.value.problems

    return problems
