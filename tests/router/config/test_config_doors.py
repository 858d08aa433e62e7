"""Keys that would open two doors, and listeners that would take each other's port, are refused with one sentence that repeats no key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from router.config import Loaded, Problem

Load = Callable[..., Loaded]
Problems = Callable[..., tuple[Problem, ...]]

LONG = "a-key-that-is-as-long-as-a-random-one"
OTHER = "another-key-that-is-as-long-as-that-one"
VIEWER = {"server/admin": {"viewer_key_env": "V"}}
GROUP = {"server/clients": [{"key_env": "TEAM"}]}


@pytest.mark.parametrize(
    ("changes", "env", "key"),
    [
        ({}, {"CROSSFADE_ADMIN_KEY": LONG, "CROSSFADE_KEYS": f"x, {LONG} "}, "server.admin.key_env"),
        (GROUP, {"CROSSFADE_ADMIN_KEY": LONG, "TEAM": f"{LONG},y"}, "server.admin.key_env"),
        (VIEWER, {"CROSSFADE_ADMIN_KEY": LONG, "V": OTHER, "CROSSFADE_KEYS": OTHER}, "server.admin.viewer_key_env"),
        (VIEWER, {"CROSSFADE_ADMIN_KEY": LONG, "V": LONG}, "server.admin.viewer_key_env"),
    ],
    ids=["among the clients' keys", "a group's key", "the viewer's is a client's", "the viewer's is the operator's"],
)
def test_a_key_opens_one_door_only(
    problems_with: Problems, changes: dict[str, Any], env: dict[str, str], key: str
) -> None:
    (problem,) = problems_with(changes, env)
    assert problem.key == key
    assert LONG not in str(problem) and OTHER not in str(problem)


def test_keys_of_their_own_are_no_problem_and_a_short_one_is_worth_a_sentence(load_with: Load) -> None:
    env = {"CROSSFADE_ADMIN_KEY": LONG, "V": OTHER, "CROSSFADE_KEYS": "x"}
    assert load_with(VIEWER, env).notices == ()
    (notice,) = load_with(VIEWER, {**env, "V": "short"}).notices
    assert (notice.key, "can be guessed" in notice.message) == ("server.admin.viewer_key_env", True)


def test_an_admin_key_that_no_header_may_carry_is_a_problem(problems_with: Problems) -> None:
    (problem,) = problems_with({}, {"CROSSFADE_ADMIN_KEY": "two words"})
    assert (problem.key, "two words" in str(problem)) == ("server.admin.key_env", False)


@pytest.mark.parametrize("admin", [{"host": "0.0.0.0"}, {"host": "::", "port": 8000}], ids=["no port", "the same port"])
def test_an_admin_listener_on_all_addresses_needs_another_port(problems_with: Problems, admin: dict[str, Any]) -> None:
    (problem,) = problems_with({"server/admin": admin}, {})
    assert (problem.key, problem.remedy) == ("server.admin.host", "Set server.admin.port to another port.")


@pytest.mark.parametrize(
    "admin",
    [{"host": "0.0.0.0", "port": 8001}, {"host": "10.0.0.1"}, {}],
    ids=["another port", "another address", "none"],
)
def test_listeners_that_are_apart_are_no_problem(load_with: Load, admin: dict[str, Any]) -> None:
    assert load_with({"server/admin": admin}, {}).notices == ()
