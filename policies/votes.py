"""Whose failures count: neither one caller nor one prompt can take a replica out of rotation for all the others.

A failure that the call may have caused itself (a 5xx for one poisonous prompt) carries the marks of its voters: the caller and the
prompt. Each has `most_votes` in a row of failures, and as many in each window; what comes beyond says nothing about the replica, for or
against it. That is below what `consecutive_failures` asks for, and two voters together reach it:

    consecutive_failures   1   2   3   4   5   10
    votes of one voter     1   1   2   2   3    5     at 1 the operator asked for a single failure to be enough

So a voter alone never ejects, and an engine that fails everybody is out after `consecutive_failures` calls all the same. Two exceptions,
so that a system with a single caller still leaves a dead engine: what no call can cause (no connection, the router's own key, the wrong
model) carries no marks, and while the replica's own health probe is unwell everybody's failures count.

Memory is bounded: of a row, and of each slice of the window, the first MAX_VOTERS marks are known. Where so many have failed, one more
is not alone.

Source: none; Envoy and gRPC count every failure alike, and lose a host to one client that repeats itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from policies.cohort import StickKey, caller_key
from policies.facts import CallFacts
from policies.outcome import OutcomeKind

Voters = tuple[bytes, ...]
NOBODY: Voters = ()

MAX_VOTERS = 64  # 64 marks of 16 bytes: 8 KiB a tally at most, and far more than any row that ejects
# Of a prompt: hashing 128 KiB takes 0.2 ms (measured), and a failure costs more than that.
_EDGE_BYTES = 65_536
# Nothing of the call was read, or the same would have met every other.
_NO_CALLS_DOING = frozenset({OutcomeKind.CONNECT_FAILED, OutcomeKind.KEY_REFUSED, OutcomeKind.OTHER_MODEL})


def most_votes(consecutive_failures: int) -> int:
    """How many failures of one voter count."""
    return (consecutive_failures + 1) // 2


class Tally:
    """Votes by voter, since it was made."""

    __slots__ = ("_votes",)

    def __init__(self) -> None:
        self._votes: dict[bytes, int] = {}

    def __len__(self) -> int:
        """How many voters it knows."""
        return len(self._votes)

    def votes_of(self, voter: bytes) -> int:
        """The votes of this voter; 0 for one that it does not know."""
        return self._votes.get(voter, 0)

    def add(self, voters: Voters) -> None:
        """One vote for each of them."""
        votes = self._votes
        for voter in voters:
            if voter in votes:
                votes[voter] += 1
            elif len(votes) < MAX_VOTERS:
                votes[voter] = 1


def have_room(voters: Voters, tallies: Sequence[Tally], most: int) -> bool:
    """Whether each of `voters` has fewer than `most` votes in all `tallies` together."""
    return all(sum(tally.votes_of(voter) for tally in tallies) < most for voter in voters)


def voters_of(kind: OutcomeKind, facts: CallFacts, stick_by: Sequence[StickKey], prompt: bytes | msgspec.Raw) -> Voters:
    """Who may have caused a failure of `kind`: the caller (else its key) and the prompt, as digests; nobody where no call could.

    The caller is known as the split knows it (`caller_key`): a client may claim to be many, and then its prompt tells.
    """
    if kind in _NO_CALLS_DOING:
        return NOBODY
    caller = caller_key(stick_by, facts)
    if caller is None:
        key = facts.headers.get("authorization")
        caller = ("key", key) if key else None
    voters = (_mark(b"prompt", _edges(prompt)),)
    if caller is None:
        return voters
    return (_mark(b"caller", f"{caller[0]}\0{caller[1]}".encode("utf-8", "surrogatepass")), *voters)


def _edges(prompt: bytes | msgspec.Raw) -> bytes:
    view = memoryview(prompt)
    if len(view) <= 2 * _EDGE_BYTES:
        return view.tobytes()
    return b"%d\0%b%b" % (len(view), view[:_EDGE_BYTES].tobytes(), view[-_EDGE_BYTES:].tobytes())


def _mark(what: bytes, value: bytes) -> bytes:
    return blake2b(value, digest_size=16, person=what).digest()
