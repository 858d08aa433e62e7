"""What holding tool calls back costs: the time to the first token of a streamed tool call, with `accept.tool_calls` valid and any.

    python -m bench.hold [--tokens 40] [--pace-ms 10]

A scripted backend streams one tool call token by token, at an even pace, as an engine does that does not think first.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

from tests.running import config_for, running
from tests.upstream import END, STREAM_HEAD, Connection, Received, Script, Upstream, chunked, event

CALLS = 20
SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
TOOLS = [{"type": "function", "function": {"name": "write", "parameters": SCHEMA}}]
BODY = {"model": "jane", "stream": True, "messages": [{"role": "user", "content": "hi"}], "tools": TOOLS}


def paced(tokens: int, pace_s: float) -> Script:
    """One tool call whose arguments come in so many pieces."""
    pieces = ['{"text":"', *["word "] * (tokens - 2), '"}']

    async def script(_request: Received, connection: Connection) -> None:
        first = {"index": 0, "id": "c", "type": "function", "function": {"name": "write", "arguments": ""}}
        await connection.write(STREAM_HEAD, chunked(event({"tool_calls": [first]})))
        for piece in pieces:
            await asyncio.sleep(pace_s)
            await connection.write(chunked(event({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})))
        await connection.write(chunked(event({}, "tool_calls")), chunked(b"data: [DONE]\n\n"), END)

    return script


async def measured(script: Script, rule: str) -> tuple[float, float]:
    """Median seconds to the first byte and to the last."""
    async with Upstream(script) as upstream:
        config = config_for({"a": upstream.url}, f"split: {{a: 1.0}}\naccept: {{tool_calls: {rule}}}")
        async with running(config) as router:
            firsts, lasts = [], []
            for _ in range(CALLS):
                began_s, first_s = time.perf_counter(), 0.0
                async with router.client.stream("POST", "/v1/chat/completions", json=BODY) as response:
                    response.raise_for_status()
                    async for _ in response.aiter_raw():
                        first_s = first_s or time.perf_counter() - began_s
                firsts.append(first_s)
                lasts.append(time.perf_counter() - began_s)
    return statistics.median(firsts), statistics.median(lasts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--pace-ms", type=float, default=10)
    given = parser.parse_args()
    script = paced(given.tokens, given.pace_ms / 1000)
    print(f"one tool call of {given.tokens} tokens, {given.pace_ms:g} ms apart, median of {CALLS}")
    for rule in ("any", "valid"):
        first_s, last_s = asyncio.run(measured(script, rule))
        print(f"tool_calls: {rule:6} first token {first_s * 1000:6.1f} ms, last {last_s * 1000:6.1f} ms")


if __name__ == "__main__":
    main()
