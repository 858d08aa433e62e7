"""Two scripted backends that answer as real ones were seen to: vLLM with gpt-oss, and LM Studio on llama.cpp's server."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.clients import lmstudio
from tests.upstream import END, Connection, Received, Script, answer, chunked

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


VLLM_MODEL = "gpt-oss-20b"
VLLM: Mapping[str, Packets] = {
    "chat": packets("vllm-0.33-gpt-oss/chat_nonstream"),
    "chat stream": packets("vllm-0.33-gpt-oss/chat_stream"),
    "chat stream usage": packets("vllm-0.33-gpt-oss/chat_stream_usage"),
    "tools": packets("vllm-0.33-gpt-oss/tool2_nonstream"),
    "tools stream": packets("vllm-0.33-gpt-oss/tool2_stream"),
    "too hot": packets("vllm-0.33-gpt-oss/err_temp3"),
    "embeddings": _embeddings(VLLM_MODEL),
    "responses": packets("vllm-0.33-gpt-oss/responses"),
    "responses stream": packets("vllm-0.33-gpt-oss/responses_stream"),
}
LMSTUDIO_MODEL = lmstudio.MODEL
LMSTUDIO: Mapping[str, Packets] = {
    **lmstudio.ANSWERS,
    "completions": packets("llama-server-smollm2/20_completions"),
    "completions stream usage": packets("llama-server-smollm2/21_completions_stream_usage"),
    "embeddings": _embeddings(LMSTUDIO_MODEL),
}

BACKENDS = ("vllm", "lmstudio")
SAYS = {"vllm": "Hello there!", "lmstudio": lmstudio.SAYS}
PIECES = {"vllm": ["Hello", " there", "!"], "lmstudio": list(lmstudio.PIECES)}
REASONS = {"vllm": "User says hi. Reply briefly.", "lmstudio": lmstudio.REASONS}
TOTAL_TOKENS = {"vllm": 88, "lmstudio": lmstudio.TOTAL_TOKENS}


def is_second_turn(request: Received) -> bool:
    """Whether the call brings the results of tools."""
    return bool(request.json["messages"][-1]["role"] == "tool")


def wanted(request: Received) -> str:
    """Which of the captured answers a call asks for."""
    asked = request.json
    kind = request.path.removeprefix("/v1/").removesuffix("/completions")
    if kind == "chat" and asked.get("tools") and not is_second_turn(request):
        kind = "tools"
    if asked.get("temperature", 0) >= 2:  # 2 itself is left to the backend; what is above, the router refuses
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
