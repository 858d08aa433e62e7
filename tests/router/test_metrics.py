"""The text that Prometheus scrapes: it parses, it adds up, and no caller can make it grow."""

from __future__ import annotations

import random
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from router.building import build_fleet
from router.config import loads
from router.gate import Gate
from router.metrics import SECONDS, Durations, Metrics, exposition
from tests.continuing import usage_event
from tests.hearing import streams
from tests.running import Router, config_for, running
from tests.telling import DONE, ROLE, STOP
from tests.upstream import Backend, Connection, Received, Upstream, answer, chat_answer, event, says, sends

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: str) -> Samples:
    """Every sample by name and labels; raises where the text is not Prometheus'."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def scraped(router: Router) -> Samples:
    response = await router.client.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parsed(response.text)


async def test_calls_attempts_and_durations_add_up() -> None:
    model = "split: {a: 1.0}\nretry: {attempts_per_backend: 1}"
    async with (
        Upstream(sends(answer({"error": "x"}, "500 Oh"))) as a,
        Upstream(says("x")) as b,
        running(config_for({"a": a.url, "b": b.url}, model)) as router,
    ):
        for stream in (True, False, False):
            assert (await router.chat(stream=stream)).status_code == 200
        samples = await scraped(router)
    by_b = (("backend", "b"), ("model", "jane"))
    assert samples["crossfade_calls_total", (*by_b, ("result", "ok"))] == 3
    assert samples["crossfade_attempts_total", (("backend", "a"), ("model", "jane"), ("outcome", "failed"))] == 3
    assert samples["crossfade_steps_total", (("model", "jane"), ("reason", "next_backend"))] == 3
    for name in ("crossfade_call_seconds", "crossfade_first_token_seconds"):
        assert samples[f"{name}_count", by_b] == samples[f"{name}_bucket", (by_b[0], ("le", "+Inf"), by_b[1])] == 3
        assert samples[f"{name}_sum", by_b] > 0
    assert samples["crossfade_share", (("backend", "a"), ("model", "jane"))] == 1
    assert samples["crossfade_revision", ()] == 1


@pytest.mark.parametrize("asked", [{}, {"stream_options": {"include_usage": True}}], ids=["not asked for", "asked for"])
async def test_tokens_are_counted_whether_the_client_wants_to_know_them_or_not(asked: dict[str, Any]) -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 3}, "completion_tokens_details": {"reasoning_tokens": 2}}
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
    whole = sends(answer({**chat_answer(), "usage": {**usage, **details}}))
    text = [ROLE, event({"content": "x"}), STOP]
    streamed = streams(*text, usage_event(9, 5, prompt_tokens_details=None), DONE)
    backend = Backend(whole)
    async with Upstream(backend) as a, running(config_for({"a": a.url})) as router:
        assert (await router.chat()).json()["usage"] == {**usage, **details}
        backend.script = streamed
        assert ("usage" in (await router.chat(stream=True, **asked)).text) is bool(asked)
        samples = await scraped(router)
    by_a = (("backend", "a"),)
    counted = {"prompt": 18, "completion": 10, "cached": 3, "reasoning": 2}
    for direction, tokens in counted.items():
        assert samples["crossfade_tokens_total", (*by_a, ("direction", direction), ("model", "jane"))] == tokens


async def test_no_word_of_a_caller_or_a_backend_becomes_a_label() -> None:
    calls = 0

    async def script(request: Received, connection: Connection) -> None:
        nonlocal calls
        calls += 1
        error = {"message": "no", "code": f"code-{calls}", "type": f"type-{calls}"}
        await sends(answer({"error": error}, "400 No"))(request, connection)

    async with Upstream(script) as a, running(config_for({"a": a.url})) as router:
        await router.chat()
        first = await scraped(router)
        for number in range(30):
            await router.chat(user=f"u{number}", headers={"x-user-id": f"u{number}", "x-request-id": f"r{number}"})
            await router.chat(model=f"model-{number}")
            await router.client.post(f"/v1/path-{number}")
        await router.client.get("/v1/chat/completions")
        after = await scraped(router)
    assert {key for key in after if key not in first} == {
        ("crossfade_turned_away_total", (("reason", "model_not_found"),)),
        ("crossfade_turned_away_total", (("reason", "method_not_allowed"),)),
    }
    assert after["crossfade_turned_away_total", (("reason", "model_not_found"),)] == 30
    assert calls == 31


async def test_a_scrape_before_the_first_call_parses_whatever_the_names_are() -> None:
    text = config_for({"a": "http://127.0.0.1:1"}).replace("  jane:", '  "ja\\"n\\\\e/1.5 ü":')
    fleet = build_fleet(loads(text, {}).config, {}, random.Random())
    metrics = Metrics()
    model = next(iter(fleet.models))
    metrics.calls[model, "a", "ok"] += 1
    samples = parsed(exposition(metrics, fleet, Gate(1, 1, 1)).decode())
    assert samples["crossfade_calls_total", (("backend", "a"), ("model", model), ("result", "ok"))] == 1


@pytest.mark.parametrize("seconds", [0.0, SECONDS[0], 0.0011, SECONDS[-1], 1e9])
def test_a_duration_falls_into_the_first_bucket_that_holds_it(seconds: float) -> None:
    durations = Durations()
    durations.observe(seconds)
    for bound, count in durations.buckets():
        assert count == (1.0 if seconds <= float(bound) else 0.0)
    assert durations.sum_s == seconds
