"""The configuration that is in effect, for a worker that starts later: what stands in the file by then may be refused, or half written.

A piece of memory without a name, because a configuration may hold the store's password. Every worker writes what it has put in effect; one
that is killed while it writes leaves what nobody takes for a configuration.
"""

from __future__ import annotations

import os
import pickle
from hashlib import blake2b

from router.config import Config
from router.shared import Lock

DIGEST_BYTES = 32
WITHIN_S = 1.0  # it is written in a millisecond


class Accepted:
    """The memory behind `descriptor`."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor
        self._lock = Lock(descriptor, 0, WITHIN_S)

    @classmethod
    def made(cls, config: Config) -> Accepted:
        """New memory, with the configuration of the start."""
        accepted = cls(os.memfd_create("crossfade-accepted"))
        accepted.put(config)
        return accepted

    def put(self, config: Config) -> None:
        """This one is in effect now."""
        data = pickle.dumps(config)
        with self._lock:
            os.pwrite(self.descriptor, _digest(data) + data, 0)
            os.ftruncate(self.descriptor, DIGEST_BYTES + len(data))

    def last(self) -> Config | None:
        """The one that is in effect; None where its writer was killed in the middle of it."""
        with self._lock:
            found = os.pread(self.descriptor, os.fstat(self.descriptor).st_size, 0)
        data = found[DIGEST_BYTES:]
        if found[:DIGEST_BYTES] != _digest(data):
            return None
        config: Config = pickle.loads(data)  # noqa: S301 (written by this program, and reachable for nobody else)
        return config


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=DIGEST_BYTES).digest()
