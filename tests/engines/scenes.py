"""What is played with any two engines behind a real `crossfade serve`."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx

from policies.ejection import State
from policies.ramp import RAMP_S
from tests.dialects.shapes import shapes
from tests.engines.engine import PATIENCE_S, Engine, wait_until
from tests.engines.load import MODEL, Heard, Load, answered_by, body, one_stream, under_load
from tests.serving import RunningRouter

USERS = [f"user-{number}" for number in range(24)]  # all on one side of a fair split once in 8 million times
IN_FLIGHT = 12  # six on each engine: llama.cpp's server works on four at once, so that two have to wait
MAX_TOKENS = 16


@contextmanager
def router_over(*engines: Engine, timeouts: Mapping[str, float] | None = None) -> Iterator[RunningRouter]:
    """Crossfade with an equal share for each engine and the default of everything else."""
    names = [engine.role.name for engine in engines]
    model = {
        "on": {engine.role.name: engine.role.model for engine in engines},
        "split": dict.fromkeys(names, 1 / len(names)),
        "stick_by": ["header:x-user-id"],
        "timeouts": dict(timeouts or {}),
    }
    backends = {engine.role.name: {"kind": engine.role.kind, "url": engine.role.url} for engine in engines}
    with RunningRouter({"backends": backends, "models": {MODEL: model}}) as router:
        yield router


@asynccontextmanager
async def client_of(origin: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=origin, timeout=120, trust_env=False) as client:
        yield client


def state_of(router: RunningRouter, engine: Engine) -> State:
    """As `/health/ready` tells everybody."""
    with urllib.request.urlopen(f"{router.url}/health/ready", timeout=PATIENCE_S) as reply:
        rows: Any = json.load(reply)["models"][MODEL]
    return State(rows[engine.role.name][0]["state"])


async def homes(client: httpx.AsyncClient) -> dict[str, list[str]]:
    """The users of each backend, each having made one short call."""
    found: dict[str, list[str]] = {}
    for user in USERS:
        found.setdefault(await answered_by(client, user), []).append(user)
    return found


async def is_killed_and_comes_back(router: RunningRouter, victim: Engine, kill: Callable[[], None]) -> None:
    """Kill an engine in the middle of its work: nobody loses an answer that has not begun. Start it again: it is back by itself."""
    async with client_of(router.url) as client:
        at_home = await homes(client)
        assert len(at_home) == 2, f"not everybody of a fair split may be on one side: {at_home}"
        await _loses_nobody(client, victim, at_home[victim.role.name], kill)
        assert state_of(router, victim) is not State.IN_ROTATION
        await asyncio.to_thread(victim.process.wait, PATIENCE_S)
        await asyncio.to_thread(victim.ensure)
        seen = lambda: state_of(router, victim) is not State.EJECTED  # noqa: E731
        await asyncio.to_thread(wait_until, seen, f"{victim.role.name} is seen to be well")
        async with asyncio.timeout(RAMP_S + PATIENCE_S):
            while await homes(client) != at_home:  # its callers come back by and by
                pass
        assert state_of(router, victim) is State.IN_ROTATION


async def _loses_nobody(
    client: httpx.AsyncClient, victim: Engine, callers: list[str], kill: Callable[[], None]
) -> None:
    async with under_load(client, USERS, IN_FLIGHT, MAX_TOKENS) as load:
        await load.until(lambda: len(waiting_of(load, callers)) >= 1)
        waiting = waiting_of(load, callers)
        kill()
        before = {*load.live, *load.over}
        await load.until(lambda: len(set(load.over) - before) >= IN_FLIGHT)
    assert [call for call in load.over if not (call.is_complete or call.is_cleanly_broken)] == []
    broken = [call for call in load.over if call.errors]
    assert {call.backend for call in broken} <= {victim.role.name}
    assert before.issuperset(broken)
    assert any(call.backend != victim.role.name for call in waiting), "the kill has hit nobody who was still waiting"


def waiting_of(load: Load, callers: list[str]) -> list[Heard]:
    """The calls of these callers that wait for their first token while others of them are in mid-stream."""
    theirs = [call for call in load.live if call.user in callers]
    return [call for call in theirs if any(call.waits_behind(other) for other in theirs)]


async def both_answer(router: RunningRouter) -> None:
    """Under a fair split each backend has callers, and each caller keeps its backend."""
    async with client_of(router.url) as client:
        at_home = await homes(client)
        assert len(at_home) == 2
        assert await homes(client) == at_home


_IDENTITY = [("id", "str"), ("object", "str"), ("created", "int"), ("model", "str")]
_USAGE = [
    ("prompt_tokens", "int"),
    ("completion_tokens", "int"),
    ("total_tokens", "int"),
    ("prompt_tokens_details", [("cached_tokens", "int")]),
    ("completion_tokens_details", [("reasoning_tokens", "int")]),
]
_MESSAGE = [("role", "str"), ("content", "str")]
WHOLE_FORM = [
    [
        *_IDENTITY,
        (
            "choices",
            [[("index", "int"), ("message", _MESSAGE), ("logprobs", "NoneType"), ("finish_reason", "str")]],
        ),
        ("usage", _USAGE),
    ]
]


def _piece(delta: list[tuple[str, str]], reason: str = "NoneType") -> Any:
    return [*_IDENTITY, ("choices", [[("index", "int"), ("delta", delta), ("finish_reason", reason)]])]


STREAM_FORM = [
    _piece(_MESSAGE),
    _piece([("content", "str")]),
    _piece([], "str"),
    [*_IDENTITY, ("choices", []), ("usage", _USAGE)],
]


async def equals_the_direct_answer(router: RunningRouter, engine: Engine, *, stream: bool) -> None:
    """At temperature 0 the answer through the router has the text of the direct one, in the form that is the same for every engine."""
    call = body("user-0", 16, stream=stream, **({"stream_options": {"include_usage": True}} if stream else {}))
    direct_call = {**call, "model": engine.role.model}
    async with client_of(router.url) as client, client_of(engine.role.url) as direct:
        direct.headers["connection"] = "close"  # an engine closes one that rested for five seconds
        await direct.post("/v1/chat/completions", json=direct_call)  # from here on the prompt is cached for both
        expected = await direct.post("/v1/chat/completions", json=direct_call)
        answer = await client.post("/v1/chat/completions", json=call)
    assert answer.status_code == expected.status_code == 200
    assert answer.headers["x-crossfade-backend"] == engine.role.name
    assert answer.headers["content-type"].split(";")[0] == expected.headers["content-type"].split(";")[0]
    ours, theirs = _documents(answer), _documents(expected)
    assert shapes(ours) == (STREAM_FORM if stream else WHOLE_FORM)
    assert _told(ours) == _told(theirs)
    assert {each["model"] for each in ours} == {MODEL}
    assert engine.role.model not in answer.text
    assert not stream or answer.text.endswith("data: [DONE]\n\n")


async def client_leaves_in_mid_stream(router: RunningRouter, engine: Engine) -> None:
    """The engine stops working for a client that is gone, long before the answer would have ended."""
    call = body("user-0", 1500, stream=True)
    async with client_of(router.url) as client:
        async with client.stream("POST", "/v1/chat/completions", json=call) as response:
            await anext(response.aiter_lines())
            assert await asyncio.to_thread(engine.running) == 1
        await asyncio.to_thread(wait_until, lambda: engine.running() == 0, "the engine is free again", 5.0)


async def stands_still_before_the_first_token(router: RunningRouter, engine: Engine) -> None:
    """A stopped engine accepts connections and says nothing: another answers. When it goes on, all is as before."""
    async with client_of(router.url) as client:
        at_home = await homes(client)
        caller = at_home[engine.role.name][0]
        with standing_still(engine):
            heard = await one_stream(client, caller)
            assert heard.is_complete
            assert heard.backend not in ("", engine.role.name)
        await asyncio.to_thread(wait_until, lambda: engine.running() == 0, "the late calls are given up")
        assert await homes(client) == at_home
        assert state_of(router, engine) is State.IN_ROTATION


async def stands_still_in_mid_stream(router: RunningRouter, engine: Engine) -> None:
    """A stream that stops is never a truncated answer that looks complete. When the engine goes on, all is as before."""
    async with client_of(router.url) as client:
        at_home = await homes(client)
        callers = at_home[engine.role.name][:1]
        async with under_load(client, callers, in_flight=1, max_tokens=400) as load:
            await load.until(lambda: any(call.said for call in load.live))
            load.end()
            with standing_still(engine):
                await load.until(lambda: not load.live)
        assert [call.is_complete or call.is_cleanly_broken for call in load.over] == [True]
        await asyncio.to_thread(wait_until, lambda: engine.running() == 0, "the stream is given up")
        assert await homes(client) == at_home


@contextmanager
def standing_still(engine: Engine) -> Iterator[None]:
    """SIGSTOP for the block, SIGCONT after it."""
    engine.send(signal.SIGSTOP)
    try:
        yield
    finally:
        engine.send(signal.SIGCONT)


def _documents(response: httpx.Response) -> list[dict[str, Any]]:
    """The one JSON document of an answer, or those of a stream's events."""
    if response.headers["content-type"].startswith("application/json"):
        return [response.json()]
    return [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]


def _told(documents: list[dict[str, Any]]) -> tuple[str, list[str], list[int]]:
    """What an answer says in any form: its text, why it ended, its tokens."""
    choices = [choice for each in documents for choice in each["choices"]]
    said = [choice.get("message") or choice["delta"] for choice in choices]
    usages = [each["usage"] for each in documents if each.get("usage")]
    return (
        "".join(one.get("content") or "" for one in said),
        [choice["finish_reason"] for choice in choices if choice["finish_reason"]],
        [usage[name] for usage in usages for name in ("prompt_tokens", "completion_tokens", "total_tokens")],
    )
