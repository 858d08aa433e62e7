"""Who answers a call, end to end: splits and cohorts, rules, pins, ejection and return; and `explain` says the same without sending."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from typer.testing import CliRunner

from router.cli import build
from tests.running import Router, config_for, running
from tests.upstream import Connection, Received, Upstream, answer, chat_answer, says, sends

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = """
split: {a: 0.75, b: 0.25}
stick_by: [header:x-user-id, user, conversation]
rules:
  - {when: {header: {x-canary: always}}, use: b}
  - {when: {tools: true, prompt_bytes_over: 2000}, use: b}
  - {when: {stream: true, kind: completions}, use: b}
""".strip()
SERVER = "clients: [{key_env: TESTERS, may_pin: true}]\nkeys_env: KEYS"
ENV = {"TESTERS": "tester", "KEYS": "anybody"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def config() -> AsyncIterator[str]:
    whole = sends(answer(chat_answer()))
    async with Upstream(whole) as a, Upstream(whole) as b:
        yield config_for({"a": a.url, "b": b.url}, MODEL, SERVER)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def router(config: str) -> AsyncIterator[Router]:
    async with running(config, ENV) as router:
        router.client.headers["authorization"] = "Bearer anybody"
        yield router


async def answered_by(router: Router, headers: dict[str, str] | None = None, **fields: Any) -> str:
    return (await router.chat(headers=headers, **fields)).headers["x-crossfade-backend"]


@pytest.mark.parametrize("by", ["header", "user", "conversation"])
async def test_a_caller_stays_where_he_is_and_the_shares_are_met(router: Router, by: str) -> None:
    """Fixed names, so the counts are the same in every run: 300 of them, a quarter to b, within three standard deviations."""
    homes: dict[int, str] = {}
    for _ in range(2):
        for number in range(300):
            if by == "header":
                home = await answered_by(router, {"x-user-id": f"user-{number}"}, user="ignored")
            elif by == "user":
                home = await answered_by(router, user=f"user-{number}")
            else:
                home = await answered_by(router, messages=[{"role": "user", "content": f"question {number}"}])
            assert homes.setdefault(number, home) == home
    assert 75 - 3 * 7.5 <= Counter(homes.values())["b"] <= 75 + 3 * 7.5


async def test_a_conversation_stays_where_it_began(router: Router) -> None:
    for number in range(20):
        turns: list[dict[str, Any]] = [{"role": "system", "content": "s"}, {"role": "user", "content": f"q {number}"}]
        first = await answered_by(router, messages=turns)
        turns += [{"role": "assistant", "content": "a"}, {"role": "user", "content": "and then?"}]
        assert await answered_by(router, messages=turns) == first


TOOLS = [{"type": "function", "function": {"name": "f"}}]
OF_A = "user-1"
REQUESTS: list[tuple[str, dict[str, str], dict[str, Any], str | None]] = [
    ("a header that a rule names", {"x-canary": "always"}, {}, "b"),
    ("the header with another value", {"x-canary": "never"}, {}, "a"),
    ("tools and a long prompt", {}, {"tools": TOOLS, "x": "y" * 2000}, "b"),
    ("tools and a short prompt", {}, {"tools": TOOLS}, "a"),
    ("empty tools and a long prompt", {}, {"tools": [], "x": "y" * 2000}, "a"),
    ("a long prompt without tools", {}, {"x": "y" * 2000}, "a"),
    ("a stream of another kind than the rule's", {}, {"stream": True}, "a"),
    ("a pin", {"x-crossfade-backend": "b", "authorization": "Bearer tester"}, {}, "b"),
    (
        "a pin before a rule",
        {"x-crossfade-backend": "a", "x-canary": "always", "authorization": "Bearer tester"},
        {},
        "a",
    ),
    ("a pin of a key that may not", {"x-crossfade-backend": "b"}, {}, None),
    ("a pin to nobody", {"x-crossfade-backend": "c", "authorization": "Bearer tester"}, {}, None),
    *[(f"the caller {number}", {"x-user-id": f"user-{number}"}, {}, "") for number in range(1, 9)],
]


@pytest.mark.parametrize(
    ("headers", "fields", "backend"), [row[1:] for row in REQUESTS], ids=[row[0] for row in REQUESTS]
)
async def test_a_call_goes_where_rules_pins_and_split_say_and_explain_says_so_before(
    router: Router,
    config: str,
    headers: dict[str, str],
    fields: dict[str, Any],
    backend: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    headers = {"x-user-id": OF_A, "authorization": "Bearer anybody", **headers}
    body = {"model": "jane", "messages": [{"role": "user", "content": "hi"}], **fields}
    raw = json.dumps(body, separators=(",", ":"))
    response = await router.client.post(
        "/v1/chat/completions", content=raw, headers={**headers, "content-type": "application/json"}
    )
    said = explained(
        config, json.dumps({"headers": headers, "body": body}, separators=(",", ":")), tmp_path, monkeypatch
    )
    if backend is None:
        assert response.status_code in (400, 403) and said is None
    else:
        took = response.headers["x-crossfade-backend"] if response.status_code == 200 else "a"
        assert said is not None and said["candidates"][0]["backend"] == took == (backend or took)


def explained(config: str, request: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What `crossfade explain --json` says of a request; None where it says that it would be refused."""
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)
    (folder / "crossfade.yaml").write_text(config)
    (folder / "request.json").write_text(request)
    command = ["explain", "-c", str(folder / "crossfade.yaml"), "-r", str(folder / "request.json"), "--json"]
    result = CliRunner().invoke(build(), command)
    assert result.exit_code in (0, 1), result.output
    return json.loads(result.stdout) if result.exit_code == 0 else None


