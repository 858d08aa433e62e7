"""Health by outcome, end to end: whose failures count and whose don't, who does not attract calls, and how slowly one comes back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.running import Router, config_for, running
from tests.upstream import Connection, Received, Script, Upstream, answer, chat_answer, hangs, says, sends, stream

MODEL = "split: {a: 1.0}\nretry: {attempts_per_backend: 1}"
OH_NO = sends(answer({"error": "x"}, "500 Oh"))


async def poisoned(request: Received, connection: Connection) -> None:
    """A backend that one prompt breaks, and no other."""
    await (OH_NO if b"poison" in request.body else says("x"))(request, connection)


@asynccontextmanager
async def two_backends(script: Script, model: str = MODEL) -> AsyncIterator[tuple[Router, Upstream]]:
    """A router whose calls go to a, which plays `script`, and may move to b."""
    async with (
        Upstream(script) as a,
        Upstream(says("b")) as b,
        running(config_for({"a": a.url, "b": b.url}, model)) as router,
    ):
        yield router, a


def asks(content: str, user: str | None = None) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **({"user": user} if user else {})}


async def answered_by(router: Router, content: str = "hi", user: str | None = None) -> str:
    return (await router.chat(**asks(content, user))).headers["x-crossfade-backend"]


async def state_of(router: Router, backend: str = "a") -> str:
    rows = (await router.client.get("/health/ready")).json()["models"]["jane"]
    state: str = rows[backend][0]["state"]
    return state


# -- votes -----------------------------------------------------------------------------------------


async def test_one_caller_with_one_poisonous_prompt_ejects_nobody_and_others_notice_nothing() -> None:
    async with two_backends(poisoned) as (router, a):
        for _ in range(12):
            assert await answered_by(router, "poison", "eve") == "b"
        assert len(a.received) == 12, "one attempt a call"
        assert await state_of(router) == "in_rotation"
        assert {await answered_by(router, "hi", user) for user in ("ann", "bob", "eve")} == {"a"}


async def test_a_poisonous_prompt_under_ever_new_names_ejects_nobody() -> None:
    async with two_backends(poisoned) as (router, _):
        for number in range(12):
            assert await answered_by(router, "poison", f"eve {number}") == "b"
        assert await answered_by(router) == "a"


async def test_one_caller_with_ever_new_poison_ejects_nobody() -> None:
    async with two_backends(poisoned) as (router, _):
        for number in range(12):
            assert await answered_by(router, f"poison {number}", "eve") == "b"
        assert await answered_by(router) == "a"


async def test_a_route_that_a_backend_does_not_have_is_no_callers_way_to_eject_it() -> None:
    async def chat_only(request: Received, connection: Connection) -> None:
        found = request.path == "/v1/chat/completions"
        await (says("x") if found else sends(answer({"detail": "Not Found"}, "404 Not Found")))(request, connection)

    async with two_backends(chat_only) as (router, _):
        for _ in range(12):
            await router.client.post("/v1/embeddings", json={"model": "jane", "input": "x", "user": "eve"})
        assert await answered_by(router) == "a"


async def test_two_callers_who_both_fail_eject() -> None:
    async with two_backends(OH_NO) as (router, a):
        for number in range(5):
            assert await answered_by(router, f"question {number}", ("ann", "bob")[number % 2]) == "b"
        assert await state_of(router) == "ejected" and len(a.received) == 5


async def test_one_caller_alone_ejects_what_refuses_connections() -> None:
    async with two_backends(says("x")) as (router, a):
        assert await answered_by(router) == "a"
        await a.stop()
        for _ in range(6):
            assert await answered_by(router) == "b"
        assert (await router.chat()).headers["x-crossfade-attempts"] == "1"


async def test_the_last_one_stays_in_rotation_and_is_tried() -> None:
    model = MODEL + "\neject: {consecutive_failures: 1, for_s: [300, 300]}"
    async with two_backends(OH_NO, model) as (router, _):
        assert await answered_by(router) == "b"
        assert await state_of(router, "a") == "ejected"
    async with Upstream(OH_NO) as a, running(config_for({"a": a.url}, model)) as router:
        assert (await router.chat()).status_code == 503
        assert await state_of(router) == "in_rotation"
        assert (await router.client.get("/health/ready")).status_code == 200


# -- what never counts -----------------------------------------------------------------------------


async def test_deadlines_that_clients_set_too_short_count_against_nobody() -> None:
    async with two_backends(hangs) as (router, a):
        for number in range(7):
            response = await router.chat(headers={"x-crossfade-timeout-s": "0.05"}, **asks(f"question {number}"))
            assert response.status_code == 504
        assert len(a.received) == 7 and await state_of(router) == "in_rotation"
        metrics = (await router.client.get("/metrics")).text
        assert 'crossfade_attempts_total{backend="a",model="jane",outcome="deadline"} 7.0' in metrics


async def test_clients_who_leave_count_against_nobody() -> None:
    async with two_backends(hangs) as (router, a):
        for number in range(7):
            a.gone.clear()
            with pytest.raises(httpx.ReadTimeout):
                await router.client.post(
                    "/v1/chat/completions",
                    json={"model": "jane", **asks(f"question {number}")},
                    timeout=httpx.Timeout(5, read=0.05),
                )
            await asyncio.wait_for(a.gone.wait(), 5)
        assert len(a.received) == 7 and await state_of(router) == "in_rotation"


@pytest.mark.parametrize("status", ["400 Bad Request", "413 Too Large", "422 Unprocessable"])
async def test_clients_mistakes_count_against_nobody(status: str) -> None:
    async with two_backends(sends(answer({"error": {"message": "x", "type": "y"}}, status))) as (router, a):
        for number in range(7):
            assert (await router.chat(**asks(f"question {number}"))).status_code == int(status[:3])
        assert len(a.received) == 7 and await state_of(router) == "in_rotation"


async def test_the_outcome_is_charged_as_the_stream_ends_and_not_as_it_begins() -> None:
    """Five streams begin well and are in mid-stream at once; that they break is what counts."""
    begun, leave = asyncio.Event(), asyncio.Event()

    async def breaks(request: Received, connection: Connection) -> None:
        await connection.write(*stream("Hello", "you")[:3])
        if len(a.received) == 5:
            begun.set()
        await leave.wait()
        connection.reset()

    async with two_backends(breaks, MODEL + "\nresume: {by: []}") as (router, a):
        calls = [asyncio.create_task(router.chat(stream=True, **asks(f"question {n}"))) for n in range(5)]
        await asyncio.wait_for(begun.wait(), 5)
        assert await state_of(router) == "in_rotation"
        leave.set()
        await asyncio.gather(*calls)
        assert await state_of(router) == "ejected"


async def test_a_503_for_every_other_call_puts_a_backend_out_once_and_not_in_and_out() -> None:
    """The row never gets long and the health probe is always well: the share decides, and then time alone."""

    async def flaps(request: Received, connection: Connection) -> None:
        busy = sends(answer({"error": "busy"}, "503 Service Unavailable"))
        await (busy if len(a.received) % 2 else says("x"))(request, connection)

    async with two_backends(flaps) as (router, a):
        changes, last = 0, "in_rotation"
        for number in range(60):
            assert (await router.chat(**asks(f"question {number}"))).status_code == 200
            state = await state_of(router)
            changes += state != last
            last = state
        assert (changes, last, len(a.received)) == (1, "ejected", 11)


# -- the wrong model -------------------------------------------------------------------------------


def of_kind(kind: str, a: Upstream, b: Upstream) -> str:
    return f"""
