"""One of several workers: the process that `router.workers` starts. It inherits its sockets and learns the rest by a file without a name.

Run as `python -m router.worker DESCRIPTOR`.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from router.config import Config
from router.logs import set_up_logging
from router.serve import run
from router.team import Place, Team


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is to do: serve this configuration, on the `listeners` (descriptors), from its place among the others.

    `file`: where the configuration comes from.
    """

    config: Config
    file: Path
    listeners: tuple[int, ...]
    place: Place


def handed(task: Task) -> int:
    """A descriptor to read the task from; it holds keys of the store, perhaps, and has no name."""
    descriptor = os.memfd_create("crossfade-task")
    os.write(descriptor, pickle.dumps(task))
    return descriptor


def main(descriptor: int) -> None:
    """Serve until told to stop."""
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        task: Task = pickle.load(file)  # noqa: S301 (written by the supervisor, and reachable for nobody else)
    set_up_logging()
    run(task.config, os.environ, [socket.socket(fileno=each) for each in task.listeners], task.file, Team(task.place))


if __name__ == "__main__":
    main(int(sys.argv[1]))
