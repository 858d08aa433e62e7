"""What a change of the routing state means for callers, in sentences: `jane: vllm 5 % -> 25 %; about 20 % of callers move, none back`.

How many move follows from `policies.cohort`: in a race of exponential variables a caller stays with b under both splits p and q exactly if
every other c loses both races, that is with the probability 1 / (1 + sum of max(p_c / p_b, q_c / q_b)).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from policies.revisions import ModelState, RoutingState

SEEN = 0.0005  # of the callers: below this nobody is said to move


def staying(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Of each backend of `before`, the fraction of all callers that are there under both splits."""
    names = {name for split in (before, after) for name, share in split.items() if share > 0}
    stays = {}
    for name in names:
        p, q = before.get(name, 0.0), after.get(name, 0.0)
        if p > 0 and q > 0:
            rest = sum(max(before.get(c, 0.0) / p, after.get(c, 0.0) / q) for c in names if c != name)
            stays[name] = 1 / (1 + rest)
        else:
            stays[name] = 0.0
    return stays


def moving(before: Mapping[str, float], after: Mapping[str, float]) -> tuple[float, float]:
    """The fraction of all callers that move, and of these the fraction of all that leave a backend whose share grows."""
    stays = staying(before, after)
    leaving = {name: before.get(name, 0.0) - stay for name, stay in stays.items()}
    back = sum(left for name, left in leaving.items() if after.get(name, 0.0) > before.get(name, 0.0))
    return max(0.0, sum(leaving.values())), max(0.0, back)


def differences(before: RoutingState, after: RoutingState) -> Iterator[str]:
    """One sentence a model or drain that differs."""
    for name in sorted({*before.models, *after.models}):
        old, new = before.models.get(name), after.models.get(name)
        if old is None:
            yield f"{name}: is new"
        elif new is None:
            yield f"{name}: is no longer served"
        elif said := "; ".join(_changes(old, new)):
            yield f"{name}: {said}"
    yield from (f"{target}: takes no new calls" for target in after.draining if target not in before.draining)
    yield from (f"{target}: takes calls again" for target in before.draining if target not in after.draining)


def _changes(old: ModelState, new: ModelState) -> Iterator[str]:
    changed = [b for b in dict.fromkeys((*old.split, *new.split)) if old.split.get(b, 0.0) != new.split.get(b, 0.0)]
    if changed:
        yield ", ".join(f"{b} {percent(old.split.get(b, 0.0))} -> {percent(new.split.get(b, 0.0))}" for b in changed)
        moved, back = moving(old.split, new.split)
        yield f"about {percent(moved)} of callers move, {percent(back) if back > SEEN else 'none'} back"
    yield from _ramps(old, new)
    if old.shadow != new.shadow:
        yield (
            f"copies of {percent(new.shadow.share)} of the calls go to {new.shadow.to}"
            if new.shadow
            else "no more copies are sent"
        )
    if old.step != new.step:
        yield f"step {new.step} of the rollout" if new.step is not None else "no rollout runs"


def _ramps(old: ModelState, new: ModelState) -> Iterator[str]:
    """What became of the way to other shares; its single steps are told by the shares."""
    before, now = old.ramp, new.ramp
    if now is None:
        if before is not None and before.target != new.split:
            yield "moves no further"
    elif before is None or (before.start, before.target, before.over_s) != (now.start, now.target, now.over_s):
        way = (f"{b} to {percent(share)}" for b, share in now.target.items() if share != now.start.get(b, 0.0))
        yield f"moves in small steps over {duration(now.over_s)}: {', '.join(way)}"
    elif before.is_paused != now.is_paused:
        yield "stands still on its way" if now.is_paused else "goes on"


def duration(seconds: float) -> str:
    """A duration as people write it: 2 h, 1 h 30 min, 0.5 s."""
    if seconds < 60:
        return f"{round(seconds, 3):g} s"
    whole = round(seconds)
    parts = ((whole // 86400, "d"), (whole % 86400 // 3600, "h"), (whole % 3600 // 60, "min"), (whole % 60, "s"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


def percent(share: float) -> str:
    """A share as people write it: 5 %, 0.1 %."""
    return f"{round(share * 100, 2):g} %"
