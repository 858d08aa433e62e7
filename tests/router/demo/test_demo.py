"""`crossfade demo` end to end on real llama.cpp servers: one URL, two engines, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from policies.ejection import State
from router.demo.asking import ask, curl_line, states
from router.demo.cache import cache_root
from tests.engines.engine import wait_until
from tests.family import Member, family, left_of
from tests.router.demo.running import COMMAND, STOP_S, RunningDemo, running_demo
from tests.serving import free_port

pytestmark = [pytest.mark.llama, pytest.mark.timeout(120)]

USERS = [
    f"user-{number}" for number in range(8)
]  # a split is a matter of names, not of luck: these are on both sides of this one
BOTH = {"lmstudio": State.IN_ROTATION, "standin": State.IN_ROTATION}


def has_both(demo: RunningDemo) -> bool:
    return states(demo.url) == BOTH


def homes(demo: RunningDemo) -> dict[str, str]:
    """Who answers each user."""
    return {user: ask(demo.url, user).backend for user in USERS}


@contextmanager
def demo_of_both(folder: Path) -> Iterator[RunningDemo]:
    with running_demo(folder, "llama") as demo:
        wait_until(lambda: has_both(demo), "both engines are in rotation")
        yield demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDemo]:
    """One for all that leave it well."""
    with demo_of_both(tmp_path_factory.mktemp("demo")) as demo:
        yield demo


@pytest.fixture
def own_demo(tmp_path: Path) -> Iterator[RunningDemo]:
    """One to end."""
    with demo_of_both(tmp_path) as demo:
        yield demo


def members_of(demo: RunningDemo) -> list[Member]:
    """All that the demo has started: two engines and Crossfade, each with its guardian."""
    members = family(demo.process.pid)
    assert len(members) >= 7
    return members


def test_both_engines_answer_through_the_one_url(demo: RunningDemo) -> None:
    assert demo.summary["url"] == f"{demo.url}/v1"
    assert [row["name"] for row in demo.summary["backends"]] == ["lmstudio", "standin"]
    assert set(homes(demo).values()) == {"lmstudio", "standin"}


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here to paste the line into")
def test_the_line_to_paste_works_when_pasted(demo: RunningDemo) -> None:
    ran = subprocess.run(["bash", "-c", curl_line(demo.url)], capture_output=True, text=True, check=True)
    head, body = ran.stdout.split("\n\n", 1)  # curl -i writes CRLF, text mode reads it as one line end
    assert head.startswith("HTTP/1.1 200") and "x-crossfade-backend: " in head
    assert json.loads(body)["model"] == "smollm2"


def test_a_killed_engine_is_started_again_and_nobody_is_lost_meanwhile(demo: RunningDemo) -> None:
    at_home = homes(demo)
    engine = demo.summary["backends"][0]
    os.kill(engine["pid"], signal.SIGKILL)
    assert set(homes(demo).values()) <= {"lmstudio", "standin"}
    wait_until(lambda: homes(demo) == at_home, "everybody is at home again")
    assert "lmstudio   ended     with signal SIGKILL; it is started again in 1 s" in demo.said()
    assert "lmstudio   start     again, as process" in demo.said()


def test_a_killed_router_is_started_again(demo: RunningDemo) -> None:
    router = next(
        member for member in family(demo.process.pid) if "main() serve" in member.line and "guardian" not in member.line
    )
    os.kill(router.pid, signal.SIGKILL)
    wait_until(lambda: "crossfade  start     again" in demo.said() and has_both(demo), "Crossfade is there again")
    assert ask(demo.url, "user-0").backend in BOTH


def test_ctrl_c_stops_everything_that_it_started(own_demo: RunningDemo) -> None:
    members = members_of(own_demo)
    assert own_demo.interrupt() == 0
    assert left_of(members, timeout_s=0.0) == []
    assert own_demo.said().endswith("nothing is left running\n")


def test_kill_9_of_the_demo_leaves_nothing_behind(own_demo: RunningDemo) -> None:
    members = members_of(own_demo)
    own_demo.process.kill()
    assert left_of(members) == []


def test_ctrl_c_right_after_the_start_stops_what_has_been_begun(tmp_path: Path) -> None:
    env = {"CROSSFADE_CACHE": str(tmp_path / "empty")}
    demo = RunningDemo(tmp_path, "llama", env)
    wait_until(lambda: "making an environment" in demo.said(), "the installation has begun")
    members = family(demo.process.pid)
    assert demo.interrupt() == 0
    demo.process.communicate()
    assert left_of(members, timeout_s=0.0) == []
    assert [
        place.name for place in (tmp_path / "empty" / "engines").iterdir() if place.suffix not in (".lock", ".partial")
    ] == []


def test_a_taken_port_is_said_in_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = subprocess.run(
            [*COMMAND, "--engines", "llama", "--port", str(port)], capture_output=True, text=True, check=False
        )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == (
        f"The demo cannot go on: port {port} is taken by another program; stop it, or choose one with --port\n"
    )


def test_output_that_nobody_reads_any_more_stops_the_demo() -> None:
    command = [*COMMAND, "--engines", "llama", "--port", str(free_port())]
    demo = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert demo.stdout is not None and demo.stderr is not None
    demo.stdout.readline()
    members = family(demo.pid)
    demo.stdout.close()
    with demo.stderr:
        assert demo.stderr.read() == b""
    assert demo.wait(STOP_S) == 0
    assert left_of(members, timeout_s=0.0) == []


@pytest.mark.usefixtures("demo")  # after it llama.cpp is in the cache
def test_where_vllm_cannot_be_installed_a_second_llama_server_stands_in(tmp_path: Path) -> None:
    """No index to install from, and llama.cpp alone in the cache."""
    (tmp_path / "cache" / "engines").mkdir(parents=True)
    for built in (cache_root(os.environ) / "engines").glob("llama-*[0-9a-f]"):
        (tmp_path / "cache" / "engines" / built.name).symlink_to(built)
    nowhere = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": "",
        "PIP_CONFIG_FILE": os.devnull,
        "TORCH_INDEX": "http://127.0.0.1:9/whl",
    }
    with running_demo(tmp_path, "vllm", {"CROSSFADE_CACHE": str(tmp_path / "cache"), **nowhere}) as demo:
        wait_until(lambda: has_both(demo), "the stand-in is in rotation")
        assert set(homes(demo).values()) == {"lmstudio", "standin"}
        said = demo.said()
        assert (
            "vllm       given up  vLLM cannot run here: asking the package index for torch ended with exit status 1"
            in said
        )
        assert "http://127.0.0.1:9/whl does not answer" in said
        assert "ready     a second llama.cpp server, standing in for vLLM, on http://127.0.0.1:" in said
        assert demo.interrupt() == 0
