"""Progress: lines with who and what, commands whose failure is told with their last words, waits that end when asked."""

from __future__ import annotations

import math
import sys
import threading
from pathlib import Path

import pytest

from backends.process import Command, SupervisedProcess
from router.demo.faults import Stopped, Unavailable
from router.demo.progress import Progress, Steps, last_line


def steps(logs: Path, lines: list[str], stopping: threading.Event | None = None) -> Steps:
    return Steps("engine", Progress(lines.append, stopping or threading.Event()), logs)


def test_a_line_has_the_time_who_and_what() -> None:
    lines: list[str] = []
    Progress(lines.append, threading.Event()).say("lmstudio", "load", "its log is here")
    assert lines == ["    0 s  lmstudio   load      its log is here"]


def test_where_nobody_can_read_any_more_it_is_time_to_stop() -> None:
    def closed(_: str) -> None:
        raise BrokenPipeError

    progress = Progress(closed, threading.Event())
    progress.say("demo", "load", "hello?")
    assert progress.stopping.is_set()


def test_a_command_that_succeeds_is_one_line_and_a_log(tmp_path: Path) -> None:
    lines: list[str] = []
    steps(tmp_path, lines).run("install", "installing", sys.executable, "-S", "-c", "print('fine')")
    assert len(lines) == 1 and lines[0].endswith("installing")
    assert (tmp_path / "engine-install.log").read_text() == "fine\n"


def test_a_command_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    script = "import sys; print('no space left'); sys.exit(3)"
    with pytest.raises(Unavailable, match=r"(?s)installing ended with exit status 3; its log .*no space left"):
        steps(tmp_path, []).run("install", "installing", sys.executable, "-S", "-c", script)


def test_the_log_of_an_earlier_run_is_not_mistaken_for_this_one(tmp_path: Path) -> None:
    for word in ("first", "second"):
        steps(tmp_path, []).run("install", "installing", sys.executable, "-S", "-c", f"print('{word}')")
    assert (tmp_path / "engine-install.log").read_text() == "second\n"


def test_a_command_ends_at_once_when_asked_to_stop(tmp_path: Path) -> None:
    stopping = threading.Event()
    asked = threading.Timer(0.2, stopping.set)
    asked.start()
    with pytest.raises(Stopped):
        steps(tmp_path, [], stopping).run(
            "install", "installing", sys.executable, "-S", "-c", "import time; time.sleep(600)"
        )
    asked.join()


def test_a_wait_that_is_over_at_once_says_nothing(tmp_path: Path) -> None:
    lines: list[str] = []
    steps(tmp_path, lines).wait("load", lambda: True, lambda: "news")
    assert lines == []


def test_a_wait_is_given_up_with_the_news(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"engine did not get through the phase 'load' in 0 s: nobody listens"):
        steps(tmp_path, []).wait("load", lambda: False, lambda: "nobody listens", 0.0)


def test_a_long_wait_tells_the_news_now_and_then(tmp_path: Path) -> None:
    lines: list[str] = []
    often = Steps("engine", Progress(lines.append, threading.Event()), tmp_path, say_again_s=0.01)
    often.wait("load", lambda: len(lines) >= 2, lambda: "half of it is there", math.inf)
    assert all(line.endswith("… 0 s; half of it is there") for line in lines)


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("", "it has said nothing yet"),
        ("first\nlast\n", "last"),
        ("10 %\r50 %\r90 %", "90 %"),
        ("50 %\r90 %\r", "90 %"),
        ("x" * 200, "x" * 99 + "…"),
    ],
    ids=[
        "nothing -> a word about that",
        "lines -> the last",
        "a bar -> where it is now",
        "a bar that returns to its begin -> the same",
        "a long line -> as much as a screen takes",
    ],
)
def test_the_last_line_for_a_screen(tmp_path: Path, output: str, line: str) -> None:
    script = f"import sys; sys.stdout.write({output!r})"
    with SupervisedProcess(Command("engine", (sys.executable, "-S", "-c", script), tmp_path / "log")) as process:
        process.wait(20)
        assert last_line(process) == line
