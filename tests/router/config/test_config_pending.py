"""Keys that are accepted and not in effect yet are said to be so, exactly where they are set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from router.config import Loaded
from router.config.pending import PENDING, Pending, notices
from router.config.shape import keys

Load = Callable[..., Loaded]

# Every row, as it is in the table now: a value that is not in effect, at a path of the small configuration.
SET: dict[str, tuple[str, Any]] = {
    "store.keep_days": ("store/keep_days", 3),
    "store.keep_bodies": ("store/keep_bodies", "all"),
    "store.redact": ("store/redact", ["[0-9]{16}"]),
    "backends.*.kind": ("backends/cloud", {"kind": "litellm", "provider": "openai"}),
    "backends.*.engine": ("backends/vllm/engine", {"model": "m"}),
    "models.*.rollout": ("models/jane/rollout", {"baseline": "lmstudio", "candidate": "vllm"}),
    "models.*.shadow": ("models/jane/shadow", {"to": "vllm", "share": 0.1}),
}


@pytest.mark.parametrize("row", PENDING, ids=lambda row: row.key)
def test_each_pending_key_is_noticed_when_it_is_set(load_with: Load, row: Pending) -> None:
    path, value = SET[row.key]
    found = load_with({path: value}, {"HOME_KEY": "x"}).notices
    assert len(found) == 1
    assert "not in effect in this version" in found[0].message
    assert found[0].remedy == row.instead


@pytest.mark.parametrize("row", PENDING, ids=lambda row: row.key)
def test_each_pending_key_is_a_key_of_the_configuration(row: Pending) -> None:
    known = {key.path for key in keys()}
    assert row.key in known


@pytest.mark.parametrize(
    "tree",
    [
        {"server": {"workers": 1, "clients": [{"key_env": "HOME_KEY", "may_pin": True, "priority": "batch"}]}},
        {"backends": {"a": {"kind": "vllm", "on_client_gone": "cancel"}}},
        {"models": {"a": {"hedge": None, "resume": {"by": []}, "sampling": {"temperature": 0.7}}}},
        {"models": []},
        None,
    ],
    ids=["what is in effect", "the usual backend", "what is switched off", "what is not a mapping", "nothing"],
)
def test_what_changes_nothing_is_not_noticed(tree: Any) -> None:
    assert list(notices(tree)) == []
