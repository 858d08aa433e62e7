"""A shift that takes its time: `shift jane vllm=1.0 --over 2h` moves the shares in small steps, each a revision of its own.

    over 2 h    -> 100 steps, one every 72 s, each 1 % of the way
    over 30 s   -> 30 steps, one a second
    over 0.5 s  -> 1 step

By the cohorts' property a step of a growing share only adds callers, so nobody moves twice on the way. A step is due so long after the
last one, not at an instant of the clock: while nobody could make one (the store was down, every router stopped) nothing is caught up on
in one leap.

Where the last step lies in the future, the clock was set back, or another machine's is ahead: the step is then due so long after the last
one was seen, which who drives the ramp measures.
"""

from __future__ import annotations

import msgspec

from policies.revisions import DIGITS, ModelState, NotPossible, Ramp, RoutingState, model_of

MOST_STEPS = 100
LEAST_STEP_S = 1.0


def steps_of(over_s: float) -> int:
    """In how many steps a ramp of this length goes."""
    return max(1, min(MOST_STEPS, int(over_s / LEAST_STEP_S)))


def begun(before: RoutingState, after: RoutingState, model: str, over_s: float, now_s: float) -> RoutingState:
    """The state `before`, on its way to what `after` has for the model. Raises NotPossible where there is no way to go."""
    start, target = model_of(before, model), model_of(after, model)
    if not over_s > 0:
        raise NotPossible(f"a ramp takes some time; {over_s:g} s is none")
    if start.split == target.split:
        raise NotPossible(f"{model} has these shares already")
    ramp = Ramp(start.split, target.split, over_s, now_s)
    return before.with_model(model, msgspec.structs.replace(start, ramp=ramp))


def due_s(model: ModelState) -> float | None:
    """When the next step is due, in seconds of the Unix clock; None where none is."""
    ramp = model.ramp
    if ramp is None or ramp.is_paused:
        return None
    return ramp.at_s + every_s(ramp)


def every_s(ramp: Ramp) -> float:
    """From one step to the next."""
    return ramp.over_s / steps_of(ramp.over_s)


def stepped(state: RoutingState, name: str, now_s: float) -> RoutingState:
    """The state one step further; after the last one the model is at rest at the target. Raises NotPossible where it does not move."""
    model = model_of(state, name)
    ramp = model.ramp
    if ramp is None or ramp.is_paused:
        raise NotPossible(f"{name} is not moving")
    done, steps = ramp.done + 1, steps_of(ramp.over_s)
    if done >= steps:
        return state.with_model(name, msgspec.structs.replace(model, split=ramp.target, ramp=None))
    names = dict.fromkeys((*ramp.start, *ramp.target))
    way = done / steps
    split = {each: _between(ramp.start.get(each, 0.0), ramp.target.get(each, 0.0), way) for each in names}
    # Whose clock is behind takes the other one's further: by that one, the next step would be due at once.
    at_s = now_s if now_s >= ramp.at_s else ramp.at_s + every_s(ramp)
    further = msgspec.structs.replace(ramp, done=done, at_s=at_s)
    return state.with_model(name, msgspec.structs.replace(model, split=split, ramp=further))


def paused(state: RoutingState, name: str) -> RoutingState:
    """The state with the ramp standing still. Raises NotPossible where nothing moves."""
    model = model_of(state, name)
    if model.ramp is None or model.ramp.is_paused:
        raise NotPossible(f"{name} is not moving")
    return state.with_model(
        name, msgspec.structs.replace(model, ramp=msgspec.structs.replace(model.ramp, is_paused=True))
    )


def resumed(state: RoutingState, name: str, now_s: float) -> RoutingState:
    """The state with the ramp going on from where it stood. Raises NotPossible where none was paused."""
    model = model_of(state, name)
    if model.ramp is None or not model.ramp.is_paused:
        raise NotPossible(f"{name} has no ramp that was paused")
    ramp = msgspec.structs.replace(model.ramp, is_paused=False, at_s=now_s)
    return state.with_model(name, msgspec.structs.replace(model, ramp=ramp))


def gaining(model: ModelState) -> tuple[str, ...]:
    """The backends whose shares the ramp raises."""
    ramp = model.ramp
    if ramp is None:
        return ()
    return tuple(name for name, share in ramp.target.items() if share > ramp.start.get(name, 0.0))


def _between(start: float, target: float, way: float) -> float:
    return round(start + (target - start) * way, DIGITS)
