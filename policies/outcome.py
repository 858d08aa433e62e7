"""How an attempt ended, and what that means: the one table that says what may be tried again and what a backend is charged with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class OutcomeKind(StrEnum):
    """The ways an attempt can end. Exactly one applies."""

    OK = "ok"
    CONNECT_FAILED = "connect_failed"  # nothing was sent
    REFUSED = "refused"  # 429 or 503 before any work was done
    REJECTED = "rejected"  # the call's own fault: any backend would say so
    NOT_SERVED = "not_served"  # wrong name, unloaded model, no chat
    ROUTE_MISSING = "route_missing"  # has the model, but not this API of it
    NEED_MISSING = "need_missing"  # was started without what the call needs
    KEY_REFUSED = "key_refused"  # the router's own key: 401, 403
    OVERFLOW = "overflow"  # the prompt is longer than this backend's context
    FIRST_TOKEN_TIMEOUT = "first_token_timeout"  # noqa: S105 (no password)
    ANSWER_TIMEOUT = "answer_timeout"
    FAILED = "failed"  # a 5xx, or an error inside a 200, before the commit
    PROTOCOL_BROKEN = "protocol_broken"
    NOT_ACCEPTED = "not_accepted"  # no answer to what was asked: see policies.contract
    STREAM_BROKEN = "stream_broken"  # after the commit
    OTHER_MODEL = (
        "other_model"  # a whole answer, and the client has it, but by its own words of another model than asked for
    )
    DIVERGED = "diverged"  # asked to resume a stream, it says something else than what was sent
    CLIENT_GONE = "client_gone"
    OUTRUN = "outrun"  # another attempt beside it had content first
    DEADLINE = "deadline"  # the call's own deadline


@dataclass(frozen=True, slots=True)
class Outcome:
    """What follows from an attempt's end.

    `retryable`: another attempt may be made, here or elsewhere; `policies.retry` says which. `counts_against_backend`: it is a
    failure of the replica for ejection and for the comparison of backends. `retry_after_s`: how long a refusing backend asks to
    be left alone, in seconds, None where it did not say.
    """

    kind: OutcomeKind
    retryable: bool
    counts_against_backend: bool
    retry_after_s: float | None = None


# kind: (retryable, counts_against_backend). Whatever is the caller's doing never counts: else one client with a bad request, or
# one that hangs up, could take a backend out of rotation for everybody. Source: gRPC A6; HAProxy's `observe layer7`, to which
# every 4xx is a sign of life.
_MEANING = {
    OutcomeKind.OK: (False, False),
    OutcomeKind.CONNECT_FAILED: (True, True),
    OutcomeKind.REFUSED: (True, True),  # Linkerd counts 429 as well: who refuses quickly must not attract calls
    OutcomeKind.REJECTED: (False, False),
    OutcomeKind.NOT_SERVED: (True, True),  # health is kept per replica and model, so other models are not touched
    OutcomeKind.ROUTE_MISSING: (True, False),  # who has no embeddings answers its chat calls as well as ever
    OutcomeKind.NEED_MISSING: (True, False),  # who takes no tools answers all else as well as ever
    OutcomeKind.KEY_REFUSED: (True, True),  # every call would meet the same; out of rotation it costs them nothing
    OutcomeKind.OVERFLOW: (True, False),  # not the backend's fault, yet a backend with a larger context may answer
    OutcomeKind.FIRST_TOKEN_TIMEOUT: (True, True),
    OutcomeKind.ANSWER_TIMEOUT: (True, True),
    OutcomeKind.FAILED: (True, True),
    OutcomeKind.PROTOCOL_BROKEN: (True, True),
    OutcomeKind.NOT_ACCEPTED: (
        True,
        True,
    ),  # the model's doing or its engine's; one caller or prompt alone never ejects
    OutcomeKind.STREAM_BROKEN: (False, True),  # the client has seen content: a stream can be resumed, never tried again
    OutcomeKind.OTHER_MODEL: (False, True),  # nothing to try again: an answer beats none; yet nobody wants more of them
    OutcomeKind.DIVERGED: (False, False),  # chance in sampling, or another model; nothing that is wrong with the server
    OutcomeKind.CLIENT_GONE: (False, False),
    OutcomeKind.OUTRUN: (False, False),  # slow beside one other is no failure: its first-token time says how slow it is
    OutcomeKind.DEADLINE: (False, False),  # set by the client or by what earlier attempts used up
}

OUTCOMES: Mapping[OutcomeKind, Outcome] = MappingProxyType(
    {kind: Outcome(kind, retryable, counts) for kind, (retryable, counts) in _MEANING.items()}
)
