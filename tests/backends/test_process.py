"""Supervised processes: nothing outlives its supervisor, by whatever death, and the last words are kept."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from backends import guardian
from backends.process import CannotStart, Command, EndedEarly, NotReady, SupervisedProcess

PATIENCE_S = 20.0

# A process with a child in its group, a child in a session of its own, and an orphan of a child that is gone.
FAMILY = """
    import os, subprocess, sys, time
    sleep = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
    here = subprocess.Popen(sleep)
    away = subprocess.Popen(sleep, start_new_session=True)
    orphan = subprocess.run(
        [sys.executable, "-S", "-c",
         f"import subprocess; print(subprocess.Popen({sleep!r}, start_new_session=True, stdout=2).pid)"],
        stdout=subprocess.PIPE, text=True).stdout
    print("family", os.getpid(), here.pid, away.pid, orphan, flush=True)
    time.sleep(600)
"""
DEAF = """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("family", __import__("os").getpid(), flush=True)
    time.sleep(600)
"""
POLITE = """
    import signal, sys, time
    signal.signal(signal.SIGTERM, lambda *_: (print("good bye", flush=True), sys.exit(7)))
    print("family", __import__("os").getpid(), flush=True)
    while True: time.sleep(600)
"""
# Supervises the script of its third argument, then waits to be killed.
SUPERVISOR = """
    import sys, time
    from pathlib import Path
    from backends.process import Command, SupervisedProcess
    command = Command("engine", (sys.executable, "-S", "-c", sys.argv[2]), Path(sys.argv[1]), grace_s=2)
    with SupervisedProcess(command):
        time.sleep(600)
"""


Run = Callable[..., SupervisedProcess]


def script(text: str) -> str:
    return textwrap.dedent(text)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with ExitStack() as started:

        def start(text: str, grace_s: float = 10.0) -> SupervisedProcess:
            argv = (sys.executable, "-S", "-c", script(text))
            command = Command("the engine", argv, tmp_path / "engine.log", grace_s=grace_s)
            return started.enter_context(SupervisedProcess(command))

        yield start


def family(log: Path) -> list[int]:
    """The process ids that the script wrote, as soon as it has."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        for line in log.read_text().splitlines() if log.exists() else ():
            if line.startswith("family "):
                return [int(pid) for pid in line.split()[1:]]
        time.sleep(0.01)
    raise AssertionError(f"{log} never named the family")


