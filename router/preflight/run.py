"""One preflight: all backends are asked beside each other, each one call after the other, then judged."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from policies.preflight import Line, judge, worst
from policies.preflight_cells import Colour
from policies.preflight_facts import Side, Terms
from router.config import Config
from router.preflight.asking import Asking, Said


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for. `backends`: the baseline first; `timeout_s` bounds each call."""

    model: str
    backends: tuple[str, ...]
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Findings:
    """The matrix, its backends in the order of the cells."""

    model: str
    sides: tuple[Side, ...]
    lines: tuple[Line, ...]

    @property
    def is_red(self) -> bool:
        """Whether calls would break."""
        return self.colour is Colour.RED

    @property
    def colour(self) -> Colour:
        """Of the whole."""
        return worst(self.lines)


async def run(config: Config, env: Mapping[str, str], wish: Wish, said: Said) -> Findings:
    """Ask and judge. The backends must be of kinds that can be called."""
    turns = [Asking(config, wish.model, name, env, wish.timeout_s, said).ask() for name in wish.backends]
    sides = tuple(await asyncio.gather(*turns))
    sampling = config.models[wish.model].sampling
    terms = Terms(wish.model, frozenset(sampling), is_greedy=sampling.get("temperature") == 0)
    return Findings(wish.model, sides, judge(sides, terms))
