"""One router in front of one scripted backend of each kind, and of b, which answers when they fail: where the 80 cases are played.

`KIND` is a model whose calls go to the backend of that kind and then to b. `KIND alone` has only that backend, `KIND or closed` one more
that refuses connections; `KIND resumed` carries on what breaks after the first content, which else ends; `KIND hasty` waits for nothing
longer than a moment; `KIND sampled` fills in what its clients do not send; `KIND lax` takes every answer for one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from router.endpoints import CallEndpoint
from tests.faults.scripts import closed_port
from tests.faults.stage import BACKEND_KEY, CLIENT_KEY, MODEL, SHORT_S
from tests.hearing import Heard, heard_in
from tests.rawclient import Answer, connected, request
from tests.running import Router, running
from tests.upstream import Backend, Received, Script, Upstream, says

NAMES = {
    "vllm": "gpt-oss-20b",
    "lmstudio": "openai/gpt-oss-20b",
    "llama-server": "smollm2-135m-instruct",
    "b": "gpt-oss-20b",
    "closed": "gpt-oss-20b",
}
KINDS = ("vllm", "lmstudio", "llama-server")
SAMPLING = {"temperature": 0.7, "top_p": 0.95}
ENV = {"CLIENT_KEYS": CLIENT_KEY, "BACKEND_KEY": BACKEND_KEY}
CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
_ASKED: Mapping[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "hi"}]},
    COMPLETIONS: {"prompt": "hi"},
    EMBEDDINGS: {"input": "hi"},
}
_HASTY = {
    "first_token_s": SHORT_S,
    "first_token_per_kib_s": 0,
    "answer_s": SHORT_S,
    "between_tokens_s": SHORT_S,
}


@dataclass
class Scene:
    """The stage during one case, on which nothing has happened yet."""

    router: Router
    plays: dict[str, Backend]
    at: dict[str, Upstream]
    before: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    @property
    def endpoint(self) -> CallEndpoint:
        """What answers chat calls: the way to the fleet and the counts."""
        app: Any = self.router.server.config.app
        endpoint: CallEndpoint = app.raw_endpoints[CHAT.encode()]
        return endpoint

    def begin(self, **scripts: Script) -> None:
        """A new case: every backend is well, but for those that `scripts` names (`llama_server` is the kind llama-server)."""
        for name, backend in self.plays.items():
            backend.script = scripts.get(name.replace("-", "_"), says(f"from {name}"))
            self.at[name].received.clear()
        self.before = Counter(self.endpoint.recorder.metrics.attempts)

    async def ask(
        self,
        model: str = "vllm",
        path: str = CHAT,
        *,
        headers: Mapping[str, str] | None = None,
        **fields: object,
    ) -> Answer:
        """One call on a connection of its own; a field that is None is left out."""
        lines = {"authorization": f"Bearer {CLIENT_KEY}", "connection": "close", **(headers or {})}
        body = {"model": model, **_ASKED.get(path, {}), **fields}
        data = json.dumps({name: value for name, value in body.items() if value is not None}).encode()
        async with connected(self.router.port) as client:
            names = (f"{name}: {value}" for name, value in lines.items())
            await client.send(request(data, *names, line=f"POST {path} HTTP/1.1"))
            return await client.answer()

    async def hear(self, model: str = "vllm", path: str = CHAT, **fields: Any) -> Heard:
        """One streamed call, heard out."""
        answer = await self.ask(model, path, stream=True, **fields)
        assert answer.status == 200, answer.body
        return heard_in(answer.body.decode(), answer.headers["x-crossfade-backend"])

    def tries(self) -> list[str]:
        """The attempts of this case with their outcomes, in the order of the alphabet."""
        made = Counter(self.endpoint.recorder.metrics.attempts) - self.before
        return sorted(f"{backend} {outcome}" for _, backend, outcome in made.elements())

    def sent_to(self, name: str) -> Any:
        """The body of the last call that reached this backend."""
        return self.at[name].received[-1].json

    def last_at(self, name: str) -> Received:
        """The last call that reached this backend."""
        return self.at[name].received[-1]

    async def metric(self, line: str) -> float:
        """The value of a metric, 0 where it is not there."""
        text = (await self.router.client.get("/metrics", headers={"connection": "close"})).text
        return sum(float(row.rpartition(" ")[2]) for row in text.splitlines() if row.startswith(line))


def _config(urls: Mapping[str, str]) -> str:
    """The stage's configuration; JSON is YAML."""
    kinds = {**dict.fromkeys(urls, "vllm"), **{kind: kind for kind in KINDS}}
    backends = {name: {"kind": kinds[name], "url": url, "key_env": "BACKEND_KEY"} for name, url in urls.items()}
    models: dict[str, Any] = {}
    for name in urls:
        chain = [name] if name == "b" else [name, "b"]
        plain = {"on": {each: NAMES[each] for each in chain}, "split": {name: 1.0}, **MODEL}
        models[name] = plain
        models[f"{name} alone"] = {**plain, "on": {name: NAMES[name]}}
        models[f"{name} resumed"] = {**plain, "resume": {"by": ["align"]}}
        models[f"{name} hasty"] = {**plain, "timeouts": _HASTY}
        models[f"{name} sampled"] = {**models[f"{name} alone"], "sampling": SAMPLING}
        models[f"{name} lax"] = {**plain, "accept": {"tool_calls": "any", "json": "any", "empty": "allow"}}
        models[f"{name} alone lax"] = {**models[f"{name} lax"], "on": {name: NAMES[name]}}
        models[f"{name} or closed"] = {**plain, "on": {each: NAMES[each] for each in (name, "closed")}}
        models[f"{name} hasty resumed"] = {**models[f"{name} resumed"], "timeouts": _HASTY}
    return json.dumps({"server": {"port": 8000, "keys_env": "CLIENT_KEYS"}, "backends": backends, "models": models})


@asynccontextmanager
async def staged() -> AsyncIterator[Scene]:
    """The stage for the length of the block."""
    async with AsyncExitStack() as opened:
        plays = {name: Backend() for name in (*KINDS, "b")}
        at = {name: await opened.enter_async_context(Upstream(backend)) for name, backend in plays.items()}
        urls = {name: upstream.url for name, upstream in at.items()}
        urls["closed"] = f"http://127.0.0.1:{opened.enter_context(closed_port())}"
        router = await opened.enter_async_context(running(_config(urls), ENV))
        yield Scene(router, plays, at)
