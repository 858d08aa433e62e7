"""The table of outcomes: complete, consistent, and right about who pays."""

from __future__ import annotations

import pytest

from policies.outcome import OUTCOMES, OutcomeKind

CALLERS_DOING = {OutcomeKind.REJECTED, OutcomeKind.OVERFLOW, OutcomeKind.CLIENT_GONE, OutcomeKind.DEADLINE}
CHANCE = {OutcomeKind.DIVERGED, OutcomeKind.OUTRUN}
NOT_OFFERED = {OutcomeKind.ROUTE_MISSING, OutcomeKind.NEED_MISSING}
OVER = {
    OutcomeKind.OK,
    OutcomeKind.REJECTED,
    OutcomeKind.STREAM_BROKEN,
    OutcomeKind.OTHER_MODEL,
    OutcomeKind.CLIENT_GONE,
    OutcomeKind.DEADLINE,
} | CHANCE


@pytest.mark.parametrize("kind", OutcomeKind)
def test_every_kind_has_its_row(kind: OutcomeKind) -> None:
    assert OUTCOMES[kind].kind is kind
    assert OUTCOMES[kind].retry_after_s is None


@pytest.mark.parametrize("kind", OutcomeKind)
def test_only_the_backends_own_failures_count_against_it(kind: OutcomeKind) -> None:
    is_innocent = kind is OutcomeKind.OK or kind in CALLERS_DOING | CHANCE | NOT_OFFERED
    assert OUTCOMES[kind].counts_against_backend is not is_innocent


@pytest.mark.parametrize("kind", OutcomeKind)
def test_what_is_over_is_not_tried_again(kind: OutcomeKind) -> None:
    assert OUTCOMES[kind].retryable is (kind not in OVER)


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        OUTCOMES[OutcomeKind.OK] = OUTCOMES[OutcomeKind.FAILED]  # type: ignore[index]
