"""What is known of a backend, by whom, and who is believed."""

from __future__ import annotations

import math

from backends.dialects import Abilities
from router.capabilities import MISSING_S, Capabilities, Configured, Source

OF_KIND = frozenset({"images", "n"})


def known(capabilities: Capabilities) -> dict[str, str]:
    return {name: f"{can} {source.value}" for name, (can, source) in capabilities.known().items()}


def test_the_configuration_beats_what_a_server_says_and_that_beats_its_kind() -> None:
    it = Capabilities(OF_KIND, Configured({"n": True, "embeddings": False}), 1)
    assert known(it) == {"images": "False dialect", "n": "True configured", "embeddings": "False configured"}
    assert it.heard(0, Abilities({"images": True, "n": False, "embeddings": True, "chat": True}))
    assert known(it) == {
        "images": "True probed",
        "n": "True configured",
        "embeddings": "False configured",
        "chat": "True probed",
    }
    assert it.lacks == {"embeddings"}


def test_what_is_heard_again_changes_nothing_and_what_is_no_longer_said_is_forgotten() -> None:
    it = Capabilities(OF_KIND)
    assert it.heard(0, Abilities({"images": True}, 4096)) and not it.heard(0, Abilities({"images": True}, 4096))
    assert it.lacks == {"n"} and it.context() == (4096, Source.PROBED)
    assert it.heard(0, Abilities({}))
    assert it.lacks == OF_KIND and it.context() is None


def test_of_several_replicas_the_one_that_can_do_least_counts_and_the_longest_context() -> None:
    it = Capabilities(frozenset(), replicas=2)
    it.heard(0, Abilities({"images": True}, 4096))
    assert it.lacks == frozenset() and it.context_tokens is None, "the other has not said yet"
    it.heard(1, Abilities({"images": False}, 8192))
    assert it.lacks == {"images"} and it.context_tokens == 8192
    it.heard(0, Abilities({"images": False}, 4096))
    it.heard(1, Abilities({"images": True}, 2048))
    assert it.lacks == {"images"} and it.context_tokens == 4096, "whichever of them it is"
    assert Capabilities(configured=Configured({}, 100)).context() == (100, Source.CONFIGURED)


def test_a_missing_api_is_remembered_for_a_while_and_each_meeting_prolongs_it() -> None:
    it = Capabilities()
    assert it.misses("embeddings", 10.0) and not it.misses("embeddings", 20.0)
    assert it.missing == {"embeddings"} and it.lacks == frozenset(), "it is not the same as what a backend lacks"
    it.forget(20.0 + MISSING_S - 1)
    assert it.missing and it.forgets_at_s == 20.0 + MISSING_S
    it.forget(20.0 + MISSING_S)
    assert not it.missing and it.forgets_at_s == math.inf


def test_an_api_that_the_configuration_promises_is_never_taken_for_missing() -> None:
    it = Capabilities(configured=Configured({"embeddings": True}))
    assert not it.misses("embeddings", 10.0) and not it.missing and it.forgets_at_s == math.inf
