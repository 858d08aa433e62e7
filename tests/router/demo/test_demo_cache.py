"""The cache of engines: built once, whole or not at all, whoever else is at it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from router.demo.cache import built, cache_root, cleared, fingerprint
from router.demo.faults import Stopped
from router.demo.progress import Progress, Steps

# Builds the place of its first argument, says so, and finishes when its input ends.
BUILDER = """
import sys, threading
from pathlib import Path
from router.demo.cache import built
from router.demo.progress import Progress, Steps
place = Path(sys.argv[1])
def build(partial):
    partial.mkdir()
    print("building", flush=True)
    sys.stdin.read()
    (partial / "by").write_text("the other process")
built(place, build, Steps("other", Progress(print, threading.Event()), place.parent))
"""


class Said:
    """What was said, and an event for the first word."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.stopping = threading.Event()
        self.spoke = threading.Event()

    def steps(self, logs: Path) -> Steps:
        return Steps("engine", Progress(self._take, self.stopping), logs)

    def _take(self, line: str) -> None:
        self.lines.append(line)
        self.spoke.set()


@pytest.fixture
def other(tmp_path: Path) -> subprocess.Popen[bytes]:
    """Another process in the middle of building `tmp_path / "engine"`."""
    command = [sys.executable, "-c", BUILDER, str(tmp_path / "engine")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"building\n"
    return process


@pytest.mark.parametrize(
    ("env", "root"),
    [
        ({"CROSSFADE_CACHE": "/own", "XDG_CACHE_HOME": "/xdg"}, "/own"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/crossfade"),
        ({"CROSSFADE_CACHE": ""}, str(Path.home() / ".cache/crossfade")),
        ({"CROSSFADE_CACHE": "~/engines"}, str(Path.home() / "engines")),
    ],
    ids=["its own variable -> that folder", "XDG's -> a folder in it", "nothing -> ~/.cache", "a tilde -> the home"],
)
def test_where_the_cache_is(env: Mapping[str, str], root: str) -> None:
    assert cache_root(env) == Path(root).resolve()


def test_other_pins_live_elsewhere(tmp_path: Path) -> None:
    pins = tmp_path / "pins.txt"
    pins.write_text("engine==1")
    first = fingerprint(pins)
    assert fingerprint(pins) == first
    pins.write_text("engine==2")
    assert fingerprint(pins) != first


def test_a_place_is_built_once(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "engine"
    builds: list[Path] = []

    def build(partial: Path) -> None:
        builds.append(partial)
        cleared(partial)

    assert built(place, build, Said().steps(tmp_path)) == place
    assert built(place, build, Said().steps(tmp_path)) == place
    assert len(builds) == 1 and place.is_dir() and not builds[0].exists()


def test_an_interrupted_build_is_no_place_and_hands_on_what_it_left(tmp_path: Path) -> None:
    place = tmp_path / "engine"

    def dies(partial: Path) -> None:
        (cleared(partial) / "half").touch()
        raise Stopped

    found: list[str] = []

    def goes_on(partial: Path) -> None:
        found.extend(file.name for file in partial.iterdir())

    with pytest.raises(Stopped):
        built(place, dies, Said().steps(tmp_path))
    assert not place.exists()
    built(place, goes_on, Said().steps(tmp_path))
    assert found == ["half"] and place.is_dir()


def test_cleared_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "engine" / "old").mkdir(parents=True)
    assert list(cleared(tmp_path / "engine").iterdir()) == []


def never(partial: Path) -> None:
    raise AssertionError(f"{partial} was built twice")


def cleared_by_us(partial: Path) -> None:
    (cleared(partial) / "by").write_text("us")


def test_who_comes_second_waits_and_builds_nothing(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    said = Said()
    with other:
        waits = threading.Thread(target=lambda: built(tmp_path / "engine", never, said.steps(tmp_path)))
        waits.start()
        assert other.stdin is not None
        waits.join(0.3)
        assert waits.is_alive() and not (tmp_path / "engine").exists()
        other.stdin.close()
        waits.join(10)
        assert not waits.is_alive()
    assert (tmp_path / "engine" / "by").read_text() == "the other process"


def test_who_waits_can_be_stopped(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    said = Said()
    said.stopping.set()
    with other, pytest.raises(Stopped):
        built(tmp_path / "engine", never, said.steps(tmp_path))


def test_a_killed_builder_holds_nobody_up(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    with other:
        other.kill()
    place = built(tmp_path / "engine", cleared_by_us, Said().steps(tmp_path))
    assert (place / "by").read_text() == "us"
