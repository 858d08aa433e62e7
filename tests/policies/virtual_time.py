"""Overload in virtual time: calls arrive at a line, are served or turned away, and hours of it pass in a second."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from policies.admission import Priority, RefusalReason
from policies.line import Line


@dataclass(frozen=True, slots=True)
class Arrival:
    """A call that comes at `at_s` and takes `service_s` once it is inside."""

    at_s: float
    service_s: float
    priority: Priority = Priority.INTERACTIVE
    patience_s: float = 1e9


@dataclass(slots=True)
class Seen:
    """What became of a call. `waited_s` is from its arrival until it was let in or turned away."""

    call: Arrival
    waited_s: float = 0.0
    refusal: RefusalReason | None = None
    told_s: float = 0.0
    has_waited: bool = False
    ended_s: float | None = None


@dataclass
class Simulation:
    """Plays arrivals against a line; `queue_wait_s` is the line's own. What happened is in `seen`, in order of arrival."""

    line: Line[int]
    queue_wait_s: float
    seen: list[Seen] = field(default_factory=list)
    most_inside: int = 0
    _events: list[tuple[float, int, int, str]] = field(default_factory=list)
    _count: int = 0

    def play(self, arrivals: list[Arrival]) -> Simulation:
        """All of it, to the last call's end."""
        steps: dict[str, Callable[[float, int], None]] = {
            "arrives": self._arrives,
            "ends": self._ends,
            "expires": self._expires,
        }
        for call in arrivals:
            self.seen.append(Seen(call))
            self._at(call.at_s, len(self.seen) - 1, "arrives")
        while self._events:
            now_s, _, number, what = heapq.heappop(self._events)
            steps[what](now_s, number)
            self.most_inside = max(self.most_inside, self.line.inside)
        return self

    def reasons(self) -> Counter[RefusalReason | None]:
        """How many were turned away for each reason; None: served."""
        return Counter(each.refusal for each in self.seen)

    def served(self, priority: Priority | None = None, since_s: float = 0.0, until_s: float = 1e18) -> list[Seen]:
        """Those of a class that were let in and ended within the time."""
        return [
            each
            for each in self.seen
            if each.ended_s is not None and since_s <= each.ended_s < until_s and priority in (None, each.call.priority)
        ]

    def expired_share(self) -> float:
        """Of those that waited, the share that waited in vain to the end."""
        waited = [each for each in self.seen if each.has_waited]
        return sum(each.refusal is RefusalReason.EXPIRED for each in waited) / max(1, len(waited))

    def _at(self, at_s: float, number: int, what: str) -> None:
        self._count += 1
        heapq.heappush(self._events, (at_s, self._count, number, what))

    def _arrives(self, now_s: float, number: int) -> None:
        seen, line = self.seen[number], self.line
        call = seen.call
        if line.enters(call.priority, now_s):
            self._begin(now_s, number)
            return
        refusal = line.turns_away(call.priority, now_s, call.patience_s)
        if refusal is not None:
            seen.refusal, seen.told_s = refusal.reason, refusal.wait_s
            return
        seen.has_waited = True
        displaced = line.stand(number, call.priority, now_s)
        if displaced is not None:
            other = self.seen[displaced[0]]
            other.refusal, other.told_s, other.waited_s = (
                displaced[1].reason,
                displaced[1].wait_s,
                now_s - other.call.at_s,
            )
        self._at(now_s + min(self.queue_wait_s, call.patience_s), number, "expires")

    def _begin(self, now_s: float, number: int) -> None:
        seen = self.seen[number]
        seen.waited_s = now_s - seen.call.at_s
        self._at(now_s + seen.call.service_s, number, "ends")

    def _ends(self, now_s: float, number: int) -> None:
        self.seen[number].ended_s = now_s
        self.line.inside -= 1
        while (following := self.line.next_in(now_s)) is not None:
            self._begin(now_s, following)

    def _expires(self, now_s: float, number: int) -> None:
        if self.line.step_out(number):
            seen = self.seen[number]
            refusal = self.line.expired(seen.call.priority, now_s)
            seen.refusal, seen.told_s, seen.waited_s = refusal.reason, refusal.wait_s, now_s - seen.call.at_s


def steadily(per_s: float, from_s: float, to_s: float) -> list[float]:
    """Instants of arrival at an even pace."""
    return [from_s + i / per_s for i in range(int((to_s - from_s) * per_s))]
