"""The one table that turns what a backend did into an outcome."""

from __future__ import annotations

from backends import errors
from policies.facts import CallFacts
from policies.outcome import OUTCOMES, Outcome, OutcomeKind

KINDS: dict[type[errors.BackendError], OutcomeKind] = {
    errors.ConnectFailed: OutcomeKind.CONNECT_FAILED,
    errors.Refused: OutcomeKind.REFUSED,
    errors.Rejected: OutcomeKind.REJECTED,
    errors.Overflow: OutcomeKind.OVERFLOW,
    errors.NotServed: OutcomeKind.NOT_SERVED,
    errors.RouteMissing: OutcomeKind.ROUTE_MISSING,
    errors.NeedMissing: OutcomeKind.NEED_MISSING,
    errors.KeyRefused: OutcomeKind.KEY_REFUSED,
    errors.FirstTokenTimeout: OutcomeKind.FIRST_TOKEN_TIMEOUT,
    errors.AnswerTimeout: OutcomeKind.ANSWER_TIMEOUT,
    errors.Failed: OutcomeKind.FAILED,
    errors.ProtocolBroken: OutcomeKind.PROTOCOL_BROKEN,
    errors.NotAccepted: OutcomeKind.NOT_ACCEPTED,
    errors.StreamBroken: OutcomeKind.STREAM_BROKEN,
    errors.Diverged: OutcomeKind.DIVERGED,
    errors.DeadlinePassed: OutcomeKind.DEADLINE,
}


def kind_of(error: errors.BackendError) -> OutcomeKind:
    """The outcome of an attempt that ended with `error`."""
    return KINDS[type(error)]


def seen_from(facts: CallFacts, error: errors.BackendError) -> errors.BackendError:
    """What `error` means for this call: a server that has no chat is not one that lacks an API, but the wrong server.

    What a call does not need, nobody lacks: whatever is said of it then is of this call alone.
    """
    kind = facts.kind
    if type(error) is errors.RouteMissing and kind == "chat":
        return errors.NotServed(str(error), status=error.status, body=error.body)
    if isinstance(error, errors.NeedMissing) and error.need not in facts.needs:
        return errors.Rejected(str(error), status=error.status, body=error.body)
    return error


def outcome_of(error: errors.BackendError) -> Outcome:
    """What follows from it, with what the backend said of when to come back."""
    outcome = OUTCOMES[kind_of(error)]
    if error.retry_after_s is None:
        return outcome
    return Outcome(outcome.kind, outcome.retryable, outcome.counts_against_backend, error.retry_after_s)
