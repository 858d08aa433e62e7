"""What only the operator can mend is said by name, at once, and then no more than once a minute."""

from __future__ import annotations

import pytest

from policies.outcome import OutcomeKind
from router.alerts import AGAIN_S, Alerts
from tests.running import config_for, running
from tests.upstream import Upstream, answer, says, sends

MENDABLE = {OutcomeKind.KEY_REFUSED, OutcomeKind.NOT_SERVED, OutcomeKind.OTHER_MODEL}


@pytest.mark.parametrize(
    ("status", "words"),
    [("401 No", "backends.a.key_env"), ("404 No", "models.jane.on")],
    ids=["a key that is refused", "a model that is not there"],
)
async def test_a_call_that_moves_for_the_operators_sake_alerts_the_operator_once(
    status: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = sends(answer({"error": {"message": "x"}}, status))
    async with (
        Upstream(wrong) as a,
        Upstream(says("from b")) as b,
        running(config_for({"a": a.url, "b": b.url})) as router,
    ):
        for _ in range(3):
            assert (await router.chat()).headers["x-crossfade-backend"] == "b"
    alerts = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(alerts) == 1 and words in alerts[0] and "backend a " in alerts[0]


def test_an_alert_comes_back_after_its_time_and_each_has_its_own(caplog: pytest.LogCaptureFixture) -> None:
    alerts = Alerts()
    for now_s in (0.0, AGAIN_S - 1, AGAIN_S, AGAIN_S + 1):
        alerts.about("jane", "a", OutcomeKind.KEY_REFUSED, now_s)
    assert len(caplog.records) == 2
    alerts.about("jane", "a", OutcomeKind.NOT_SERVED, 1.0)
    alerts.about("jane", "b", OutcomeKind.KEY_REFUSED, 1.0)
    assert len(caplog.records) == 4


@pytest.mark.parametrize("kind", sorted({*OutcomeKind} - MENDABLE))
def test_nothing_else_alerts(kind: OutcomeKind, caplog: pytest.LogCaptureFixture) -> None:
    Alerts().about("jane", "a", kind, 0.0)
    assert not caplog.records