def is_gone(pid: int, timeout_s: float = PATIENCE_S) -> bool:
    """Whether the process ends in time."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watched], [], [], timeout_s)[0])
    finally:
        os.close(watched)


def assert_gone(pids: list[int]) -> None:
    assert [pid for pid in pids if not is_gone(pid)] == []


def guardian_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def test_stopping_ends_all_that_the_process_ever_started(run: Run) -> None:
    engine = run(FAMILY)
    pids = family(engine.command.log)
    assert len(pids) == 4
    assert engine.stop() == -signal.SIGTERM
    assert_gone(pids)


def test_a_killed_main_process_takes_its_descendants_with_it(run: Run) -> None:
    engine = run(FAMILY)
    pids = family(engine.command.log)
    os.kill(engine.pid, signal.SIGKILL)
    assert engine.wait(PATIENCE_S) == -signal.SIGKILL
    assert_gone(pids)


def test_kill_9_of_the_supervisor_leaves_nothing(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    supervisor = subprocess.Popen([sys.executable, "-c", script(SUPERVISOR), str(log), script(FAMILY)])
    pids = family(log)
    watcher = guardian_of(pids[0])
    supervisor.kill()
    supervisor.wait()
    assert_gone([*pids, watcher])


def test_kill_9_of_the_supervisor_ends_a_process_that_ignores_sigterm(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    supervisor = subprocess.Popen([sys.executable, "-c", script(SUPERVISOR), str(log), script(DEAF)])
    pids = family(log)
    supervisor.kill()
    supervisor.wait()
    assert_gone(pids)


def test_kill_9_of_the_guardian_ends_the_process(run: Run) -> None:
    engine = run(DEAF)
    pids = family(engine.command.log)
    os.kill(guardian_of(pids[0]), signal.SIGKILL)
    assert_gone(pids)
    engine.stop()


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace(run: Run) -> None:
    engine = run(DEAF, grace_s=0.3)
    family(engine.command.log)
    began_s = time.monotonic()
    assert engine.stop() == -signal.SIGKILL
    assert time.monotonic() - began_s >= 0.3


def test_a_process_may_end_in_its_own_way_and_stopping_again_is_harmless(run: Run) -> None:
    engine = run(POLITE)
    family(engine.command.log)
    assert engine.stop() == 7
    assert engine.stop() == 7
    assert engine.last_lines()[-1] == "good bye"


def test_leaving_the_block_stops_it(run: Run) -> None:
    with run(FAMILY) as engine:
        assert engine.status is None
        pids = family(engine.command.log)
    assert_gone(pids)


def test_the_log_tail_is_the_last_lines_of_a_long_log(run: Run) -> None:
    with run("for i in range(100_000): print('line', i)") as engine:
        assert engine.wait(PATIENCE_S) == 0
    assert engine.last_lines(2) == ["line 99998", "line 99999"]


def test_a_missing_command_is_said_in_a_sentence(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(CannotStart, match=rf"the engine cannot be started: No such file or directory: {missing}"):
        SupervisedProcess(Command("the engine", (str(missing),), tmp_path / "engine.log"))


def test_a_process_that_ends_before_it_is_ready_leaves_its_last_words(run: Run) -> None:
    with (
        run("import sys; sys.exit('no such model')") as engine,
        pytest.raises(EndedEarly, match=r"(?s)ended with exit status 1 before it was ready.*no such model"),
    ):
        engine.wait_until(lambda: False, PATIENCE_S)


def test_a_process_that_is_never_ready_is_given_up(run: Run) -> None:
    with run(DEAF, grace_s=0) as engine, pytest.raises(NotReady, match=r"was not ready after 0\.1 s"):
        engine.wait_until(lambda: False, 0.1)


def test_a_ready_process_is_not_waited_for(run: Run) -> None:
    with run(POLITE) as engine:
        engine.wait_until(lambda: True, 0.0)


def test_no_descriptor_is_left_open(run: Run) -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    with run(POLITE):
        pass
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_a_process_that_stands_still_is_stopped_all_the_same(run: Run) -> None:
    engine = run(FAMILY, grace_s=0.2)
    pids = family(engine.command.log)
    for pid in pids:
        hold(pid)
    assert engine.stop() == -signal.SIGKILL
    assert_gone(pids)


def test_a_ctrl_c_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    """The guardian is held until the signal is there: it comes while the main thread waits for its report."""
    before_tests = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored where a shell runs the tests in the background
    log = tmp_path / "engine.log"
    argv = (sys.executable, "-S", "-c", script(DEAF), str(log))
    held: list[int] = []

    def interrupt() -> None:
        held.append(until(lambda: guardian_with(str(log))))
        hold(held[0])
        until(lambda: state_of(os.getpid()) == "S")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        os.kill(held[0], signal.SIGCONT)

    before = sorted(Path("/proc/self/fd").iterdir())
    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            SupervisedProcess(Command("the engine", argv, log, grace_s=0))
    finally:
        interrupter.join()
        signal.signal(signal.SIGINT, before_tests)
    assert_gone(held)
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def until(found: Callable[[], int]) -> int:
    """What is found as soon as it is not nothing."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        if it := found():
            return it
    raise AssertionError(f"{found} found nothing")


def guardian_with(argument: str) -> int:
    """The guardian among our children whose command has this argument, 0 while there is none."""
    for listed in Path("/proc/self/task").glob("*/children"):
        for child in listed.read_text().split():
            words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
            if guardian.__file__ in words and argument in words:
                return int(child)
    return 0


def hold(pid: int) -> None:
    """SIGSTOP, and wait for its effect: of two signals that wait for a busy process the lower number comes first."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: state_of(pid) == "T")


def state_of(pid: int) -> str:
    """S asleep, T held, and the others of proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
