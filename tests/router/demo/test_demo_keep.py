"""Kept processes: started again with growing pauses, given up in the end, stopped for good."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends.process import Command, SupervisedProcess
from router.demo.faults import DemoFailed
from router.demo.keep import Kept, Patience
from router.demo.progress import Progress

PATIENCE_S = 20.0
TICK_S = 0.01
QUICK = Patience(first_s=0.1, longest_s=0.3, steady_s=60.0, ends=3)

Keep = Callable[..., Kept]


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def keep(tmp_path: Path, lines: list[str]) -> Iterator[Keep]:
    kept: list[Kept] = []

    def start(script: str, patience: Patience = QUICK) -> Kept:
        command = Command("the engine", (sys.executable, "-S", "-c", script), tmp_path / "engine.log", grace_s=1)
        kept.append(Kept("engine", SupervisedProcess(command), Progress(lines.append, threading.Event()), patience))
        return kept[-1]

    yield start
    for each in kept:
        each.stop()


def tick_until(kept: Kept, is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline_s
        kept.tick()
        time.sleep(TICK_S)


def phases(lines: list[str], phase: str) -> list[str]:
    """The texts of this phase; a line is seconds, who, phase, text."""
    return [line.split(maxsplit=4)[4] for line in lines if line.split()[3] == phase]


def test_a_killed_process_is_started_again(keep: Keep, lines: list[str]) -> None:
    kept = keep("import time; time.sleep(600)")
    first = kept.pid
    os.kill(first, signal.SIGKILL)
    tick_until(kept, lambda: kept.pid != first)
    assert phases(lines, "ended") == ["with signal SIGKILL; it is started again in 0.1 s"]
    assert phases(lines, "start") == [f"again, as process {kept.pid}"]


def test_the_pauses_grow_up_to_the_longest_and_then_it_is_given_up(keep: Keep, lines: list[str]) -> None:
    kept = keep("import sys; sys.exit('no such model')")
    with pytest.raises(DemoFailed, match=r"(?s)engine keeps ending, last with exit status 1; its log .*no such model"):
        tick_until(kept, lambda: False)
    assert [text.split()[-2] for text in phases(lines, "ended")] == ["0.1", "0.2", "0.3"]


def test_an_end_after_a_steady_time_counts_as_the_first_again(keep: Keep, lines: list[str]) -> None:
    kept = keep("", Patience(first_s=0.01, longest_s=1.0, steady_s=0.0, ends=1))
    tick_until(kept, lambda: len(phases(lines, "ended")) == 3)
    assert {text.split()[-2] for text in phases(lines, "ended")} == {"0.01"}


def test_a_stopped_process_stays_stopped(keep: Keep, lines: list[str]) -> None:
    kept = keep("import time; time.sleep(600)")
    kept.stop()
    kept.tick()
    kept.stop()
    assert lines == []


def test_a_process_stopped_in_its_pause_is_not_started_again(keep: Keep, lines: list[str]) -> None:
    kept = keep("", Patience(first_s=0.0))
    tick_until(kept, lambda: bool(phases(lines, "ended")))
    kept.stop()
    kept.tick()
    assert phases(lines, "start") == []
