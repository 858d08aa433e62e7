"""Numbers that all workers of one router share: each worker writes its own part of a number, and reads the sum of all parts.

A piece of memory that the supervisor makes and hands down by its descriptor; it has no name, so nothing is left of it whoever is killed.

    a worker's words   its pid, how often it was started, whether it serves, and when it was last at work on those that wait in it
    a counter          its name (a digest), two words that belong to all, and for each worker its part and who is first in its queue

Words are 64 bits, written and read whole. No lock is needed to read a sum or to make one's own part smaller. Who would go up to a limit
takes the counter's lock (of the byte range that the counter lies in: the kernel lets go of it when its holder is killed), and nobody waits
long for it: a worker that was stopped while it held one costs the others a place, not their loops.

Far below the limit even the lock is left out. Each worker adds one at a time, and before it reads the sum; so at most one of each other
worker may not be seen in it yet, and a sum that leaves so many places free is no risk. Worked numbers: four workers, 512 places: up to
509 without a lock. Four workers, 4 places: with the lock from the second on.

A worker that died leaves its parts behind; the supervisor clears them before the next one starts.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from hashlib import blake2b
from types import TracebackType

WORD_BYTES = 8
COUNTERS = 4096  # a few for each backend and each group of clients; what is not used costs no memory
LOCK_WITHIN_S = 0.005  # held for microseconds; longer only by a worker whose processor was taken away
NAMED_WITHIN_S = 5.0  # at the start, where nobody is kept waiting

_PID, _STARTS, _SERVES, _BEAT = range(4)
_OF_WORKER = 8  # words; a cache line
_OF_ALL = 4  # words of a counter before the workers' parts: two of its name, two for all
NAMES = 0  # the lock of whoever looks for a counter's place


class NoMoreCounters(Exception):
    """More names were asked for than there is room for; the message is a sentence."""


class Lock:
    """Of one byte of the memory: `with lock as has_it`. False where it cannot be had soon."""

    __slots__ = ("_at", "_descriptor", "_has_it", "_within_s")

    def __init__(self, descriptor: int, at: int, within_s: float = LOCK_WITHIN_S):
        self._within_s = within_s
        self._descriptor = descriptor
        self._at = at
        self._has_it = False

    def __enter__(self) -> bool:
        until_s = time.monotonic() + self._within_s
        while True:
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._at)
            except BlockingIOError:
                if time.monotonic() > until_s:
                    return False
                os.sched_yield()
            else:
                self._has_it = True
                return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._has_it:
            self._has_it = False
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, self._at)


class Shared:
    """The memory behind `descriptor` as worker `me` of `workers` sees it; the supervisor is none of them."""

    def __init__(self, descriptor: int, workers: int, me: int = -1):
        self.descriptor = descriptor
        self.workers = workers
        self.me = me
        self._of_counter = _OF_ALL + 2 * workers
        self._records = range(
            _OF_WORKER * workers, _OF_WORKER * workers + COUNTERS * self._of_counter, self._of_counter
        )
        self.words = memoryview(mmap.mmap(descriptor, self._records.stop * WORD_BYTES)).cast("q")

    @classmethod
    def made(cls, workers: int) -> Shared:
        """New and empty memory, as the supervisor sees it."""
        descriptor = os.memfd_create("crossfade-workers")
        os.ftruncate(descriptor, (_OF_WORKER * workers + COUNTERS * (_OF_ALL + 2 * workers)) * WORD_BYTES)
        return cls(descriptor, workers)

    def counter(self, name: str) -> Counter:
        """The counter of this name, the same one for every worker. Raises NoMoreCounters."""
        digest = memoryview(blake2b(name.encode(), digest_size=2 * WORD_BYTES).digest()).cast("q").tolist()
        with Lock(self.descriptor, NAMES, NAMED_WITHIN_S) as has_it:
            for start in self._records if has_it else ():
                named = self.words[start : start + 2]
                if not any(named):
                    named[0], named[1] = digest
                if named.tolist() == digest:
                    return Counter(self, start)
        raise NoMoreCounters(f"{name}: there is no room for one more limit over all workers; restart the router")

    def clear(self, worker: int) -> None:
        """Take back all that a worker had, which is no more."""
        self.words[_OF_WORKER * worker + _SERVES] = 0
        for start in self._records:
            if not any(self.words[start : start + 2]):
                return
            self.words[start + _OF_ALL + worker] = 0
            self.words[start + _OF_ALL + self.workers + worker] = 0

    def started(self, worker: int, pid: int) -> None:
        """A worker was started, for the first time or again."""
        self.words[_OF_WORKER * worker + _PID] = pid
        self.words[_OF_WORKER * worker + _STARTS] += 1

    def serves(self) -> None:
        """This worker takes calls from now on."""
        self.words[_OF_WORKER * self.me + _SERVES] = 1

    def is_serving(self, worker: int) -> bool:
        """Whether a worker takes calls."""
        return bool(self.words[_OF_WORKER * worker + _SERVES])

    def pid(self, worker: int) -> int:
        """The process that is this worker, or was the last to be it."""
        return self.words[_OF_WORKER * worker + _PID]

    def restarts(self, worker: int) -> int:
        """How often a worker has been started anew."""
        return max(0, self.words[_OF_WORKER * worker + _STARTS] - 1)

    def beat(self) -> None:
        """This worker is at work on those that wait in it."""
        self.words[_OF_WORKER * self.me + _BEAT] = time.monotonic_ns()

    def is_beating(self, worker: int, within_s: float) -> bool:
        """Whether a worker was at work on those that wait in it, lately."""
        return time.monotonic_ns() - self.words[_OF_WORKER * worker + _BEAT] <= within_s * 1e9


class Counter:
    """A number with a part for each worker. `state`: two words for all of them, read and written under the `lock` alone."""

    __slots__ = ("_firsts", "_margin", "_me", "_parts", "lock", "shared", "state")

    def __init__(self, shared: Shared, start: int):
        parts = start + _OF_ALL
        self.shared = shared
        self.lock = Lock(shared.descriptor, start * WORD_BYTES)
        self.state = shared.words[start + 2 : parts]
        self._parts = shared.words[parts : parts + shared.workers]
        self._firsts = shared.words[parts + shared.workers : parts + 2 * shared.workers]
        self._me = shared.me
        self._margin = shared.workers - 1

    def total(self) -> int:
        """The sum of all parts."""
        return sum(self._parts)

    def add(self, more: int) -> None:
        """Change this worker's own part. Who adds under the lock looks at the total afterwards, and takes back what has no room."""
        self._parts[self._me] += more

    def takes(self, limit: int) -> bool:
        """Take one of `limit`, if there is one left."""
        parts, me = self._parts, self._me
        parts[me] += 1
        if sum(parts) <= limit - self._margin:
            return True
        with self.lock as has_it:
            if has_it and sum(parts) <= limit:
                return True
            parts[me] -= 1
        return False

    # -- who waits -----------------------------------------------------------------------------

    def stands_first(self, key: int) -> None:
        """Who is first in this worker's queue: the smaller the key, the sooner it is to be let in; 0: nobody waits."""
        self._firsts[self._me] = key

    def anybody_waits(self) -> bool:
        """Whether somebody waits in any worker."""
        return any(self._firsts)

    def first_elsewhere(self, within_s: float) -> tuple[int, int] | None:
        """The smallest key of the other workers and whose it is; of those alone that were at work on it `within_s`."""
        found = [
            (key, worker)
            for worker, key in enumerate(self._firsts)
            if key and worker != self._me and self.shared.is_beating(worker, within_s)
        ]
        return min(found, default=None)


class Part:
    """What one object of this worker has in a counter; another one, built from a newer configuration, has its own in the same."""

    __slots__ = ("counter", "told")

    def __init__(self, counter: Counter):
        self.counter = counter
        self.told = 0

    def tell(self, count: int) -> None:
        """It is `count` from now on."""
        if count != self.told:
            self.counter.add(count - self.told)
            self.told = count

    def takes(self, limit: int) -> bool:
        """One more, if all together stay within `limit`."""
        if not self.counter.takes(limit):
            return False
        self.told += 1
        return True

    def elsewhere(self) -> int:
        """What all the others have."""
        return self.counter.total() - self.told
