"""Where the routing state in force is not the one that the file asks for, in sentences for operators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from policies.differences import percent
from policies.revisions import RoutingState


def drift(file: RoutingState, running: RoutingState) -> Iterator[str]:
    """One sentence a model: `jane: vllm 25 %, lmstudio 75 %; the file asks for vllm 5 %, lmstudio 95 %`."""
    for name, asked in sorted(file.models.items()):
        now = running.models.get(name)
        if now is None:
            continue  # it comes with the file, which is about to be taken
        if now.ramp is not None:
            yield f"{name}: {_said(now.split)}, on its way to {_said(now.ramp.target)}; the file asks for {_said(asked.split)}"
        elif _given(now.split) != _given(asked.split):
            yield f"{name}: {_said(now.split)}; the file asks for {_said(asked.split)}"


def _given(split: Mapping[str, float]) -> dict[str, float]:
    return {name: share for name, share in split.items() if share > 0}


def _said(split: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {percent(share)}" for name, share in sorted(_given(split).items()))
