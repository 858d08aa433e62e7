"""What is kept of a call when it is over: outcomes charged to replicas, counts, one line in the log where it did not go smoothly."""

from __future__ import annotations

import asyncio
import json
import logging
import random

from policies.contract import Judgement
from policies.ejection import State
from policies.outcome import Outcome, OutcomeKind
from policies.retry import Chance
from policies.votes import voters_of
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

    def charge(
        self, call: Call, model: LiveModel, replica: LiveReplica, outcome: Outcome, span_s: tuple[float, float]
    ) -> None:
        """Charge the outcome of one attempt, which began and ended at the two instants `span_s`, to the replica that made it."""
        began_s, now_s = span_s
        health = replica.health[model.name]
        before = health.state
        kind = outcome.kind
        if kind is OutcomeKind.OK or kind is OutcomeKind.REJECTED or kind is OutcomeKind.OVERFLOW:
            health.succeeded(now_s, began_s=began_s)
        elif outcome.counts_against_backend:
            replica.bias.failed(now_s, outcome.retry_after_s)
            voters = voters_of(kind, call.facts, model.route.stick_by, call.body.prompt)
            health.failed(now_s, may_eject=model.may_eject_one(), began_s=began_s, voters=voters)
        else:
            health.abandon(now_s, began_s=began_s)
        if health.state is not before:
            _moved(model, replica, now_s)

    def heard(self, model: LiveModel, replica: LiveReplica, began_s: float, now_s: float) -> None:
        """First content has come. A probing call has answered its question with it; its stream may take minutes more."""
        health = replica.health[model.name]
        if health.state is State.PROBING:
            health.succeeded(now_s, began_s=began_s)
            _moved(model, replica, now_s)

    def judged(self, call: Call, backend: str, judgement: Judgement) -> None:
        """An answer of this backend was held against the model's contract."""
        self.metrics.judged[call.facts.model, backend, judgement.result.value] += 1
        if judgement.is_violation:
            line = {"request_id": call.request_id.decode("latin-1"), "model": call.facts.model, "backend": backend}
            log.info("%s", json.dumps({**line, "violation": judgement.result.value, "said": judgement.reason}))

    def repeated(self, call: Call) -> None:
        """A client's SDK makes a call anew that has failed for it."""
        self.metrics.client_retries[(call.facts.model,)] += 1

    def turned_away(self, reason: str) -> None:
        """A request ended before it was a call: bad input, no key, an unknown model."""
        self.metrics.turned_away[(reason,)] += 1

    def close(self, call: Call, backend: str, result: str) -> None:
        """The one terminal record of a call."""
        took_s = asyncio.get_running_loop().time() - call.started_s
        model = call.facts.model
        self.metrics.calls[model, backend, result] += 1
        self.metrics.whole_call(model, backend, took_s)
        if (usage := call.usage) is not None:
            self.metrics.used(model, backend, usage)
        for note in call.trail:
            self.metrics.attempts[model, note.backend, note.outcome] += 1
        if len(call.trail) > 1 or result not in ("ok", "client_gone"):
            log.warning("%s", _line(call, backend, result, took_s))


def _moved(model: LiveModel, replica: LiveReplica, now_s: float) -> None:
    health = replica.health[model.name]
    model.count_unwell(now_s)
    log.warning("%s on %s is now %s: %s", model.name, replica.url, health.state.value, health.reason)


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
