"""What the machine has to offer, read from the machine itself."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from router.demo.machine import free_disk_bytes, free_memory_bytes, free_ports, is_taken


def test_free_memory_is_some_of_what_there_is() -> None:
    total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < free_memory_bytes() < total_bytes


def test_free_disk_is_told_for_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert free_disk_bytes(tmp_path / "not" / "yet") > 0


def test_free_ports_are_all_different_and_free() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert not any(is_taken("127.0.0.1", port) for port in ports)


def test_a_port_that_somebody_listens_on_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert is_taken("127.0.0.1", server.getsockname()[1])


def test_a_port_that_somebody_listens_on_for_every_address_is_taken() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        assert is_taken("127.0.0.1", server.getsockname()[1])