backends: {{a: {{kind: {kind}, url: "{a.url}"}}, b: {{kind: openai, url: "{b.url}"}}}}
models: {{jane: {{on: {{a: openai/gpt-oss-20b, b: x}}, split: {{a: 1.0}}, eject: {{for_s: [300, 300]}}}}}}
"""


def says_as(name: str) -> Script:
    """A backend that answers every call as the model `name`."""

    async def script(request: Received, connection: Connection) -> None:
        if request.json.get("stream"):
            await connection.write(*stream("Hello", "you", model=name))
        else:
            await connection.write(answer(chat_answer("Hello", name)))

    return script


@pytest.mark.parametrize(
    ("is_stream", "name", "shown"),
    [(False, "qwen3-4b", "qwen3-4b"), (True, "qwen3-4b", "qwen3-4b"), (False, "qwen\nforged", "another")],
    ids=["whole", "streamed", "a name that is none"],
)
async def test_an_answer_of_another_model_is_used_and_counts_against_the_backend(
    is_stream: bool, name: str, shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        Upstream(says_as(name)) as a,
        Upstream(says("b")) as b,
        running(of_kind("lmstudio", a, b)) as router,
    ):
        for _ in range(5):
            response = await router.chat(stream=is_stream)
            assert response.headers["x-crossfade-backend"] == "a" and "Hello" in response.text
            assert "qwen" not in response.text and '"jane"' in response.text
        assert await answered_by(router) == "b"
        metrics = (await router.client.get("/metrics")).text
    assert 'crossfade_attempts_total{backend="a",model="jane",outcome="other_model"} 5.0' in metrics
    alerts = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(alerts) == 1 and f"answered as {shown} " in alerts[0] and "models.jane.on" in alerts[0]


async def test_only_the_answers_that_strayed_count() -> None:
    async with (
        Upstream(says_as("qwen3-4b")) as wrong,
        Upstream(says_as("openai/gpt-oss-20b")) as right,
        running(
            of_kind("lmstudio", wrong, right).replace(f'url: "{wrong.url}"', f'urls: ["{wrong.url}", "{right.url}"]')
        ) as router,
    ):
        for _ in range(60):
            await router.chat()
        metrics = (await router.client.get("/metrics")).text
    assert 0 < len(wrong.received) < 60
    counted = f'crossfade_attempts_total{{backend="a",model="jane",outcome="other_model"}} {len(wrong.received)}.0'
    assert counted in metrics


async def test_a_probing_call_that_another_model_answers_brings_nobody_back() -> None:
    async with (
        Upstream(says_as("qwen3-4b")) as a,
        Upstream(says("b")) as b,
        running(of_kind("lmstudio", a, b).replace("[300, 300]", "[0.05, 300]")) as router,
    ):
        for _ in range(5):
            await router.chat()
        assert await state_of(router) == "ejected"
        async with asyncio.timeout(10):
            while len(a.received) < 7:
                await router.chat(stream=True)
                await asyncio.sleep(0.01)
        assert await state_of(router) == "ejected"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("lmstudio", "openai/gpt-oss-20b"),
        ("lmstudio", "gpt-oss-20b:2"),
        ("llama-server", "/models/gpt-oss-20b.gguf"),
        ("openai", "gpt-oss-2026-08-01"),
    ],
)
async def test_a_name_that_is_usual_for_a_kind_counts_against_nobody(kind: str, name: str) -> None:
    async with Upstream(says_as(name)) as a, Upstream(says("b")) as b, running(of_kind(kind, a, b)) as router:
        for _ in range(6):
            assert await answered_by(router) == "a"
        assert "other_model" not in (await router.client.get("/metrics")).text


# -- failing fast ----------------------------------------------------------------------------------


def two_replicas(one: str, other: str) -> str:
    """One backend of two replicas; no failure ejects."""
    return f"""
