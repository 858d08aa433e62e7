"""From the bytes that an application would get to the facts that preflight judges."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from policies.preflight_facts import Heard, Streamed, Tool, Usage
from router.preflight.questions import CITY, TOOL_NAME

_JSON_ERRORS = (ValueError, RecursionError)
_DETAILS = ("prompt_tokens_details", "completion_tokens_details")


def heard_whole(body: bytes, *, is_json: bool) -> Heard:
    """A whole answer. `is_json`: its text was asked to be JSON."""
    answer = _object(body)
    choices = [choice for choice in _list(answer.get("choices")) if isinstance(choice, dict)]
    first = choices[0] if choices else {}
    message = _mapping(first.get("message"))
    text = message.get("content") if isinstance(message.get("content"), str) else ""
    return Heard(
        text=text or "",
        has_reasoning=bool(message.get("reasoning") or message.get("reasoning_content")),
        has_logprobs=bool(_mapping(first.get("logprobs")).get("content")),
        finish=tuple(str(choice.get("finish_reason")) for choice in choices),
        tools=tuple(_tool(call) for call in _list(message.get("tool_calls"))),
        json_fits=_is_place(text or "") if is_json else None,
        usage=_usage(answer.get("usage")),
        form=tuple(_form(answer)),
    )


def heard_stream(body: bytes) -> Heard:
    """A stream, put together as clients do it."""
    events = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
    chunks = [chunk for event in events if (chunk := _object(event))]
    choices = [choice for chunk in chunks for choice in _list(chunk.get("choices")) if isinstance(choice, dict)]
    deltas = [_mapping(choice.get("delta")) for choice in choices]
    usages = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    return Heard(
        text="".join(delta["content"] for delta in deltas if isinstance(delta.get("content"), str)),
        has_reasoning=any(delta.get("reasoning") or delta.get("reasoning_content") for delta in deltas),
        finish=tuple(str(choice["finish_reason"]) for choice in choices if choice.get("finish_reason")),
        tools=tuple(_tool(call) for call in _put_together(deltas)),
        usage=_usage(usages[-1]) if usages else None,
        form=tuple(dict.fromkeys(line for chunk in chunks for line in _form(chunk))),
        stream=Streamed(
            pieces=sum(bool(_says_something(delta)) for delta in deltas),
            usages=len(usages),
            roles=sum("role" in delta for delta in deltas),
            is_done=bool(events) and events[-1] == b"[DONE]",
        ),
    )


def error_in(body: bytes) -> Mapping[str, Any]:
    """The error of the last event that has one; empty where none has."""
    events = [line.removeprefix(b"data: ") for line in body.split(b"\n") if b'"error"' in line]
    return _mapping(_object(events[-1]).get("error")) if events else {}


def _put_together(deltas: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    calls: dict[int, dict[str, Any]] = {}
    for part in (part for delta in deltas for part in _list(delta.get("tool_calls")) if isinstance(part, dict)):
        call = calls.setdefault(part.get("index") or 0, {"id": "", "function": {"name": "", "arguments": ""}})
        call["id"] = call["id"] or part.get("id") or ""
        function = _mapping(part.get("function"))
        call["function"]["name"] = call["function"]["name"] or function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""
    return list(calls.values())


def _says_something(delta: Mapping[str, Any]) -> bool:
    return any(delta.get(name) for name in ("content", "reasoning", "reasoning_content", "tool_calls"))


def _tool(call: Any) -> Tool:
    function = _mapping(_mapping(call).get("function"))
    name, arguments = function.get("name"), function.get("arguments")
    fits = name == TOOL_NAME and isinstance(arguments, str) and _is_place(arguments)
    return Tool(str(name), fits, str(_mapping(call).get("id", "")).startswith("call_"))


def _is_place(text: str) -> bool:
    """Whether it is `{"city": "…"}`: what the tool and the JSON questions ask for."""
    try:
        value = json.loads(text)
    except _JSON_ERRORS:
        return False
    return isinstance(value, dict) and list(value) == [CITY] and isinstance(value[CITY], str)


def _usage(value: Any) -> Usage | None:
    if not isinstance(value, dict):
        return None
    counts = [value.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
    prompt, completion, total = (count if type(count) is int else None for count in counts)
    return Usage(prompt, completion, total, all(isinstance(value.get(name), dict) for name in _DETAILS))


# Of these, which keys stand and how many is the model's doing.
_OPAQUE = ("tool_calls", "logprobs", "top_logprobs")
# Text or nothing: what a model says decides between them.
_SAID = ("content", "reasoning", "reasoning_content", "finish_reason", "refusal")


def _form(value: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Each key of the answer with the type of its value, in order; of a list the first entry counts."""
    for key, each in value.items():
        here = f"{path}.{key}" if path else key
        first = each[0] if isinstance(each, list) and each else each
        if key in _OPAQUE:
            yield here
        elif isinstance(first, dict):
            yield here
            yield from _form(first, here)
        else:
            yield here if key in _SAID else f"{here}: {type(first).__name__}"


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except _JSON_ERRORS:
        return {}
    return value if isinstance(value, dict) else {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
