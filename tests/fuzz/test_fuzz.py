"""Readers of foreign bytes, fed with their corpus and with what comes of it by cutting, repeating and splicing.

`FUZZ_TIMES=100` (as `make fuzz` sets it) makes a hundred times as many. What was found goes into `corpus/TARGET/`, and is fed to it at
every run from then on.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
FILES = sorted(path for path in CORPUS.rglob("*") if path.is_file())
TIMES = int(os.environ.get("FUZZ_TIMES", "1"))
SLOW = {"head": 60, "config": 60}  # a whole router, a whole file; the others read thousands of inputs a second
PIECES = [
    b"data: ", b"event: ", b"\n", b"\r\n", b"\r", b"\n\n", b":", b"\0", b"\xff", b"\xef\xbb\xbf", b'"', b"\\u0000", b"\\", b"{", b"}",
    b"[[[[", b"]", b",", b"null", b"1e999", b"-1", b"99999999999999999999", b"NaN", b"true", b" ", b"\t", b"%2e", b"..", b"//",
    b"HTTP/1.1", b"chunked", b"0\r\n\r\n", b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n", b"Host: x\r\n",
    b"GMT", b"Sun, ", b"\xe2\x82", b"--x", b"${A}", b"&a *a",
]  # fmt: skip

edits = st.tuples(
    st.integers(0, 5000), st.integers(0, 40), st.sampled_from(PIECES) | st.binary(max_size=6), st.integers(1, 3)
)


def edited(data: bytes, changes: list[tuple[int, int, bytes, int]], other: bytes) -> bytes:
    """`data` with some bytes taken out and some put in, and perhaps the rest of another."""
    for position, cut, piece, times in changes:
        position %= len(data) + 1
        data = data[:position] + piece * times + data[position + cut :]
    return data + other


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(CORPUS)) for path in FILES])
def test_the_corpus_holds(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_comes_is_read_or_refused(name: str) -> None:
    seeds = [path.read_bytes() for path in FILES if path.parent.name == name]

    @settings(max_examples=SLOW.get(name, 300) * TIMES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.builds(edited, st.sampled_from(seeds), st.lists(edits, max_size=5), st.just(b"") | st.sampled_from(seeds))
    )
    def holds(data: bytes) -> None:
        TARGETS[name](data)

    holds()


def test_every_target_has_a_corpus() -> None:
    assert {path.parent.name for path in FILES} == set(TARGETS)