backends: {{a: {{kind: vllm, urls: ["{one}", "{other}"]}}}}
models:
  jane:
    on: {{a: x}}
    split: {{a: 1.0}}
    retry: {{attempts_per_backend: 2, budget_ratio: 1.0}}
    eject: {{at_most_share: 0}}
"""


REFUSALS: list[tuple[str, bytes]] = [
    ("429 with a retry-after", answer({"error": "busy"}, "429 Too Many Requests", "retry-after: 30")),
    ("503 without one", answer({"error": "busy"}, "503 Service Unavailable")),
    ("500", answer({"error": "x"}, "500 Oh")),
]


@pytest.mark.parametrize("refusal", [row[1] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
async def test_a_replica_that_fails_at_once_does_not_attract_calls(refusal: bytes) -> None:
    """The other replica is busy with three calls for all that time; by calls in flight alone the idle one would get all of them."""
    leave = asyncio.Event()

    async def works(request: Received, connection: Connection) -> None:
        if b"long" in request.body:
            await leave.wait()
        await says("x")(request, connection)

    async with (
        Upstream(sends(refusal)) as refuses,
        Upstream(works) as busy,
        running(two_replicas(refuses.url, busy.url)) as router,
    ):
        long = []
        while sum(b"long" in request.body for request in busy.received) < 3:
            long.append(asyncio.create_task(router.chat(**asks("long"))))
            await asyncio.sleep(0.01)
        before = len(refuses.received)
        statuses = Counter([(await router.chat(**asks("short"))).status_code for _ in range(30)])
        leave.set()
        await asyncio.gather(*long)
    assert len(refuses.received) - before <= 4, statuses


# -- slow start ------------------------------------------------------------------------------------


async def test_a_backend_that_comes_back_gets_its_calls_by_and_by_and_the_trail_says_so() -> None:
    is_well = False

    async def script(request: Received, connection: Connection) -> None:
        await (says("x") if is_well else OH_NO)(request, connection)

    model = MODEL + "\neject: {consecutive_failures: 1, for_s: [1.0, 1.0]}"
    async with two_backends(script, model) as (router, _):
        assert await answered_by(router) == "b"
        is_well = True
        trails = []
        async with asyncio.timeout(15):
            while await answered_by(router) != "a":
                await asyncio.sleep(0.02)
            for _ in range(30):
                response = await router.chat(headers={"x-crossfade-explain": "1"})
                assert response.headers["x-crossfade-attempts"] == "1", "nobody waits for a backend that ramps up"
                trails.append(response.headers["x-crossfade-trail"])
            while {await answered_by(router) for _ in range(30)} != {"a"}:
                await asyncio.sleep(0.02)
    assert any(trail.startswith("fallback (a ramping) -> b") for trail in trails)