async def test_explain_passes_over_a_backend_that_the_router_cannot_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
backends: {cloud: {kind: litellm, provider: openai}, a: {kind: vllm, url: "http://127.0.0.1:1"}}
models: {jane: {on: {cloud: gpt, a: real-a}, split: {cloud: 1.0}}}
"""
    said = explained(text, '{"model":"jane","messages":[{"role":"user","content":"hi"}]}', tmp_path, monkeypatch)
    assert said["candidates"] == [{"backend": "a", "reason": "fallback", "detail": ""}]
    assert said["passed_over"] == [{"backend": "cloud", "reason": "incapable", "lacking": []}]


BAD: list[tuple[str, str]] = [
    ("no JSON", "hello"),
    ("an unknown model", '{"model":"x","messages":[1]}'),
    ("no messages", '{"model":"jane"}'),
    ("a path that is not served", '{"path":"/v1/files","body":{"model":"jane"}}'),
]


@pytest.mark.parametrize("request_text", [row[1] for row in BAD], ids=[row[0] for row in BAD])
async def test_explain_says_no_where_the_router_would(
    config: str, request_text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert explained(config, request_text, tmp_path, monkeypatch) is None


# -- ejection --------------------------------------------------------------------------------------


async def test_a_backend_that_fails_in_a_row_is_left_alone_and_comes_back_by_itself() -> None:
    is_well = False

    async def script(request: Received, connection: Connection) -> None:
        await (says("x") if is_well else sends(answer({"error": "x"}, "500 Oh")))(request, connection)

    model = "split: {a: 1.0}\nretry: {attempts_per_backend: 1}\neject: {consecutive_failures: 3, for_s: [0.3, 0.4]}"
    async with (
        Upstream(script) as a,
        Upstream(says("b")) as b,
        running(config_for({"a": a.url, "b": b.url}, model)) as router,
    ):
        for number in range(3):
            assert await answered_by(router, messages=[{"role": "user", "content": f"question {number}"}]) == "b"
        assert len(a.received) == 3
        states = (await router.client.get("/health/ready")).json()["models"]["jane"]
        assert states["a"][0]["state"] != "in_rotation" and states["b"][0]["state"] == "in_rotation"
        assert (await router.chat()).headers["x-crossfade-attempts"] == "1"
        is_well = True
        async with asyncio.timeout(10):
            while await answered_by(router) != "a":
                await asyncio.sleep(0.02)
            while {await answered_by(router) for _ in range(20)} != {"a"}:  # it is ramped up
                await asyncio.sleep(0.02)


async def test_while_one_call_probes_an_ejected_backend_the_others_go_elsewhere() -> None:
    probing, leave = asyncio.Event(), asyncio.Event()

    async def script(request: Received, connection: Connection) -> None:
        if len(a.received) == 1:
            await connection.write(answer({"error": "x"}, "500 Oh"))
            return
        probing.set()
        await leave.wait()
        await says("x")(request, connection)

    model = "split: {a: 1.0}\nretry: {attempts_per_backend: 1}\neject: {consecutive_failures: 1, for_s: [0.05, 0.05]}"
    async with (
        Upstream(script) as a,
        Upstream(says("b")) as b,
        running(config_for({"a": a.url, "b": b.url}, model)) as router,
    ):
        assert await answered_by(router) == "b"
        while not probing.is_set():
            call = asyncio.create_task(answered_by(router))
            await asyncio.wait((call, asyncio.ensure_future(probing.wait())), return_when=asyncio.FIRST_COMPLETED)
        assert {await answered_by(router) for _ in range(10)} == {"b"}
        leave.set()
        assert await call == "a"
        async with asyncio.timeout(10):
            while await answered_by(router) != "a":  # as often as its ramp lets it be
                await asyncio.sleep(0)


async def test_the_only_backend_is_never_left_alone() -> None:
    model = "split: {a: 1.0}\nretry: {attempts_per_backend: 1}\neject: {consecutive_failures: 1}"
    async with (
        Upstream(sends(answer({"error": "x"}, "500 Oh"))) as a,
        running(config_for({"a": a.url}, model)) as router,
    ):
        for _ in range(4):
            assert (await router.chat()).status_code == 503
    assert len(a.received) == 4


async def test_what_is_down_at_the_start_takes_no_call_and_says_no_address() -> None:
    async with Upstream(says("x")) as a, Upstream(says("b")) as b:
        await a.stop()
        async with running(config_for({"a": a.url, "b": b.url})) as router:
            async with asyncio.timeout(5):
                while True:
                    report = await router.client.get("/health/ready")
                    if report.json()["models"]["jane"]["a"][0]["state"] == "ejected":
                        break
                    await asyncio.sleep(0.01)
            assert (await router.chat()).headers["x-crossfade-attempts"] == "1"
    assert "127.0.0.1" not in report.text and str(a.port) not in report.text
