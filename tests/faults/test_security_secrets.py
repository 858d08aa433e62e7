"""Keys and prompts are in nothing that is shown (facts B5, 51-53): logs, metrics, answers, representations; and the log is ours alone."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from router.building import build_admission, build_fleet
from router.config import loads
from tests.rawclient import Answer, RawClient, connected, request
from tests.running import config_for
from tests.serving import RunningRouter, free_port
from tests.upstream import (
    STREAM_HEAD,
    Backend,
    Script,
    Upstream,
    answer,
    chunked,
    event,
    hangs_up_after,
    says,
    sends,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLIENT_KEY, BACKEND_KEY, PROMPT = "sk-MARKER-client", "sk-MARKER-backend", "MARKER prompt"
SECRET = re.compile("MARKER", re.IGNORECASE)
RECORD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR) [a-z.]+ .+")
SAID_AT_START = "crossfade: listening on "
KEYS = {"CLIENTS": CLIENT_KEY, "BACKEND": BACKEND_KEY}
FORGED = "\r\n2026-01-01 00:00:00,000 ERROR crossfade FORGED\x1b[31m {0} %s"


@dataclass
class Stage:
    process: RunningRouter
    port: int
    backend: Backend
    heard: list[Answer] = field(default_factory=list)

    async def ask(self, *headers: str, path: str = "/v1/chat/completions", **fields: object) -> Answer:
        """One call with secrets in every place that a client fills."""
        body = {"model": "jane", "messages": [{"role": "user", "content": PROMPT}], "user": PROMPT, **fields}
        lines = [f"x-user-id: {PROMPT}", f"cookie: {PROMPT}", *headers]
        sent = request(json.dumps(body).encode(), *lines, line=f"POST {path} HTTP/1.1")
        async with connected(self.port) as client:
            await client.send(sent)
            self.heard.append(await client.answer())
        return self.heard[-1]

    async def get(self, path: str) -> str:
        async with connected(self.port) as client:
            await client.send(request(line=f"GET {path} HTTP/1.1", length=False))
            return (await client.answer()).body.decode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    backend, port = Backend(), free_port()
    async with Upstream(backend) as a:
        config = {
            "server": {"port": port, "keys_env": "CLIENTS"},
            "backends": {"a": {"kind": "vllm", "url": a.url, "key_env": "BACKEND"}},
            "models": {"jane": {"on": {"a": "real"}, "split": {"a": 1.0}, "retry": {"attempts_per_backend": 1}}},
        }
        process = RunningRouter(config, env=KEYS)
        await asyncio.to_thread(process.__enter__)
        try:
            yield Stage(process, port, backend)
        finally:
            await asyncio.to_thread(process.__exit__, None, None, None)


KEY = f"authorization: Bearer {CLIENT_KEY}"
QUOTE = f"Incorrect key {BACKEND_KEY} for {PROMPT}{FORGED}"
ERROR = {"error": {"message": QUOTE, "type": QUOTE, "code": QUOTE, "param": QUOTE}}
EVENT = b"data: " + json.dumps(ERROR).encode() + b"\n\n"
COMMITTED = (STREAM_HEAD, chunked(event({"content": "one "})))


def fails(status: str) -> Script:
    return sends(answer(ERROR, status, f"x-secret: {BACKEND_KEY}"))


FAULTS: list[tuple[str, Script, bool]] = [
    *((status, fails(status), False) for status in ("500 Oh", "503 Busy", "429 Slow", "404 No", "401 No", "403 No", "418 Tea")),
    ("an error in a 200", sends(answer(ERROR)), False),
    ("an error as the first event", sends(STREAM_HEAD, chunked(EVENT)), True),
    ("an error in mid-stream", sends(*COMMITTED, chunked(EVENT)), True),
    ("a break in mid-stream", hangs_up_after(*COMMITTED), True),
    ("malformed JSON in mid-stream", sends(*COMMITTED, chunked(b"data: {" + QUOTE.encode() + b"\n\n")), True),
    ("text in place of an answer", sends(answer(QUOTE.encode(), content_type="text/html")), False),
    ("text in place of an answer, failed", sends(answer(QUOTE.encode(), "500 Oh", content_type="text/plain")), False),
    ("garbage", sends(b"MARKER\r\n\r\n"), False),
    ("a coding nobody asked for", sends(answer(b"x", "200 OK", "content-encoding: gzip")), False),
]  # fmt: skip


@pytest.mark.parametrize(("script", "stream"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS])
async def test_a_backend_that_quotes_secrets_is_quoted_nowhere(stage: Stage, script: Script, stream: bool) -> None:
    stage.backend.script = script
    got = await stage.ask(KEY, "x-crossfade-explain: 1", stream=stream)
    assert got.headers["x-crossfade-backend"] == "a", "the call has met the fault"
    told = got.body.decode().replace(PROMPT, "") if got.status == 418 else got.body.decode()
    assert not SECRET.search(told + str(got.headers)), told
    await is_clean(stage)


async def test_a_rejection_is_passed_on_without_the_routers_key(stage: Stage) -> None:
    stage.backend.script = fails("400 Bad")
    got = await stage.ask(KEY)
    assert got.status == 400 and BACKEND_KEY not in got.body.decode() and PROMPT in got.json["error"]["message"]
    await is_clean(stage)


REFUSED: list[tuple[str, list[str], str, dict[str, object], int]] = [
    ("no key", [], "/v1/chat/completions", {}, 401),
    ("a wrong key", [f"authorization: Bearer {CLIENT_KEY}x"], "/v1/chat/completions", {}, 401),
    ("a basic key", [f"authorization: Basic {CLIENT_KEY}"], "/v1/chat/completions", {}, 401),
    ("a key in the query", [], f"/v1/chat/completions?key={CLIENT_KEY}", {}, 401),
    ("a key in a path", [KEY], f"/v1/{CLIENT_KEY}", {}, 404),
    ("a key in a broken path", [KEY], f"/v1/{CLIENT_KEY}%0d%0aFORGED", {}, 404),
    ("a pin", [KEY, f"x-crossfade-backend: {PROMPT}"], "/v1/chat/completions", {}, 403),
    ("a time limit", [KEY, f"x-crossfade-timeout-s: {PROMPT}"], "/v1/chat/completions", {}, 400),
    ("a priority", [KEY, f"x-crossfade-priority: {PROMPT}"], "/v1/chat/completions", {}, 400),
    ("a type", [KEY, f"content-encoding: {PROMPT}"], "/v1/chat/completions", {}, 415),
    ("messages that are text", [KEY], "/v1/chat/completions", {"messages": PROMPT}, 400),
    ("a stream that is text", [KEY], "/v1/chat/completions", {"stream": PROMPT}, 400),
]


@pytest.mark.parametrize(
    ("headers", "path", "fields", "status"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
async def test_a_refusal_repeats_no_secret(
    stage: Stage, headers: list[str], path: str, fields: dict[str, object], status: int
) -> None:
    stage.backend.script = says("x")
    got = await stage.ask(*headers, path=path, **fields)
    assert got.status == status and not SECRET.search(got.body.decode() + str(got.headers))
    await is_clean(stage)


async def test_what_is_no_http_is_not_repeated_and_costs_no_line_of_the_log(stage: Stage) -> None:
    before = stage.process.log()
    for sent in (
        b"MARKER\r\n\r\n",
        b"GET /MARKER\x00 HTTP/1.1\r\n\r\n",
        request(b"", "x-a: MARKER\x00"),
        request(b"", "host: MARKER/x"),
    ):
        async with connected(stage.port) as client:
            await client.send(sent)
            assert not SECRET.search(str(await client.answer()))
    assert stage.process.log() == before


NAMES = ["jane\r\nFORGED", "jane\x1b[31m", "{jane}", "%s%n", '"},{"level":"ERROR', "MARKER\u2028x", "x" * 100]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name)[:20])
async def test_nothing_that_a_caller_names_writes_into_the_log(stage: Stage, name: str) -> None:
    stage.backend.script = fails("500 Oh")
    printable = re.sub(r"[^ -~]", "?", name)
    await stage.ask(KEY, f"x-request-id: {printable}", user=name, model=name)
    await stage.ask(KEY, f"x-request-id: {printable}", f"x-user-id: {printable}", user=name)
    await is_clean(stage)


async def test_no_caller_makes_the_metrics_grow(stage: Stage) -> None:
    """10,000 models, users, ids, keys and paths that nobody has heard of, on a few connections."""
    stage.backend.script = says("x")
    await stage.ask(KEY, model="unknown")
    await stage.ask(KEY, path="/v1/unknown")
    await stage.ask("authorization: Bearer unknown")
    before = await stage.get("/metrics")

    async def many(client: RawClient, worker: int) -> None:
        for number in range(worker, 10_000, 10):
            body = b'{"model":"m%d","messages":[{"role":"user","content":"x"}],"user":"u%d"}' % (number, number)
            key = KEY if number % 3 else f"authorization: Bearer k{number}"
            path = "chat/completions" if number % 2 else f"p{number}"
            await client.send(request(body, key, f"x-request-id: r{number}", line=f"POST /v1/{path} HTTP/1.1"))
            assert (await client.answer()).status in (401, 404)

    async def worker(number: int) -> None:
        async with connected(stage.port) as client:
            await many(client, number)

    await asyncio.gather(*(worker(number) for number in range(10)))
    after = await stage.get("/metrics")
    assert len(after.splitlines()) == len(before.splitlines()) and len(after) < len(before) + 1_000


async def is_clean(stage: Stage) -> None:
    """The log, the metrics and the health pages hold no secret, and each line of the log is a record of ours."""
    shown = await stage.get("/metrics") + await stage.get("/health/ready") + await stage.get("/health/live")
    log = stage.process.log()
    assert not SECRET.search(shown) and not SECRET.search(log) and "FORGED" not in shown
    assert "FORGED" not in log and "Traceback" not in log and "\x1b" not in log
    for line in log.splitlines():
        assert RECORD.fullmatch(line) or line.startswith(SAID_AT_START), line
        if " crossfade.calls " in line:
            assert json.loads(line[line.index("{") :])["model"] == "jane"


async def test_the_log_does_say_what_went_wrong(stage: Stage) -> None:
    stage.backend.script = sends(answer({"error": {"message": PROMPT, "type": "InternalServerError"}}, "500 Oh"))
    got = await stage.ask(KEY)
    (line,) = [line for line in stage.process.log().splitlines() if got.headers["x-request-id"] in line]
    assert "the server answered 500 Internal Server Error (InternalServerError)" in line


async def test_no_representation_shows_a_key() -> None:
    text = config_for({"a": "http://127.0.0.1:1"}, server="keys_env: CLIENTS").replace(
        "url: ", "key_env: BACKEND, url: "
    )
    loaded = loads(text, KEYS)
    fleet = build_fleet(loaded.config, KEYS, random.Random())
    door = build_admission(loaded.config.server, KEYS)
    shown = [loaded, loaded.config, fleet, door, vars(door), *fleet.backends.values()]
    shown += [replica.server for backend in fleet.backends.values() for replica in backend.replicas]
    assert not SECRET.search("".join(map(repr, shown)) + loaded.config.model_dump_json())


async def test_keys_are_known_by_their_digests_alone() -> None:
    """So that a comparison takes no longer the more of a key is right: what is compared has nothing in common with it."""
    loaded = loads(config_for({"a": "http://127.0.0.1:1"}, server="keys_env: CLIENTS"), KEYS)
    door = build_admission(loaded.config.server, KEYS)
    assert CLIENT_KEY.encode() not in everything(door) and CLIENT_KEY not in everything(door)
    assert any(isinstance(one, bytes) and len(one) == 32 for one in everything(door))


def everything(root: object) -> list[object]:
    """All values that can be reached from `root`, through attributes, slots and containers."""
    found: list[object] = []
    pending, seen = [root], set()
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        found.append(one)
        if isinstance(one, dict):
            pending += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set | frozenset):
            pending += list(one)
        elif not isinstance(one, type | str | bytes | int | float):
            names = [name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())]
            pending += [getattr(one, name) for name in names if hasattr(one, name)]
            pending += list(getattr(one, "__dict__", {}).values())
    return found
