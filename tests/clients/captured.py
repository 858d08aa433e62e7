"""Two scripted backends that answer as real ones were seen to: vLLM with gpt-oss, and LM Studio on llama.cpp's server."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.upstream import END, STREAM_HEAD, Connection, Received, Script, answer, chunked

_CAPTURES = Path(__file__).parent.parent / "captures"
Packets = Sequence[bytes]

VECTOR = (0.25, -0.5, 1.0)


def packets(name: str) -> Packets:
    """A captured answer as its server wrote it: head and body, or head and the chunks of a stream.

    Captures of vLLM hold a stream without its chunked coding: one event is one chunk. Those of llama.cpp hold it as it
    was on the wire, two events in one chunk included.
    """
    raw = (_CAPTURES / f"{name}.txt").read_bytes()
    raw = raw[raw.index(b"HTTP") :].removesuffix(b"\n# curl exit 0\n")
    status, _, rest = raw.partition(b"\n")
    if status.startswith(b"HTTP/1.1"):
        head, _, body = raw.partition(b"\r\n\r\n")
        return [head + b"\r\n\r\n", body]
    head, _, body = rest.partition(b"\n\n")
    lines = [status.replace(b"HTTP ", b"HTTP/1.1 "), *head.splitlines(), b"", b""]
    if b"transfer-encoding: chunked" in head:
        return [b"\r\n".join(lines), *(chunked(event + b"\n\n") for event in body.split(b"\n\n") if event.strip()), END]
    return [b"\r\n".join(lines), body]


def _embeddings(model: str) -> Packets:
    """Not captured: OpenAI's documented answer with base64, which the official clients ask for and decode."""
    vector = base64.b64encode(struct.pack("<3f", *VECTOR)).decode()
    entry = {"object": "embedding", "index": 0, "embedding": vector}
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    return [answer({"object": "list", "data": [entry], "model": model, "usage": usage})]


CALLS = (("814890118", "get_weather", '{"city":"Paris"}'), ("552093571", "get_time", '{"tz":"CET"}'))
_CHAT = {"id": "chatcmpl-n3xvbwbekbgpw4mwqefq7", "created": 1795383499, "model": "openai/gpt-oss-20b"}


def _lmstudio_call(index: int) -> dict[str, Any]:
    number, name, arguments = CALLS[index]
    return {"type": "function", "id": number, "function": {"name": name, "arguments": arguments}}


def _lmstudio_tools() -> Packets:
    """Not captured: as users of LM Studio report it, with tool ids that are numbers and `stats`."""
    calls = [_lmstudio_call(0), _lmstudio_call(1)]
    message = {"role": "assistant", "content": "", "reasoning": "Need both.", "tool_calls": calls}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "tool_calls"}
    usage = {"prompt_tokens": 131, "completion_tokens": 39, "total_tokens": 170}
    return [answer({**_CHAT, "object": "chat.completion", "choices": [choice], "usage": usage, "stats": {}})]


def _lmstudio_tools_stream() -> Packets:
    """Not captured: as users of LM Studio report it, with the role in every delta and whole arguments in one piece."""
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "reasoning": "Need both."},
        *({"role": "assistant", "tool_calls": [{"index": i, **_lmstudio_call(i)}]} for i in range(len(CALLS))),
    ]
    choices: list[dict[str, Any]] = [
        {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None} for delta in deltas
    ]
    choices.append({"index": 0, "delta": {}, "logprobs": None, "finish_reason": "tool_calls"})
    events = [{**_CHAT, "object": "chat.completion.chunk", "choices": [choice]} for choice in choices]
    lines = [b"data: %b\n\n" % json.dumps(event).encode() for event in events]
    return [STREAM_HEAD, *map(chunked, lines), chunked(b"data: [DONE]\n\n"), END]


VLLM_MODEL = "gpt-oss-20b"
VLLM: Mapping[str, Packets] = {
    "chat": packets("vllm-0.33-gpt-oss/chat_nonstream"),
    "chat stream": packets("vllm-0.33-gpt-oss/chat_stream"),
    "chat stream usage": packets("vllm-0.33-gpt-oss/chat_stream_usage"),
    "tools": packets("vllm-0.33-gpt-oss/tool2_nonstream"),
    "tools stream": packets("vllm-0.33-gpt-oss/tool2_stream"),
    "too hot": packets("vllm-0.33-gpt-oss/err_temp3"),
    "embeddings": _embeddings(VLLM_MODEL),
}
VLLM_REASONS = "User says hi. Reply briefly."
VLLM_SAYS = "Hello there!"

LMSTUDIO_MODEL = "smollm2-135m-instruct"
LMSTUDIO: Mapping[str, Packets] = {
    "chat": packets("llama-server-smollm2/10_chat"),
    "chat stream": packets("llama-server-smollm2/11_chat_stream"),
    "chat stream usage": packets("llama-server-smollm2/12_chat_stream_usage"),
    "tools": _lmstudio_tools(),
    "tools stream": _lmstudio_tools_stream(),
    "completions": packets("llama-server-smollm2/20_completions"),
    "completions stream usage": packets("llama-server-smollm2/21_completions_stream_usage"),
    "embeddings": _embeddings(LMSTUDIO_MODEL),
}
LMSTUDIO_SAYS = "The capital of France is Paris."


def is_second_turn(request: Received) -> bool:
    """Whether the call brings the results of tools."""
    return bool(request.json["messages"][-1]["role"] == "tool")


def wanted(request: Received) -> str:
    """Which of the captured answers a call asks for."""
    asked = request.json
    kind = request.path.removeprefix("/v1/").removesuffix("/completions")
    if kind == "chat" and asked.get("tools") and not is_second_turn(request):
        kind = "tools"
    if asked.get("temperature", 0) > 2:
        return "too hot"
    if not asked.get("stream"):
        return kind
    has_usage = kind != "tools" and (asked.get("stream_options") or {}).get("include_usage")
    return f"{kind} stream usage" if has_usage else f"{kind} stream"


def answers(captured: Mapping[str, Packets]) -> Script:
    """A backend that answers each call with the capture that it asks for."""

    async def script(request: Received, connection: Connection) -> None:
        await connection.write(*captured[wanted(request)])

    return script
