"""What this machine has to offer: memory, disk, processor, ports."""

from __future__ import annotations

import platform
import shutil
import socket
import sys
from pathlib import Path

GB = 1_000_000_000  # as disks and downloads are sold and shown


def free_disk_bytes(folder: Path) -> int:
    """Free space where `folder` is, or will be."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(existing).free


def free_memory_bytes() -> int:
    """What processes can still have, within the limits of a container too. Linux only."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    fields = {name: int(rest.split()[0]) * 1024 for name, rest in (line.split(":") for line in lines)}
    return min(fields["MemAvailable"], _left_in_container())


def _left_in_container() -> int:
    """The control group's limit less what is in use and cannot be dropped."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        rows = (line.split() for line in (group / "memory.stat").read_text().splitlines())
        droppable = next(int(value) for name, value in rows if name == "inactive_file")
    except (OSError, StopIteration):
        return sys.maxsize
    return sys.maxsize if limit == "max" else int(limit) - used + droppable


def missing_for_engines() -> str:
    """Why the wheels of the engines cannot run here, or nothing: they are built for Linux on x86-64 with AVX2."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"its wheels are for Linux on x86-64, and this is {platform.system()} on {platform.machine()}"
    if " avx2 " not in Path("/proc/cpuinfo").read_text().replace("\n", " "):
        return "this processor has no AVX2"
    return ""


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on, all different."""
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


def is_taken(host: str, port: int) -> bool:
    """Whether somebody listens there already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a port in TIME_WAIT is free
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False
