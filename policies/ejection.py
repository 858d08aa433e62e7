"""Whether a replica takes calls: in rotation, ejected for a while, or probing with a single call.

    in rotation --too many failures, or kept out--> ejected --its time is over, or a health probe is well--> probing
         ^                                             ^                                                       |
         |                                             +--------------- its call failed -----------------------+
         +---------------------------------------- its call succeeded -----------------------------------------+

A replica leaves after `consecutive_failures` in a row, or when at least `failure_share` of at least `min_calls` calls within `window_s`
failed; but only where the caller of `failed` lets it go (see `may_eject`: never the last one). It is out for `for_s[0]`, twice as long
each further time, up to `for_s[1]`, give or take a tenth so that replicas don't come back in step. Each `window_s` that it stays in
rotation takes one doubling back. While probing it gets one real call at a time: a health probe alone proves too little.

Worked numbers, for_s (5, 300), window_s 30: out for 5, 10, 20, 40, 80, 160, 300, 300 ... seconds. A backend that is down all day costs
about 300 calls one attempt each, and those move on. One that fails again after 40 s in rotation is out as long as the last time, after
five minutes in rotation as short as the first time.

A health probe that is well brings the probing call forward, so a restarted engine is back within seconds instead of minutes; but only
a probe that saw the failure has something to say about its end. One that was well when the replica tripped is not believed, or a backend
that flaps under a probe that is always well would be in and out with every round of probes. When the call that it brought fails, the
probe has told an untruth (an engine that hangs behind a web server that answers). Until the replica recovers or its probe fails too, only
time brings the next probing call: otherwise one client after the other would wait for a hanging engine.

A replica that came back gets its calls by and by (`policies.ramp`). Whose failures count says `policies.votes`.

A replica whose server no longer has the model is held out: no time brings it back, only `let_go`. Its calls would fail, or, worse, be
answered by the model that happens to be loaded.

Calls that began before the last ejection say nothing about the replica as it is now: a stream that stalled when the engine died is
reported half a minute later, when its successor is well. With `began_s` such late news is left out.

Source: Envoy's outlier detection (5 in a row, base time x ejections, a tenth of which is forgiven by time), Linkerd (a probe is one real
request), resilience4j (a share needs a minimum of calls).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from policies.ramp import ramp_s, weight
from policies.votes import NOBODY, Tally, Voters, have_room, most_votes

JITTER = 0.1  # to each side; Envoy and HAProxy spread by about as much
_SLICES = 6  # the window moves in sixths: it sees between 5/6 and all of window_s, for two list cells a sixth
_MOST_DOUBLINGS = 30  # keeps 2^n a small float; the longest time is reached long before


class State(StrEnum):
    """Where a replica stands."""

    IN_ROTATION = "in_rotation"
    EJECTED = "ejected"
    PROBING = "probing"


class Event(StrEnum):
    """What moves it from one state to another."""

    TRIPPED = "tripped"
    KEPT_OUT = "kept_out"
    HELD_OUT = "held_out"
    TIMER_DUE = "timer_due"
    HEALTH_PROBE_WELL = "health_probe_well"
    CALL_SUCCEEDED = "call_succeeded"
    CALL_FAILED = "call_failed"


# The whole machine. What is not in the table changes nothing, and the methods below don't ask for it.
NEXT: Mapping[tuple[State, Event], State] = MappingProxyType(
    {
        (State.IN_ROTATION, Event.TRIPPED): State.EJECTED,
        (State.IN_ROTATION, Event.KEPT_OUT): State.EJECTED,
        (State.IN_ROTATION, Event.HELD_OUT): State.EJECTED,
        (State.EJECTED, Event.HELD_OUT): State.EJECTED,
        (State.PROBING, Event.HELD_OUT): State.EJECTED,
        (State.EJECTED, Event.TIMER_DUE): State.PROBING,
        (State.EJECTED, Event.HEALTH_PROBE_WELL): State.PROBING,
        (State.PROBING, Event.CALL_SUCCEEDED): State.IN_ROTATION,
        (State.PROBING, Event.CALL_FAILED): State.EJECTED,
    }
)
_IN_ROTATION, _EJECTED, _PROBING = (
    State.IN_ROTATION,
    State.EJECTED,
    State.PROBING,
)  # an enum's lookup costs a tenth of `succeeded`


@dataclass(frozen=True, slots=True)
class EjectionRules:
    """`failure_share` in 0..1; `for_s` is (shortest, longest); all times in seconds.

    `min_calls`: a share of fewer calls says nothing. Of 10 calls that each fail at a rate of 2 %, half fail by chance less than once in a
    million times; resilience4j asks for 100 calls, LiteLLM for 5.
    """

    consecutive_failures: int
    failure_share: float
    window_s: float
    for_s: tuple[float, float]
    min_calls: int = 10


class ReplicaHealth:
    """The health of one replica for one model. Holds state, but no clock: every method is told the time, and none of them waits.

    `state`; `reason`, the last change in words, "" before the first; `ejected_until_s`, an instant, meaningful while ejected, infinite
    while held out; `ramps_until_s`, an instant, in the past where it takes its whole share.
    """

    __slots__ = (
        "_calls",
        "_doublings",
        "_ejected_at_s",
        "_failures",
        "_in_a_row",
        "_is_probe_believed",
        "_is_probed_early",
        "_is_probing_call_out",
        "_most_votes",
        "_probe_was_well",
        "_returned_at_s",
        "_rng",
        "_row_votes",
        "_rules",
        "_slice",
        "_slice_ends_s",
        "_tripped_at_s",
        "_votes",
        "ejected_until_s",
        "ramps_until_s",
        "reason",
        "state",
    )

    def __init__(self, rules: EjectionRules, rng: random.Random):
        self.state = _IN_ROTATION
        self.reason = ""
        self.ejected_until_s = 0.0
        self.ramps_until_s = float("-inf")
        self._rules = rules
        self._most_votes = most_votes(rules.consecutive_failures)
        self._rng = rng
        self._in_a_row = 0
        self._calls = [0] * _SLICES  # by slice of the window, the present one first
        self._failures = [0] * _SLICES
        self._slice = 0
        self._slice_ends_s = float("-inf")
        self._doublings = 0
        self._ejected_at_s = self._returned_at_s = float("-inf")
        self._is_probing_call_out = False
        self._is_probed_early = False
        self._is_probe_believed = True
        self._probe_was_well: bool | None = None  # None: there was none yet
        self._tripped_at_s: float | None = None  # since when it is out for its failures, None where it is not
        self._clear_votes()

    def follow(self, rules: EjectionRules) -> None:
        """Go by these rules from now on. It stands where it stands; a window of another length begins empty."""
        if rules == self._rules:
            return
        if rules.window_s != self._rules.window_s:
            self._calls = [0] * _SLICES
            self._failures = [0] * _SLICES
            self._votes = [Tally() for _ in range(_SLICES)]
            self._slice_ends_s = float("-inf")
        self._rules = rules
        self._most_votes = most_votes(rules.consecutive_failures)

    @property
    def is_held_out(self) -> bool:
        """Whether only `let_go` brings it back."""
        return self.state is _EJECTED and self.ejected_until_s == math.inf

    def weight(self, now_s: float) -> float:
        """How much of its share of calls it should get, 1 but for the ramp after an ejection."""
        if now_s >= self.ramps_until_s:
            return 1.0
        return weight(now_s - self._returned_at_s, self.ramps_until_s - self._returned_at_s)

    def is_due(self, now_s: float) -> bool:
        """Whether the next call would be a probing one. Changes nothing."""
        if self.state is _PROBING:
            return not self._is_probing_call_out
        return self.state is _EJECTED and now_s >= self.ejected_until_s

    def may_take(self, now_s: float) -> bool:
        """Whether a call may be sent now. True for the probing call too, and then for nobody else until that one has ended.

        Whoever gets True must report the call's end: `succeeded`, `failed` or `abandon`.
        """
        if self.state is _IN_ROTATION:
            return True
        if not self.is_due(now_s):
            return False
        if self.state is _EJECTED:
            self._go(Event.TIMER_DUE, "its time out of rotation is over")
        self._is_probing_call_out = True
        return True

    def succeeded(self, now_s: float, *, began_s: float | None = None) -> None:
        """A call that began at `began_s` went well, or failed through its own fault."""
        if began_s is not None and began_s < self._ejected_at_s:
            return
        if self.state is _IN_ROTATION:
            if self._in_a_row:
                self._in_a_row = 0
                self._row_votes = Tally()
            if now_s >= self._slice_ends_s:
                self._turn(now_s)
            self._calls[0] += 1
        elif self.state is _PROBING:
            self._go(Event.CALL_SUCCEEDED, "a probing call succeeded")
            self._is_probing_call_out = False
            self._is_probe_believed = True
            self._returned_at_s = now_s
            if self._tripped_at_s is not None:
                self.ramps_until_s = now_s + ramp_s(now_s - self._tripped_at_s)
                self._tripped_at_s = None

    def failed(
        self, now_s: float, *, may_eject: bool = True, began_s: float | None = None, voters: Voters = NOBODY
    ) -> None:
        """A call that began at `began_s` failed through the replica's fault. `may_eject`: whether it may leave the rotation now.

        `voters`: who may have caused it, see `policies.votes`.
        """
        if began_s is not None and began_s < self._ejected_at_s:
            return
        if self.state is _IN_ROTATION:
            if now_s >= self._slice_ends_s:
                self._turn(now_s)
            self._count(voters if self._probe_was_well is not False else NOBODY)
            why = self._too_many()
            if why and may_eject:
                self._eject(Event.TRIPPED, why, now_s)
        elif self.state is _PROBING and self._is_probing_call_out:
            self._is_probe_believed = self._is_probe_believed and not self._is_probed_early
            self._eject(Event.CALL_FAILED, "the probing call failed", now_s)

    def abandon(self, now_s: float, *, began_s: float | None = None) -> None:
        """A call ended without saying anything about the replica (the client left): the turn to probe is given back."""
        if began_s is None or began_s >= self._ejected_at_s:
            self._is_probing_call_out = False

    def keep_out(self, now_s: float, why: str) -> None:
        """Take the replica out of rotation for `why`, whatever its calls say; it comes back as from any ejection."""
        if self.state is _IN_ROTATION:
            self._eject(Event.KEPT_OUT, why, now_s)

    def hold_out(self, now_s: float, why: str) -> None:
        """Keep the replica out for `why` until `let_go`, wherever it stands."""
        if not self.is_held_out:
            self._eject(Event.HELD_OUT, why, now_s)
            self.ejected_until_s = math.inf

    def let_go(self, now_s: float, why: str) -> None:
        """End what `hold_out` began: the next call is the probing one."""
        if self.is_held_out:
            self.ejected_until_s = now_s
            self.reason = why

    def probe_succeeded(self, now_s: float) -> None:
        """A health probe found the replica well: the next call may be the probing one, if such a probe has not misled before."""
        self._probe_was_well = True
        if self.state is _EJECTED and self._is_probe_believed and not self.is_held_out:
            self._go(Event.HEALTH_PROBE_WELL, "its health probe is well")
            self._is_probed_early = True

    def probe_failed(self, now_s: float) -> None:
        """A health probe found the replica unwell. It takes nothing out of rotation, but a probe that sees failures is believed again."""
        self._probe_was_well = False
        self._is_probe_believed = True

    def _go(self, event: Event, why: str) -> None:
        self.state = NEXT[self.state, event]
        self.reason = why

    def _eject(self, event: Event, why: str, now_s: float) -> None:
        rules = self._rules
        if self.state is _IN_ROTATION:
            forgiven = (now_s - self._returned_at_s) / rules.window_s
            self._doublings -= int(min(self._doublings, forgiven))
        if event is Event.TRIPPED:
            self._tripped_at_s = now_s
            if self._probe_was_well:
                self._is_probe_believed = False
        self.ramps_until_s = -math.inf
        self._go(event, why)
        shortest_s, longest_s = rules.for_s
        length_s = min(longest_s, shortest_s * 2.0**self._doublings)
        self._doublings = min(self._doublings + 1, _MOST_DOUBLINGS)
        self.ejected_until_s = now_s + length_s * self._rng.uniform(1 - JITTER, 1 + JITTER)
        self._ejected_at_s = now_s
        self._is_probing_call_out = self._is_probed_early = False
        self._in_a_row = 0
        self._calls = [0] * _SLICES
        self._failures = [0] * _SLICES
        self._clear_votes()

    def _clear_votes(self) -> None:
        self._row_votes = Tally()
        self._votes = [Tally() for _ in range(_SLICES)]

    def _count(self, voters: Voters) -> None:
        """Count a failure, in the row and in the window, as far as its voters have votes left there; beyond that it says nothing."""
        if have_room(voters, (self._row_votes,), self._most_votes):
            self._row_votes.add(voters)
            self._in_a_row += 1
        if have_room(voters, self._votes, self._most_votes):
            self._votes[0].add(voters)
            self._calls[0] += 1
            self._failures[0] += 1

    def _too_many(self) -> str:
        """Why the replica should leave, "" where it need not."""
        rules = self._rules
        if self._in_a_row >= rules.consecutive_failures:
            return f"{self._in_a_row} failures in a row"
        calls, failures = sum(self._calls), sum(self._failures)
        is_alone = failures <= self._most_votes and any(
            self._votes
        )  # where little is enough, it may be all of one voter
        if calls >= rules.min_calls and failures >= rules.failure_share * calls and not is_alone:
            return f"{failures} of {calls} calls within {rules.window_s:g} s failed"
        return ""

    def _turn(self, now_s: float) -> None:
        """Begin a new slice; those that are older than the window are forgotten."""
        slice_s = self._rules.window_s / _SLICES
        number = int(now_s // slice_s)
        passed = min(max(0, number - self._slice), _SLICES)
        self._calls = [0] * passed + self._calls[: _SLICES - passed]
        self._failures = [0] * passed + self._failures[: _SLICES - passed]
        if any(self._votes):
            self._votes = [Tally() for _ in range(passed)] + self._votes[: _SLICES - passed]
        self._slice = number
        self._slice_ends_s = (number + 1) * slice_s


def may_eject(in_rotation: int, total: int, at_most_share: float) -> bool:
    """Whether one more of `total` replicas may leave, `in_rotation` of which are still there.

    Count all replicas that can answer the model, over all its backends. The last one never leaves: with nobody else to go to, a doubtful
    answer beats none. At most `at_most_share` (0..1) of them are out at once, but where that is less than one replica, one may still go:
    a rule of 10 % would otherwise switch ejection off for every small fleet. A share of 0 does switch it off.

        1 replica, 0.5 -> none    2, 0.5 -> one    3, 0.5 -> one    4, 0.5 -> two    4, 0.1 -> one    4, 1.0 -> three    4, 0 -> none

    Source: Envoy's max_ejection_percent, which also lets one host go.
    """
    if in_rotation <= 1 or at_most_share <= 0:
        return False
    most_out = max(1, int(at_most_share * total + 1e-9))  # the addend: 0.29 x 100 is 28.999999999999996
    return total - in_rotation < most_out
