"""What is kept of a call when it is over: outcomes charged to replicas, counts, one line in the log where it did not go smoothly."""

from __future__ import annotations

import asyncio
import json
import logging
import random

from policies.ejection import State
from policies.outcome import Outcome, OutcomeKind
from policies.retry import Chance
from router.alerts import Alerts
from router.call import Call
from router.fleet import LiveModel, LiveReplica
from router.metrics import Metrics

log = logging.getLogger("crossfade.calls")


class Recorder:
    """Where everything that happened is written down, off the path of the bytes."""

    def __init__(self, metrics: Metrics, rng: random.Random):
        self.metrics = metrics
        self.rng = rng
        self.alerts = Alerts()

    def chance(self, now_s: float) -> Chance:
        """The time and the dice of one decision."""
        return Chance(now_s, self.rng)

    def charge(self, model: LiveModel, replica: LiveReplica, outcome: Outcome, began_s: float, now_s: float) -> None:
        """Charge the outcome of one attempt, which began at `began_s`, to the replica that made it."""
        health = replica.health[model.name]
        before = health.state
        if outcome.counts_against_backend:
            health.failed(now_s, may_eject=model.may_eject_one(), began_s=began_s)
        elif (
            outcome.kind is OutcomeKind.OK
            or outcome.kind is OutcomeKind.REJECTED
            or outcome.kind is OutcomeKind.OVERFLOW
        ):
            health.succeeded(now_s, began_s=began_s)
        else:
            health.abandon(now_s, began_s=began_s)
        if health.state is not before:
            model.count_unwell()
            log.warning("%s on %s is now %s: %s", model.name, replica.url, health.state.value, health.reason)

    def heard(self, model: LiveModel, replica: LiveReplica, began_s: float, now_s: float) -> None:
        """First content has come. A probing call has answered its question with it; its stream may take minutes more."""
        health = replica.health[model.name]
        if health.state is State.PROBING:
            health.succeeded(now_s, began_s=began_s)
            model.count_unwell()

    def turned_away(self, reason: str) -> None:
        """A request ended before it was a call: bad input, no key, an unknown model."""
        self.metrics.turned_away[(reason,)] += 1

    def close(self, call: Call, backend: str, result: str) -> None:
        """The one terminal record of a call."""
        took_s = asyncio.get_running_loop().time() - call.started_s
        model = call.facts.model
        self.metrics.calls[model, backend, result] += 1
        self.metrics.whole_call(model, backend, took_s)
        for note in call.trail:
            self.metrics.attempts[model, note.backend, note.outcome.value] += 1
        if len(call.trail) > 1 or result not in ("ok", "client_gone"):
            log.warning("%s", _line(call, backend, result, took_s))


def _line(call: Call, backend: str, result: str, took_s: float) -> str:
    """One line of JSON: what a client or a backend said can't forge a second one."""
    return json.dumps(
        {
            "request_id": call.request_id.decode("latin-1"),
            "model": call.facts.model,
            "backend": backend,
            "result": result,
            "took_s": round(took_s, 3),
            "trail": [str(note) for note in call.trail],
        }
    )
