"""What a store keeps, and the ways in which it can fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from policies.revisions import Kind, Revision, RoutingState

BUSY_S = 5.0  # how long a writer waits for another one to end, and for a server to answer
_STATE = msgspec.json.Decoder(RoutingState)


class StoreFailed(Exception):
    """The store could not be read or written; nothing was changed. The message is one sentence for the operator."""


class Lost(StoreFailed):
    """What was kept is not there any more, or not readable. Opening the store again puts right what can be put right."""


class Conflict(Exception):
    """Somebody else was faster; `last` is the revision that is in force instead."""

    def __init__(self, last: int):
        super().__init__(f"revision {last} was made meanwhile")
        self.last = last


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """A revision as it is stored: `file` is the state that the file asked for, `key` the request's idempotency key.

    `asked`: a digest of what the request with that key asked for.
    """

    revision: Revision
    file: RoutingState | None = None
    key: str | None = None
    asked: str | None = None

    @classmethod
    def from_row(cls, row: Mapping[Any, Any]) -> Kept:
        """What a row of the table says. Raises Lost where it is garbled, StoreFailed where a newer version may have written it."""
        number = row["number"]
        try:
            revision = Revision(
                number=number,
                at_s=row["at_s"],
                actor=row["actor"],
                reason=row["reason"],
                kind=Kind(row["kind"]),
                state=_STATE.decode(row["state"]),
                model=row["model"],
                restores=row["restores"],
                part_of=row["part_of"],
            )
            file = _STATE.decode(row["file"]) if row["file"] is not None else None
        except (msgspec.ValidationError, ValueError) as exc:
            raise StoreFailed(
                f"revision {number} in the store means nothing to this version of Crossfade; a newer one may have written it"
            ) from exc
        except msgspec.DecodeError as exc:
            raise Lost(f"revision {number} in the store is garbled") from exc
        return cls(revision, file, row["key"], row["asked"])

    def as_row(self) -> dict[str, Any]:
        """The columns of the table."""
        revision = self.revision
        return {
            "number": revision.number,
            "at_s": revision.at_s,
            "actor": revision.actor,
            "reason": revision.reason,
            "kind": revision.kind.value,
            "model": revision.model,
            "restores": revision.restores,
            "part_of": revision.part_of,
            "state": msgspec.json.encode(revision.state).decode(),
            "file": msgspec.json.encode(self.file).decode() if self.file is not None else None,
            "key": self.key,
            "asked": self.asked,
        }
