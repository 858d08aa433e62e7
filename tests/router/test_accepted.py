"""What is in effect, as it is left for whoever starts later: the last one put there, and never half of one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from router.accepted import Accepted
from router.config import Config, loads


def config(*models: str) -> Config:
    lines = [f"  {model}: {{on: {{a: real}}, split: {{a: 1.0}}}}" for model in models]
    return loads("\n".join(["backends: {a: {kind: vllm, url: http://127.0.0.1:9}}", "models:", *lines]), {}).config


@pytest.fixture
def accepted() -> Iterator[Accepted]:
    found = Accepted.made(config("jane"))
    yield found
    os.close(found.descriptor)


def test_the_last_one_is_there_whoever_put_it_there(accepted: Accepted) -> None:
    assert accepted.last() == config("jane")
    another = Accepted(accepted.descriptor)
    another.put(config("jane", "john", "jim"))
    assert accepted.last() == config("jane", "john", "jim")
    another.put(config("jim"))
    assert accepted.last() == config("jim"), "shorter than the one before"


def test_one_whose_writer_was_killed_in_the_middle_of_it_is_none(accepted: Accepted) -> None:
    whole = os.pread(accepted.descriptor, 1 << 20, 0)
    accepted.put(config("jane", "john"))
    os.pwrite(accepted.descriptor, whole[: len(whole) // 2], 0)
    assert accepted.last() is None
