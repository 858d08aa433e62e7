"""One deadline and one budget, whatever the backends do and whenever: the whole router under arbitrary schedules of faults."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from policies.budget import WINDOW_S
from policies.retry import MIN_USEFUL_S, RetryReason
from router.config import loads
from tests.faults.simulated import Ask, Deed, Made, Played, play

PORTS = {"a": 7001, "b": 7002, "c": 7003}
LATE_S = 0.1
PLAIN, RESUMED, HEDGED = "resume: {by: []}", "resume: {by: [align]}", "resume: {by: [align]}\n    hedge: {after_s: 0.2}"
EXAMPLES = 150 * int(os.environ.get("FUZZ_TIMES", "1"))
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
EPSILON_S = 1e-6
KINDS = [
    "ok",
    "500",
    "502",
    "429",
    "503",
    "404",
    "401",
    "400",
    "reset",
    "garbage",
    "silent",
    "break",
    "stall",
    "refuse",
    "drop",
]
REFUSALS = ["429 0", "429 0.4", "429 1", "429 2", "503 0.9", "503 30"]

times = st.sampled_from([0.0, 0.0, 0.01, 0.01, 0.3, 0.95, 1.5, 4.0, 20.0])
deeds = st.builds(Deed, st.sampled_from([*KINDS, "ok", "500", "503", *REFUSALS]), times, times)
schedules = st.fixed_dictionaries({name: st.lists(deeds, min_size=6, max_size=16) for name in PORTS})
asks = st.lists(
    st.builds(
        Ask,
        at_s=st.sampled_from([0.0, 0.0, 0.2, 1.0, 7.0, 30.0]),
        stream=st.booleans(),
        total_s=st.sampled_from([0.05, 1.2, 2.5, 6.0, 30.0, 30.0]),
    ),
    min_size=2,
    max_size=10,
)
rules = st.fixed_dictionaries(
    {
        "attempts_per_backend": st.integers(1, 4),
        "backoff_s": st.sampled_from([[0.001, 0.002], [0.1, 2.0], [1.0, 4.0]]),
        "retry_after_wait_s": st.sampled_from([0.0, 0.5, 1.0, 3.0]),
        "budget_ratio": st.sampled_from([0.0, 0.2, 1.0]),
        "budget_min_per_s": st.sampled_from([0.0, 0.05, 0.3, 3.0]),
    }
)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level("CRITICAL", logger="crossfade"):
        yield


def configured(retry: dict[str, Any], room: int | None, on: str = "abc", more: str = PLAIN) -> Any:
    """These backends behind one model; `more` says how a stream that breaks, or is slow, is carried on."""
    limit = f", max_in_flight: {room}" if room else ""
    backends = "\n".join(
        f"  {name}: {{kind: vllm, url: 'http://127.0.0.1:{port}'{limit}}}" for name, port in PORTS.items()
    )
    said = ", ".join(f"{key}: {value}" for key, value in retry.items())
    times = "connect_s: 0.5, first_token_s: 3, first_token_per_kib_s: 0, between_tokens_s: 2, answer_s: 5, total_s: 60"
    names = ", ".join(f"{name}: m" for name in on)
    split = "{a: 0.6, b: 0.4}" if "c" in on else "{a: 1.0}"
    return loads(
        f"backends:\n{backends}\nmodels:\n  jane:\n    on: {{{names}}}\n    split: {split}\n"
        f"    retry: {{{said}}}\n    timeouts: {{{times}}}\n    stick_by: []\n    {more}\n",
        {},
    ).config


def repeated(played: Played) -> int:
    """How many attempts were made beyond the first of a call on a backend."""
    return len(played.made) - len({(made.call, made.backend) for made in played.made})


def check_deadlines(played: Played) -> None:
    """Every call ends by its deadline, and none but its first attempt is begun with less time than could help.

    The first to begin need not be the first to be decided: a hedge may overtake an attempt that stands in a queue.
    """
    for answered in played.answers:
        assert answered.took_s <= answered.ask.total_s + LATE_S
        assert answered.said, "the client was told nothing"
    late = [made for made in played.made if _left_s(played, made) < MIN_USEFUL_S - EPSILON_S]
    assert all(count == 1 for count in Counter(made.call for made in late).values())
    is_hedged = played.endpoint.fleet.models["jane"].hedge_after_s is not None
    firsts = {made.call: made for made in reversed(played.made)}
    assert is_hedged or all(made is firsts[made.call] for made in late)


def _left_s(played: Played, made: Made) -> float:
    """Seconds to the deadline of its call when an attempt began."""
    answered = played.answers[made.call]
    return answered.began_s + answered.ask.total_s - made.at_s


def check_budget(played: Played, retry: dict[str, Any], *, is_plain: bool = True) -> None:
    """Repeated attempts are paid for, each of them, and never more than there is; others are one for each backend and call."""
    tries = repeated(played)
    allowed = retry["budget_ratio"] * len(played.answers) + retry["budget_min_per_s"] * (played.seconds + WINDOW_S)
    assert tries <= allowed + EPSILON_S
    if is_plain:
        check_payments(played)
    on_each = Counter((made.call, made.backend) for made in played.made)
    assert all(count <= retry["attempts_per_backend"] for count in on_each.values())


def check_payments(played: Played) -> None:
    """Each repeated attempt was paid for when the call's next step was decided."""
    steps = played.endpoint.recorder.metrics.steps
    paid = steps["jane", RetryReason.SAME_BACKEND] + steps["jane", RetryReason.RETRY_AFTER]
    assert repeated(played) <= paid


