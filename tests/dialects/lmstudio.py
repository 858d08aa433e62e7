"""LM Studio's answers with a gpt-oss, as documented and reported (it is closed source and was not captured)."""

from __future__ import annotations

from typing import Any

from tests.upstream import END, STREAM_HEAD, Script, answer, chunked, event, sends

MODEL = "openai/gpt-oss-20b"
USAGE = {
    "prompt_tokens": 68,
    "completion_tokens": 12,
    "total_tokens": 80,
    "completion_tokens_details": {"reasoning_tokens": 7},
}


def whole(
    content: str = "Hello there!", thought: str | None = "User says hi.", name: str = "reasoning", **more: Any
) -> bytes:
    """A chat completion with its empty list of tools, its `stats` and its fingerprint."""
    thoughts = {} if thought is None else {name: thought}
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content, **thoughts, "tool_calls": []},
        "logprobs": None,
        "finish_reason": "stop",
    }
    body = {
        "id": "chatcmpl-n3xvbwbekbgpw4mwqefq7",
        "object": "chat.completion",
        "created": 1795383499,
        "model": MODEL,
        "choices": [choice],
        "usage": USAGE,
        "stats": {},
        "system_fingerprint": MODEL,
        **more,
    }
    return answer(body)


def delta(**fields: Any) -> bytes:
    """One event; the role stands in each of them."""
    return event({"role": "assistant", "tool_calls": [], **fields}, model=MODEL).replace(
        b'"choices"', b'"system_fingerprint":"%b","choices"' % MODEL.encode()
    )


def streamed(
    content: str = "Hello there!", thought: str = "User says hi.", name: str = "reasoning", **more: Any
) -> list[bytes]:
    """The packets of a stream, word by word."""
    events = [
        *(delta(**{name: word}) for word in _words(thought)),
        *(delta(content=word) for word in _words(content)),
        event({}, "stop", model=MODEL),
    ]
    if more.get("usage"):
        events.append(
            event({}, model=MODEL).partition(b',"choices"')[0]
            + b',"choices":[],"usage":{"prompt_tokens":68,"completion_tokens":12,"total_tokens":80}}\n\n'
        )
    return [STREAM_HEAD, *map(chunked, events), chunked(b"data: [DONE]\n\n"), END]


def calls_tools(number: str = "814890118") -> Script:
    """A stream of a whole call in one delta, its id a number in each of them."""
    first = {"index": 0, "id": number, "type": "function", "function": {"name": "get_weather", "arguments": '{"city":'}}
    second = {
        "index": 0,
        "id": number,
        "type": "function",
        "function": {"name": "get_weather", "arguments": '"Paris"}'},
    }
    events = [
        delta(tool_calls=[first]),
        delta(tool_calls=[second]),
        event({"role": "assistant"}, "tool_calls", model=MODEL),
    ]
    return sends(STREAM_HEAD, *map(chunked, events), chunked(b"data: [DONE]\n\n"), END)


def _words(text: str) -> list[str]:
    return [word + " " for word in text.split(" ")[:-1]] + text.split(" ")[-1:]
