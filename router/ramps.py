"""Drives the ramps: makes each step when it is due. Every process does, on the same journal, and the first one makes the step."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from policies.ejection import State
from policies.revisions import ModelState, NotPossible, Ramp
from policies.time_ramps import due_s, every_s, gaining
from router.fleet import Fleet
from router.journal.journal import Overtaken
from router.journal.store import StoreFailed
from router.operations import Operations

log = logging.getLogger("crossfade.ramps")

LATER_S = 1.0  # when a step is tried again that cannot be made now


async def drive(operations: Operations, fleet: Fleet) -> None:
    """Make steps until cancelled. While a backend that gains is out of rotation here, or draining, its ramp waits."""
    journal, is_held, seen = operations.journal, frozenset[str](), Seen()
    while True:
        now_s = journal.now_s()
        state = journal.last.state.models if journal.last is not None else {}
        due = seen.due(state, now_s, asyncio.get_running_loop().time())
        held = frozenset(name for name in due if not _may_gain(fleet, name, state[name]))
        for name in held - is_held:
            log.warning("the ramp of %s waits: a backend that gains is out of rotation or draining", name)
        is_held, wait_s = held, LATER_S if held else None
        for name, at_s in due.items():
            if name in held:
                continue
            if at_s > now_s:
                wait_s = min(at_s - now_s, wait_s if wait_s is not None else at_s - now_s)
            elif not await _step(operations, name, seen.ahead.get(name)):
                wait_s = LATER_S
            else:
                wait_s = 0.0
        await journal.news(wait_s)


class Seen:
    """The ramps whose last step lies in the future: `ahead`, by model. When it was first seen counts for them instead."""

    def __init__(self) -> None:
        self.ahead: dict[str, Ramp] = {}
        self._since_s: dict[str, float] = {}  # by the loop's clock

    def due(self, state: Mapping[str, ModelState], now_s: float, loop_s: float) -> dict[str, float]:
        """When the next step of each model is due, by the clock that says `now_s`."""
        due = {name: at_s for name, model in state.items() if (at_s := due_s(model)) is not None}
        ahead = {name: ramp for name in due if (ramp := state[name].ramp) is not None and ramp.at_s > now_s}
        self._since_s = {
            name: self._since_s[name] if self.ahead.get(name) == ramp else loop_s for name, ramp in ahead.items()
        }
        self.ahead = ahead
        for name, ramp in ahead.items():  # a little later: the one whose clock is ahead is to make it, if it still runs
            due[name] = min(due[name], now_s + self._since_s[name] + every_s(ramp) + LATER_S - loop_s)
        return due


async def _step(operations: Operations, model: str, seen: Ramp | None) -> bool:
    """Whether there is nothing to wait for."""
    try:
        await operations.step(model, seen)
    except (NotPossible, Overtaken):
        return True  # somebody else has decided
    except StoreFailed:
        return False
    except Exception:  # the supervisor of a background loop
        log.exception("a step of the ramp of %s stumbled; it is tried again", model)
        return False
    return True


def _may_gain(fleet: Fleet, name: str, moving: ModelState) -> bool:
    model = fleet.models.get(name)
    if model is None:
        return False
    bindings = [model.bindings[backend] for backend in gaining(moving) if backend in model.bindings]
    return all(
        not binding.backend.is_draining
        and any(replica.health[name].state is State.IN_ROTATION for replica in binding.backend.open)
        for binding in bindings
    )
