"""One router for the whole table of faults, in front of scripted backends; each call is heard to its last byte."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from router.endpoints import CallEndpoint
from tests.faults.scripts import closed_port
from tests.rawclient import Answer, chat_body, connected, request
from tests.running import Router, running
from tests.upstream import Backend, Upstream, says

CLIENT_KEY, BACKEND_KEY = "sk-secret-of-a-client", "sk-secret-of-a-backend"
INTERNALS = "words-of-a-backend-that-are-nobodys-business"  # what a backend says of itself when it fails
ENV = {"CLIENT_KEYS": CLIENT_KEY, "BACKEND_KEY": BACKEND_KEY}
SHORT_S = 0.2  # how long `hasty` waits for anything
MODEL: dict[str, Any] = {
    "retry": {"backoff_s": [0.001, 0.002], "budget_min_per_s": 20},
    "eject": {"at_most_share": 0},  # what each fault does is shown without the memory of the one before
    "resume": {"by": []},
}


@dataclass(frozen=True, slots=True)
class Told:
    """What a client makes of an answer. A stream that ends in an error event has text and a `code`; a whole one has no code."""

    status: int
    text: str = ""
    code: str | None = None
    retry_after_s: int | None = None
    backend: str | None = None  # compared only where a row names one


@dataclass(frozen=True, slots=True)
class Stage:
    """`NAME` is a model whose calls go to the backend NAME and then to b, `NAME alone` one that has only NAME, `NAME resumed` one that
    carries on what breaks after the first content, which else ends.

    NAME: `a`; `hasty`, which is a with little patience; `closed` refuses connections; and those that a test adds.
    """

    router: Router
    a: Backend
    b: Backend
    at_a: Upstream
    at_b: Upstream

    @property
    def endpoint(self) -> CallEndpoint:
        """What answers chat calls: the way to the fleet, the gates and the counts."""
        app: Any = self.router.server.config.app
        endpoint: CallEndpoint = app.raw_endpoints[b"/v1/chat/completions"]
        return endpoint

    async def ask(
        self, model: str = "a", *, stream: bool = False, headers: Mapping[str, str] | None = None, **fields: object
    ) -> Answer:
        """One call on a connection of its own."""
        async with connected(self.router.port) as client:
            await client.send(call(model, stream=stream, headers=headers, **fields))
            return await client.answer()

    def attempts(self) -> int:
        """How many calls have reached the backends."""
        return len(self.at_a.received) + len(self.at_b.received)


def call(model: str, *, stream: bool = False, headers: Mapping[str, str] | None = None, **fields: object) -> bytes:
    """The bytes of one chat call with the client's key."""
    lines = {"authorization": f"Bearer {CLIENT_KEY}", "connection": "close", **(headers or {})}
    body = chat_body(model=model, **fields, **({"stream": True} if stream else {}))
    return request(body, *(f"{name}: {value}" for name, value in lines.items()))


def told(answer: Answer) -> Told:
    """What a client makes of it. Raises AssertionError where an SDK could take it for something else than it is."""
    backend = answer.headers.get("x-crossfade-backend")
    if answer.status != 200:
        error = answer.json["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"]
        if answer.status >= 429:  # the ladder is used up: an SDK must not climb it again
            assert answer.headers["x-should-retry"] == "false"
        wait_s = answer.headers.get("retry-after")
        return Told(answer.status, "", error["code"], int(wait_s) if wait_s else None, backend)
    if not answer.headers["content-type"].startswith("text/event-stream"):
        (choice,) = answer.json["choices"]
        return Told(200, choice["message"]["content"].strip(), None, None, backend)
    return _told_by(answer.body.decode(), backend)


def _told_by(stream: str, backend: str | None) -> Told:
    assert stream.endswith("\n\n"), "an event is cut off"
    events = [line.removeprefix("data: ") for line in stream.split("\n\n") if not line.startswith(":")][:-1]
    documents = [json.loads(event) for event in events if event != "[DONE]"]
    errors = [document["error"] for document in documents if "error" in document]
    choices = [choice for document in documents for choice in document.get("choices", ())]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    ends = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    if errors:
        assert len(errors) == 1 and "error" in documents[-1] and "[DONE]" not in events
        assert not ends, "an answer that is not whole says that it is"
        return Told(200, text.strip(), errors[0]["code"], None, backend)
    assert len(ends) == 1 and events[-1] == "[DONE]" and events.count("[DONE]") == 1
    return Told(200, text.strip(), None, None, backend)


def _config(ports: Mapping[str, int]) -> str:
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    urls["hasty"] = urls["a"]
    times = {"connect_s": SHORT_S, "first_token_s": SHORT_S, "first_token_per_kib_s": 0, "answer_s": SHORT_S}
    times |= {"between_tokens_s": SHORT_S}
    backends: dict[str, Any] = {
        name: {"kind": "vllm", "url": url, "key_env": "BACKEND_KEY", "max_in_flight": 4} for name, url in urls.items()
    }
    backends["hasty"]["timeouts"] = times
    models: dict[str, Any] = {}
    for name in urls:
        chain = [name] if name == "b" else [name, "b"]
        models[name] = {"on": {each: f"real-{each}" for each in chain}, "split": {name: 1.0}, **MODEL}
        models[f"{name} alone"] = {"on": {name: f"real-{name}"}, "split": {name: 1.0}, **MODEL}
    for name in ("a", "hasty"):
        models[f"{name} resumed"] = {**models[name], "resume": {"by": ["align"]}}
    return json.dumps({"server": {"port": 8000, "keys_env": "CLIENT_KEYS"}, "backends": backends, "models": models})


@asynccontextmanager
async def staged(more: Mapping[str, int] | None = None) -> AsyncIterator[Stage]:
    """A stage for the length of the block, with `more` backends by their ports."""
    async with AsyncExitStack() as opened:
        a, b = Backend(), Backend(says("from b"))
        at_a = await opened.enter_async_context(Upstream(a))
        at_b = await opened.enter_async_context(Upstream(b))
        closed = opened.enter_context(closed_port())
        config = _config({"a": at_a.port, "b": at_b.port, "closed": closed, **(more or {})})
        router = await opened.enter_async_context(running(config, ENV))
        yield Stage(router, a, b, at_a, at_b)