def check_nothing_is_kept(played: Played) -> None:
    """Gates and counts are as at the start, and each call was closed once."""
    fleet = played.endpoint.fleet
    assert played.endpoint.admission.gate.inside == 0
    assert [backend.gate.inside for backend in fleet.backends.values()] == [0] * len(PORTS)
    assert [replica.in_flight for backend in fleet.backends.values() for replica in backend.replicas] == [0] * len(
        PORTS
    )
    assert sum(played.endpoint.recorder.metrics.calls.values()) == len(played.answers)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), phases=PHASES)
@given(
    schedule=schedules,
    asks=asks,
    retry=rules,
    room=st.sampled_from([None, None, 1, 2]),
    more=st.sampled_from([PLAIN, RESUMED, HEDGED]),
)
def test_whatever_happens_the_deadline_and_the_budget_hold(
    schedule: dict[str, list[Deed]], asks: list[Ask], retry: dict[str, Any], room: int | None, more: str
) -> None:
    played = play(configured(retry, room, more=more), PORTS, schedule, asks)
    event(f"repeated attempts: {min(repeated(played), 5)}")
    check_deadlines(played)
    check_budget(played, retry, is_plain=more == PLAIN)
    check_nothing_is_kept(played)


RETRY = {"attempts_per_backend": 2, "backoff_s": [0.001, 0.002]}


def test_a_retry_that_waited_for_its_place_is_not_begun_with_less_time_than_could_help() -> None:
    """The first call fails and must queue behind the second, which leaves just before the first one's deadline."""
    schedule = {"a": [Deed("500", 0.0), Deed("ok", 4.9)]}
    asks = [Ask(0.0, stream=False, total_s=5.5), Ask(0.0, stream=False, total_s=30.0)]
    played = play(configured(RETRY, 1, on="a"), PORTS, schedule, asks)
    check_deadlines(played)
    assert [made.backend for made in played.made if made.call == 0] == ["a"]


def test_a_hedge_that_finds_its_place_taken_is_not_begun_with_less_time_than_could_help() -> None:
    """Two calls see the same free place at b in the same moment; the one that comes second would get it too late."""
    schedule = {"a": [Deed("silent", 0.0)] * 2, "b": [Deed("ok", 0.05, 0.05), Deed("ok", 0.05)]}
    asks = [Ask(0.0, stream=True, total_s=1.25)] * 2
    played = play(configured({**RETRY, "attempts_per_backend": 1}, 1, on="ab", more=HEDGED), PORTS, schedule, asks)
    late = [made for made in played.made if made.backend == "b" and _left_s(played, made) < MIN_USEFUL_S - EPSILON_S]
    assert [made.backend for made in played.made].count("b") >= 1 and late == []
