"""The overhead bench: a small turn of it gives every figure that it promises. How fast anything is, is not asserted."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from bench.overhead.goals import verdicts
from bench.overhead.harness import CannotRun, harness
from bench.overhead.measure import DIFFERENCE, Measured, Spread, Summary, measure, summarize
from bench.overhead.plan import Plan
from bench.overhead.proxies import PROXIES, Proxy, Setup
from bench.overhead.table import remarks, table

TINY = Plan(rounds=2, calls_s=0.2, rest_s=0.05, streams=10, chunks=10, gap_us=2000, streams_s=0.2, soak_calls=50)
NOT_OF_DIRECT = {"start_s", "memory_at_start_bytes", "memory_after_calls_bytes", "memory_after_soak_bytes",
                 "call_1k_cpu_s", "call_32k_cpu_s", "chunk_cpu_s"}  # fmt: skip

needs_a_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="the harness is compiled: apt-get install gcc")


def silent(_text: str) -> None:
    """Nobody watches."""


@needs_a_compiler
def test_a_small_run_of_crossfade_and_direct_measures_every_figure_of_every_round() -> None:
    names = ["direct", "crossfade-pass", "crossfade"]
    rounds = measure(TINY, [PROXIES[name] for name in names], silent)
    assert [list(found) for found in rounds] == [names] * 2
    for number, found in enumerate(rounds):
        missing = {"memory_after_soak_bytes"} if number else set()  # only the first round soaks
        assert without_a_figure(found["crossfade"]) == without_a_figure(found["crossfade-pass"]) == missing
        assert without_a_figure(found["direct"]) == NOT_OF_DIRECT
        assert found["crossfade"].failed == found["direct"].failed == 0
    summary = summarize(rounds)
    figures = summary["crossfade"]
    assert figures["memory_at_start_bytes"].median > 1e6
    assert figures["start_s"].lowest <= figures["start_s"].median <= figures["start_s"].highest
    lines = table(summary).splitlines()
    assert [line.split("  ")[0] for line in lines[3:]] == [*names, DIFFERENCE]
    said = [line.partition(":")[0] for line in verdicts(summary)]
    assert {"calls/s, one worker", f"CPU us per paced chunk, {DIFFERENCE}"} <= set(said)
    assert not [line for line in remarks(summary) if "failed" in line]


@needs_a_compiler
def test_a_proxy_that_answers_under_a_wrong_name_is_not_measured() -> None:
    crossfade = PROXIES["crossfade"]
    wrong = Proxy("wrong", crossfade.command, model="another-name")
    with pytest.raises(CannotRun, match="wrong answers wrongly: 10 chunks, 0 with its name for the model"):
        measure(TINY, [wrong], silent)


@needs_a_compiler
def test_a_proxy_that_ends_at_once_is_reported_with_what_it_said() -> None:
    def command(_setup: Setup) -> list[str]:
        return ["/bin/sh", "-c", "echo no license found; exit 3"]

    with pytest.raises(CannotRun, match=r"(?s)broken does not answer \(status 3\).*no license found"):
        measure(TINY, [Proxy("broken", command)], silent)


@needs_a_compiler
def test_an_upstream_that_somebody_ended_is_not_taken_for_a_proxy_that_fails(tmp_path: Path) -> None:
    with harness(TINY, tmp_path) as driven:
        driven.check()
        driven.upstream.terminate()
        driven.upstream.wait()
        with pytest.raises(CannotRun, match="the scripted upstream ended with status -15"):
            driven.check()


def test_goals_compare_crossfade_with_the_others_of_the_same_run_and_leave_out_what_the_run_does_not_say() -> None:
    summary: Summary = {
        "nginx": {"chunk_cpu_s": Spread(20e-6, 18e-6, 22e-6)},
        "crossfade": {"chunk_cpu_s": Spread(30e-6, 28e-6, 35e-6), "calls_per_s": Spread(4999, 4000, 6000)},
    }
    assert verdicts(summary) == [
        "CPU per paced chunk / nginx: 1.50 (first stage <= 1.60 met, aim <= 1.30 MISSED)",
        "calls/s, one worker: 4999 (first stage >= 5000 MISSED, aim >= 12000 MISSED)",
    ]


def test_what_the_flagship_path_costs_over_bare_pass_through_is_taken_round_by_round() -> None:
    bare = [measured(100e-6, 20e-6), measured(140e-6, 22e-6), measured(100e-6, 20e-6)]
    ours = [measured(120e-6, 25e-6), measured(180e-6, 30e-6), measured(131e-6, 26e-6)]
    summary = summarize([{"crossfade-pass": b, "crossfade": o} for b, o in zip(bare, ours, strict=True)])
    assert summary[DIFFERENCE]["call_1k_cpu_s"].median == pytest.approx(31e-6)
    assert verdicts({DIFFERENCE: summary[DIFFERENCE]}) == [
        "CPU us per call of 1 KB, crossfade - crossfade-pass: 31.0 (first stage <= 30.0 MISSED)",
        "CPU us per paced chunk, crossfade - crossfade-pass: 6.0 (first stage <= 6.0 met)",
    ]
    assert DIFFERENCE not in summarize([{"crossfade": ours[0]}])


def measured(call_cpu_s: float, chunk_cpu_s: float) -> Measured:
    """A round of which only these matter."""
    other = dict.fromkeys(Measured.__struct_fields__, 0.0)
    return Measured(**{**other, "call_1k_cpu_s": call_cpu_s, "call_32k_cpu_s": call_cpu_s, "chunk_cpu_s": chunk_cpu_s})


def without_a_figure(measured: Measured) -> set[str]:
    """The names of the figures that were not measured."""
    return {name for name, value in msgspec.structs.asdict(measured).items() if value is None}
