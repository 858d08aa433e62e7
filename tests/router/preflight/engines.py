"""Scripted engines that answer every question of preflight in the form of their kind; `Differs` says what one of them does otherwise."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.upstream import END, STREAM_HEAD, Connection, Received, Upstream, answer, chunked

TEXT = "Red, green and blue are three of them."
ARGUMENTS = '{"city":"Paris"}'
TOOL_IDS = {"vllm": "chatcmpl-tool-887eecb47c3ab00e", "lmstudio": "814890118", "llama-server": "yETHkl5wCfIn1B38peRyDU"}
# Each overflow in its server's own words (captures; LM Studio's from its issue 546).
OVERFLOWS: dict[str, Any] = {
    "vllm": {"error": {"message": "Input length (6068) exceeds model's maximum context length (4096).",
                       "type": "BadRequestError", "param": None, "code": 400}},
    "lmstudio": {"error": "Trying to keep the first 6068 tokens when context the overflows. However, the model is loaded with"
                          " context length of only 4096 tokens"},
    "llama-server": {"error": {"code": 400, "message": "request (6068 tokens) exceeds the available context size (4096 tokens),"
                                                       " try increasing it", "type": "exceed_context_size_error"}},
}  # fmt: skip


@dataclass(frozen=True)
class Differs:
    """What a scripted engine does otherwise than it should. `ignores`: fields without effect; `refuses`: fields and their refusal."""

    text: str = TEXT
    more_tokens: int = 0
    context_tokens: int = 4096
    named: str = ""
    lists: bool = True
    one_piece: bool = False
    has_usage: bool = True
    cuts_long_prompts: bool = False
    ignores: frozenset[str] = frozenset()
    refuses: Mapping[str, str] = field(default_factory=dict)
    drops_at: str = ""  # hangs up where the call has this field


@dataclass
class Engine:
    """A script for `tests.upstream.Upstream`, of one kind."""

    kind: str
    name: str
    differs: Differs = field(default_factory=Differs)
    asked: list[dict[str, Any]] = field(default_factory=list)

    async def __call__(self, request: Received, connection: Connection) -> None:
        asked = request.json
        self.asked.append(asked)
        if self.differs.drops_at in asked:
            connection.reset()
        elif (refusal := self._refusal(asked)) is not None:
            await connection.write(answer(refusal, "400 Bad Request"))
        elif asked.get("stream"):
            await connection.write(STREAM_HEAD, *map(chunked, self._events(asked)), END)
        else:
            await connection.write(answer(self._whole(asked)))

    def skill(self, request: Received) -> bytes:
        """The questions after its tokenizer."""
        count = 30 + self.differs.more_tokens
        if self.kind == "vllm" and request.path == "/tokenize":
            return answer({"count": count, "max_model_len": self.differs.context_tokens, "tokens": list(range(count))})
        if self.kind == "llama-server":
            tokens: dict[str, dict[str, Any]] = {
                "/apply-template": {"prompt": "?"},
                "/tokenize": {"tokens": list(range(count))},
            }
            return answer(tokens[request.path])
        return answer({"error": f"Unexpected endpoint or method. (POST {request.path})"})

    def lists(self) -> dict[str, bytes]:
        """What it answers to GET."""
        length = self.differs.context_tokens
        entry: dict[str, Any] = {"id": self.name if self.differs.lists else "another", "object": "model"}
        if self.kind == "vllm":
            listed: dict[str, Any] = {
                "/health": answer(b""),
                "/v1/models": {**entry, "max_model_len": length, "root": "/secret/path"},
            }
        elif self.kind == "lmstudio":
            own = {**entry, "state": "loaded", "loaded_context_length": length}
            listed = {"/v1/models": entry, "/api/v0/models": own}
        else:
            listed = {"/health": answer({"status": "ok"}), "/v1/models": {**entry, "meta": {"n_ctx": length}}}
            params = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "repeat_penalty": 1.0}
            listed["/props"] = answer({"default_generation_settings": {"n_ctx": length, "params": params}})
        return {
            path: v if isinstance(v, bytes) else answer({"object": "list", "data": [v]}) for path, v in listed.items()
        }

    # -- inside --------------------------------------------------------------------------------------

    def _refusal(self, asked: dict[str, Any]) -> Any:
        for name, words in self.differs.refuses.items():
            if name in asked:
                return {"error": words} if self.kind == "lmstudio" else {"error": {"message": words, "code": 400}}
        if not isinstance(asked.get("seed", 0), int) or asked.get("min_p", 0) > 1:
            return {"error": "seed or min_p is out of range"}
        is_long = sum(len(str(each.get("content"))) for each in asked["messages"]) > 2 * self.differs.context_tokens
        return OVERFLOWS[self.kind] if is_long and not self.differs.cuts_long_prompts else None

    def _usage(self, asked: dict[str, Any]) -> dict[str, Any]:
        prompt = 30 + self.differs.more_tokens + 20 * (len(asked["messages"]) - 1) + 60 * bool(asked.get("tools"))
        said = min(9, asked.get("max_tokens") or 9)
        counts: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said}
        return counts | ({"completion_tokens_details": {"reasoning_tokens": 0}} if self.kind == "lmstudio" else {})

    def _text(self, asked: dict[str, Any]) -> str:
        if asked.get("response_format") and "response_format" not in self.differs.ignores:
            return ARGUMENTS
        text = self.differs.text
        for stop in [] if "stop" in self.differs.ignores else asked.get("stop") or []:
            text = text.partition(stop)[0]
        varies = asked.get("seed") is not None and "seed" in self.differs.ignores
        return f"{text} {len(self.asked)}" if varies else text

    def _tools(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        is_forced = asked.get("tool_choice") not in (None, "auto", "none")
        if not is_forced or "tool_choice" in self.differs.ignores:
            return []
        function = {"name": asked["tools"][0]["function"]["name"], "arguments": ARGUMENTS}
        return [{"id": TOOL_IDS[self.kind], "type": "function", "function": function}]

    def _finish(self, asked: dict[str, Any], tools: list[dict[str, Any]]) -> str:
        if tools:
            return "stop" if self.kind == "vllm" and isinstance(asked.get("tool_choice"), dict) else "tool_calls"
        return "length" if (asked.get("max_tokens") or 9) < 9 else "stop"

    def _head(self, asked: dict[str, Any], kind: str) -> dict[str, Any]:
        named = self.differs.named or asked["model"]
        return {"id": "chatcmpl-8198f2cba2a237df", "object": kind, "created": 1795383499, "model": named}

    def _whole(self, asked: dict[str, Any]) -> dict[str, Any]:
        tools = self._tools(asked)
        message: dict[str, Any] = {"role": "assistant", "content": "" if tools else self._text(asked)}
        if tools or self.kind == "lmstudio":
            message["tool_calls"] = tools
        if self.kind == "vllm":
            message |= {"refusal": None, "annotations": None, "audio": None, "function_call": None}
        many = 1 if "n" in self.differs.ignores else asked.get("n") or 1
        choices = [
            {
                "index": i,
                "message": message,
                "logprobs": self._logprobs(asked),
                "finish_reason": self._finish(asked, tools),
            }
            for i in range(many)
        ]
        body = {**self._head(asked, "chat.completion"), "choices": choices}
        if self.differs.has_usage:
            body["usage"] = self._usage(asked)
        return body | self._extras()

    def _extras(self) -> dict[str, Any]:
        extras: dict[str, dict[str, Any]] = {
            "vllm": {"system_fingerprint": "vllm-0.33.0-b5e92032", "prompt_logprobs": None, "kv_transfer_params": None},
            "lmstudio": {"stats": {}, "system_fingerprint": self.name},
            "llama-server": {"timings": {"prompt_n": 1, "predicted_ms": 2.5}, "system_fingerprint": "b0-unknown"},
        }
        return extras[self.kind]

    def _logprobs(self, asked: dict[str, Any]) -> Any:
        if not asked.get("logprobs") or "logprobs" in self.differs.ignores:
            return None
        return {"content": [{"token": "Red", "logprob": -0.1, "bytes": [82], "top_logprobs": []}]}

    def _events(self, asked: dict[str, Any]) -> Iterator[bytes]:
        tools = self._tools(asked)
        every = {"role": "assistant"} if self.kind == "lmstudio" else {}
        yield self._event(asked, {"role": "assistant", "content": None if self.kind == "llama-server" else ""})
        for piece in self._pieces(asked) if not tools else ():
            yield self._event(asked, {**every, "content": piece})
        for tool in tools:
            for arguments in (ARGUMENTS[:6], ARGUMENTS[6:]):
                part = {"index": 0, **tool, "function": {**tool["function"], "arguments": arguments}}
                yield self._event(asked, {**every, "tool_calls": [part]})
        yield self._event(asked, every, self._finish(asked, tools))
        if (asked.get("stream_options") or {}).get("include_usage") and self.differs.has_usage:
            yield _event({**self._head(asked, "chat.completion.chunk"), "choices": [], "usage": self._usage(asked)})
        yield b"data: [DONE]\n\n"

    def _pieces(self, asked: dict[str, Any]) -> list[str]:
        text = self._text(asked)
        return [text] if self.differs.one_piece else [f"{word} " for word in text.split()]

    def _event(self, asked: dict[str, Any], delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        extras = {"kv_transfer_params": None} if self.kind == "vllm" else {}
        return _event({**self._head(asked, "chat.completion.chunk"), "choices": [choice], **extras})


def _event(body: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % json.dumps(body, separators=(",", ":")).encode()


@asynccontextmanager
async def serving(*engines: Engine) -> AsyncIterator[str]:
    """The engines on loopback; yields a configuration in which they serve the model `jane`, the first having the whole share."""
    async with AsyncExitStack() as stack:
        lines = ["backends:"]
        for number, engine in enumerate(engines):
            up = await stack.enter_async_context(Upstream(engine, skill=engine.skill, lists=engine.lists()))
            lines.append(f"  {_backend(engine, number)}: {{kind: {engine.kind}, url: {up.url}, key_env: ENGINE_KEY}}")
        on = ", ".join(f"{_backend(engine, number)}: {engine.name}" for number, engine in enumerate(engines))
        lines += ["models:", "  jane:", f"    on: {{{on}}}", f"    split: {{{_backend(engines[0], 0)}: 1.0}}", ""]
        yield "\n".join(lines)


def _backend(engine: Engine, number: int) -> str:
    return f"{('old', 'new', 'third')[number]}-{engine.kind}"
