"""No text and no value makes loading fail in any other way than with problems that can be printed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from router.config import ConfigInvalid, Loaded, loads

Load = Callable[..., Loaded]
UNHURRIED = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],  # the fixture has no state
)

WORDS = r"backends models jane on split : - { } [ ] , &a *a << ! !!str | > ' # ${ ${A} --- ... ? \x \U 1 0.5 .nan true ~ @ ` é"
BREAKS = ['"', ": ", "- ", "\n", "\n  ", "\t", "%YAML 9.9\n", "%TAG ! x\n", "\ufeff", "\x85", "\u2028"]
PIECES = st.sampled_from([*WORDS.split(" "), *BREAKS])


@UNHURRIED
@given(st.one_of(st.text(max_size=200), st.lists(PIECES, max_size=40).map("".join)))
@example("%YAML 1.1\n---\na: 1")
@example('"\\U7FFFFFFF"')
@example("? a\n? a")
@example("a: \ud800")
def test_no_text_makes_it_fail_in_another_way(text: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        loads(text, {"A": "x"})
    assert caught.value.problems
    str(caught.value).encode("utf-8")


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
TOP_PLACES = "server store models server/hosts server/allow_from server/clients backends/vllm backends/vllm/url backends/vllm/timeouts"
JANE_KEYS = "on split rules fallback stick_by sampling retry shadow rollout resume"
PLACES = st.sampled_from([*TOP_PLACES.split(" "), *(f"models/jane/{key}" for key in JANE_KEYS.split(" "))])


@UNHURRIED
@given(PLACES, JSONISH)
def test_no_value_at_any_place_makes_it_fail_in_another_way(load_with: Load, place: str, value: object) -> None:
    with contextlib.suppress(ConfigInvalid):
        load_with({place: value})
