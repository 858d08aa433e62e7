"""A limit on how many may be inside at once, and the queue in front of it: who goes in, who waits, who is turned away.

The whole of it, told the time and without waiting, so that hours of overload can be played in a moment; `router.gate` lets calls stand
in it. A ticket is whatever stands for one that waits.

    a free slot   -> the best class that waits, in order of arrival; a worse one only up to what `kept_free` leaves it
    a full queue  -> one of a better class takes the place of the last of the worst class; else the new one is turned away
    a long wait   -> who would most likely not be let in in time is turned away on arrival (see `policies.admission`)

Source: HAProxy's `maxconn`, `maxqueue` and `timeout queue`; Netflix's load shedding by priority.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from policies.admission import (
    KEPT_FREE_FOR_S,
    KEPT_FREE_FROM_S,
    Pace,
    Priority,
    Refusal,
    RefusalReason,
    kept_free,
    patience_s,
)

T = TypeVar("T")
_NEVER_S = float("-inf")


class Line(Generic[T]):
    """At most `limit` inside and `queue_size` waiting, nobody for longer than `queue_wait_s`."""

    def __init__(self, limit: int, queue_size: int, queue_wait_s: float):
        self.limit = limit
        self.inside = 0
        self.elsewhere = (
            0  # of the `limit`, what others have taken that this line does not let in; only `try_enter` does not ask
        )
        self.waiting = 0
        self.is_timed = False  # somebody found no room, and no slot has become free that nobody wanted since
        self._queue_size = queue_size
        self._queue_wait_s = queue_wait_s
        self._queues: tuple[OrderedDict[T, float], ...] = tuple(OrderedDict() for _ in Priority)
        self._paces = tuple(Pace() for _ in Priority)
        self._lacked_room_s = [_NEVER_S for _ in Priority]
        self._stands_since_s = [_NEVER_S for _ in Priority]

    def requeue(self, queue_size: int, queue_wait_s: float) -> None:
        """Change how many may wait, and how long; who waits already stays."""
        self._queue_size = queue_size
        self._queue_wait_s = queue_wait_s

    def try_enter(self) -> bool:
        """Go in if there is room and nobody else wants it; only for the best class. On False, ask `enters`."""
        if self.inside < self.limit and not self.is_timed:
            self.inside += 1
            return True
        return False

    def enters(self, priority: Priority, now_s: float) -> bool:
        """Go in if there is room for this class."""
        if not self.has_room(priority, now_s):
            return False
        if self.is_timed:  # the room may be what worse ones have left to it, and that is how it stays so
            self._lacked_room_s[priority] = now_s
        self.inside += 1
        return True

    def has_room(self, priority: Priority, now_s: float) -> bool:
        """Whether one of this class would be let in now."""
        return self.inside + self.elsewhere < self._open_to(priority, now_s) and not self._ahead_of(priority)

    def first(self) -> tuple[Priority, float] | None:
        """Who is to be let in next: its class, and since when it waits."""
        for priority, queue in zip(Priority, self._queues, strict=True):
            for since_s in queue.values():
                return priority, since_s
        return None

    def length(self, priority: Priority) -> int:
        """How many of a class wait."""
        return len(self._queues[priority])

    def turns_away(self, priority: Priority, now_s: float, remaining_s: float) -> Refusal | None:
        """Why one that finds no room should not wait, if it should not; `remaining_s` is its own time. Ask before `stand`."""
        self._paces[priority].stands(now_s)
        self._lacked_room_s[priority] = now_s
        self.is_timed = True
        expected_s = self._expected_s(priority, now_s)
        if self.waiting >= self._queue_size and not any(self._queues[priority + 1 :]):
            return Refusal(RefusalReason.QUEUE_FULL, expected_s)
        stands_s = now_s - self._stands_since_s[priority] if self._queues[priority] else 0.0
        limit_s = min(remaining_s, patience_s(self._queue_wait_s, stands_s))
        if limit_s <= 0 or self._at_worst_s(priority, now_s) > limit_s:
            return Refusal(RefusalReason.WAIT_TOO_LONG, expected_s)
        return None

    def stand(self, ticket: T, priority: Priority, now_s: float) -> tuple[T, Refusal] | None:
        """Wait from now on, as the last of the class. In a full queue returns whose place was taken, and its refusal."""
        displaced = self._displaced(now_s) if self.waiting >= self._queue_size else None
        if not self._queues[priority]:
            self._stands_since_s[priority] = now_s
        self._queues[priority][ticket] = now_s
        self.waiting += 1
        return displaced

    def next_in(self, now_s: float) -> T | None:
        """Let one in that waits, if there is room for it. Ask again until None, whenever a slot was given back while `is_timed`."""
        for priority, queue in zip(Priority, self._queues, strict=True):
            if not queue:
                continue
            if self.inside + self.elsewhere >= self._open_to(priority, now_s):
                return None
            ticket, _ = queue.popitem(last=False)
            self.waiting -= 1
            self.inside += 1
            self._paces[priority].moved(now_s, len(queue))
            return ticket
        if self.is_timed and self.inside + self.elsewhere < self.limit:
            self.is_timed = False
            for pace in self._paces:
                pace.moved(now_s, 0)  # had somebody come: a queue that lets nobody wait must learn when that may end
        return None

    def step_out(self, ticket: T) -> bool:
        """Wait no longer; whether it did."""
        for queue in self._queues:
            if ticket in queue:
                del queue[ticket]
                self.waiting -= 1
                return True
        return False

    def expired(self, priority: Priority, now_s: float) -> Refusal:
        """The refusal of one that has waited as long as it could."""
        return Refusal(RefusalReason.EXPIRED, self._expected_s(priority, now_s))

    def _displaced(self, now_s: float) -> tuple[T, Refusal]:
        worst = max(priority for priority in Priority if self._queues[priority])
        ticket, _ = self._queues[worst].popitem()
        self.waiting -= 1
        return ticket, Refusal(RefusalReason.DISPLACED, self._expected_s(worst, now_s))

    def _expected_s(self, priority: Priority, now_s: float) -> float:
        """Seconds until one of this class that comes now would be let in: after all better ones, and those of its own before it."""
        return self._better_s(priority, now_s) + self._paces[priority].expected_s(self.length(priority) + 1, now_s)

    def _at_worst_s(self, priority: Priority, now_s: float) -> float:
        return self._better_s(priority, now_s) + self._paces[priority].at_worst_s(self.length(priority) + 1, now_s)

    def _better_s(self, priority: Priority, now_s: float) -> float:
        return sum(self._paces[better].expected_s(len(self._queues[better]), now_s) for better in range(priority))

    def _ahead_of(self, priority: Priority) -> bool:
        return self.waiting > 0 and any(self._queues[: priority + 1])

    def _open_to(self, priority: Priority, now_s: float) -> int:
        """How many may be inside for one of this class to be let in."""
        for better in range(priority):
            lacked_room = now_s - self._lacked_room_s[better] < KEPT_FREE_FOR_S
            if lacked_room and self._paces[better].expected_s(1, now_s) > KEPT_FREE_FROM_S:
                return self.limit - kept_free(self.limit)
        return self.limit
