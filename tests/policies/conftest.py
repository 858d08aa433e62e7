"""Calls as the tests of policies need them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from policies.facts import CallFacts

PLAIN = CallFacts(
    model="jane", kind="chat", headers={}, stream=False, tools=False, prompt_bytes=1000, user=None, messages=b""
)


@pytest.fixture
def call() -> Callable[..., CallFacts]:
    """A plain chat call of `jane`, with the differences that are given."""

    def different(**differences: Any) -> CallFacts:
        return msgspec.structs.replace(PLAIN, **differences)

    return different
