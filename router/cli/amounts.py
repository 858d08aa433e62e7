"""Shares and durations as people type them: `vllm=0.25`, `vllm=25%`; `30s`, `10m`, `2h`, `1d`, `1h30m`."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SHARE = re.compile(r"(-?[0-9]+(?:\.[0-9]*)?|-?\.[0-9]+)\s*(%?)", re.ASCII)
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?[smhd])+", re.ASCII)
_PART = re.compile(r"([0-9.]+)([smhd])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class NoAmount(ValueError):
    """What was typed is no such amount; the message is one sentence with an example."""


def shares_of(words: Sequence[str]) -> dict[str, float]:
    """`["vllm=25%"]` as `{"vllm": 0.25}`. Whether they make sense is for whoever knows the model. Raises NoAmount."""
    shares: dict[str, float] = {}
    for word in words:
        backend, _, said = word.partition("=")
        match = _SHARE.fullmatch(said.strip())
        if not backend or match is None:
            raise NoAmount(f"{word!r} is no share; write BACKEND=SHARE, such as vllm=0.25 or vllm=25%.")
        if backend in shares:
            raise NoAmount(f"{backend} is named twice; give it one share.")
        shares[backend] = round(float(match[1]) / 100, 12) if match[2] else float(match[1])
    return shares


def seconds_of(text: str) -> float:
    """`"2h"` as 7200.0. Raises NoAmount."""
    if not _DURATION.fullmatch(text):
        raise NoAmount(f"{text!r} is no duration; write a number and its unit, such as 30s, 10m, 2h or 1d.")
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
