"""What a backend can do for a model, by whoever says it; where two say different things, the one that is trusted more.

From the least trusted to the most: the dialect (what servers of its kind can do), probing (what its servers say of themselves), and the
configuration. What an answer showed, that an API or a need is missing, is kept apart and only for a while: it may be mended, and where
the configuration says that it is there it counts for nothing.

Of several replicas, which are meant to be equal, the one that can do least counts; the context is the longest of them, because a prompt
that is too long for one may still be answered by another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from backends.dialects import Abilities

MISSING_S = 300.0  # an API comes with another server or other options, and whoever starts one waits no longer than this


class Source(StrEnum):
    """Who says it."""

    DIALECT = "dialect"
    PROBED = "probed"
    CONFIGURED = "configured"


@dataclass(frozen=True, slots=True)
class Configured:
    """What the configuration says; what it does not name is left to the others."""

    can: Mapping[str, bool]
    context_tokens: int | None = None


UNCONFIGURED = Configured({})


class Capabilities:
    """Of one model on one backend of `replicas` servers. What a call needs to know is worked out when something is learned, not before."""

    __slots__ = ("_configured", "_missing_until_s", "_of_kind", "_probed", "context_tokens", "lacks", "missing")

    def __init__(self, of_kind: frozenset[str] = frozenset(), configured: Configured = UNCONFIGURED, replicas: int = 1):
        self._of_kind = of_kind
        self._configured = configured
        self._probed: list[Abilities | None] = [None] * replicas
        self._missing_until_s: dict[str, float] = {}
        self.lacks = frozenset[str]()
        self.missing = frozenset[str]()
        self.context_tokens: int | None = None
        self._settle()

    @property
    def forgets_at_s(self) -> float:
        """The next instant at which something that an answer showed is forgotten."""
        return min(self._missing_until_s.values(), default=math.inf)

    def heard(self, replica: int, abilities: Abilities) -> bool:
        """Take what the server number `replica` says of itself; whether anything changes by that."""
        if self._probed[replica] == abilities:
            return False
        self._probed[replica] = abilities
        self._settle()
        return True

    def inherit(self, before: Capabilities, places: Mapping[int, int]) -> None:
        """Take over what is known of the servers that stay: `places` are their numbers, here to there."""
        for here, there in places.items():
            self._probed[here] = before._probed[there]
        self._missing_until_s = dict(before._missing_until_s)
        self.forget(-math.inf)
        self._settle()

    def misses(self, name: str, now_s: float) -> bool:
        """Take it that an answer showed an API, or a need, to be missing; whether anything changes by that."""
        if self._configured.can.get(name):
            return False
        is_new = name not in self._missing_until_s
        self._missing_until_s[name] = now_s + MISSING_S
        self.missing = frozenset(self._missing_until_s)
        return is_new

    def forget(self, now_s: float) -> None:
        """Forget what is due by now; all of it where `now_s` is infinite."""
        self._missing_until_s = {name: until_s for name, until_s in self._missing_until_s.items() if until_s > now_s}
        self.missing = frozenset(self._missing_until_s)

    def known(self) -> dict[str, tuple[bool, Source]]:
        """Everything that anybody says: whether it can, and who says so."""
        said = {name: (False, Source.DIALECT) for name in sorted(self._of_kind)}
        said |= {name: (can, Source.PROBED) for name, can in self._by_servers().items()}
        return said | {name: (can, Source.CONFIGURED) for name, can in self._configured.can.items()}

    def context(self) -> tuple[int, Source] | None:
        """How long a prompt and its answer may be together, and who says so."""
        if self._configured.context_tokens is not None:
            return self._configured.context_tokens, Source.CONFIGURED
        known = [said.context_tokens if said is not None else None for said in self._probed]
        tokens = [each for each in known if each is not None]
        return (max(tokens), Source.PROBED) if tokens and len(tokens) == len(known) else None

    def _by_servers(self) -> dict[str, bool]:
        said: dict[str, bool] = {}
        for abilities in self._probed:
            for name, can in abilities.can.items() if abilities is not None else ():
                said[name] = can and said.get(name, True)
        return said

    def _settle(self) -> None:
        self.lacks = frozenset(name for name, (can, _) in self.known().items() if not can)
        context = self.context()
        self.context_tokens = context[0] if context is not None else None
