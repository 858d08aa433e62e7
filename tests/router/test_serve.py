"""`crossfade serve` as an operator meets it: addresses that cannot be had, a stop that lets running calls finish."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from router.serve import CannotListen, listeners


def test_a_taken_port_is_one_sentence_and_exit_code_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        file = tmp_path / "crossfade.yaml"
        file.write_text(
            f"server: {{port: {port}}}\n"
            "backends: {a: {kind: vllm, url: http://127.0.0.1:9}}\n"
            "models: {jane: {on: {a: m}, split: {a: 1.0}}}\n"
        )
        command = [sys.executable, "-c", "from router.cli import main; main()", "serve", "-c", str(file)]
        ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        f"crossfade: cannot listen on 127.0.0.1:{port}: Address already in use. "
        "Stop the program that has the port, or set server.port to another."
    ]


def test_a_host_that_is_not_here_is_named_in_the_sentence() -> None:
    with pytest.raises(CannotListen, match=r"cannot listen on 192\.0\.2\.1:1"):  # TEST-NET-1: nobody's address
        listeners("192.0.2.1", 1)


def test_every_address_of_a_name_is_bound_and_all_to_one_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    bound = listeners("localhost", port)
    try:
        assert {each.getsockname()[1] for each in bound} == {port}
        assert "127.0.0.1" in {each.getsockname()[0] for each in bound}
    finally:
        for each in bound:
            each.close()
