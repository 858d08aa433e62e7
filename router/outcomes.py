"""The one table that turns what a backend did into an outcome."""

from __future__ import annotations

from backends import errors
from policies.outcome import OutcomeKind

KINDS: dict[type[errors.BackendError], OutcomeKind] = {
    errors.ConnectFailed: OutcomeKind.CONNECT_FAILED,
    errors.Refused: OutcomeKind.REFUSED,
    errors.Rejected: OutcomeKind.REJECTED,
    errors.Overflow: OutcomeKind.OVERFLOW,
    errors.NotServed: OutcomeKind.NOT_SERVED,
    errors.KeyRefused: OutcomeKind.KEY_REFUSED,
    errors.FirstTokenTimeout: OutcomeKind.FIRST_TOKEN_TIMEOUT,
    errors.AnswerTimeout: OutcomeKind.ANSWER_TIMEOUT,
    errors.Failed: OutcomeKind.FAILED,
    errors.ProtocolBroken: OutcomeKind.PROTOCOL_BROKEN,
    errors.StreamBroken: OutcomeKind.STREAM_BROKEN,
    errors.Diverged: OutcomeKind.DIVERGED,
    errors.DeadlinePassed: OutcomeKind.DEADLINE,
}


def kind_of(error: errors.BackendError) -> OutcomeKind:
    """The outcome of an attempt that ended with `error`."""
    return KINDS[type(error)]
