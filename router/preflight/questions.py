"""The small calls that every backend is asked: one JSON body for each check, small enough for an engine on a laptop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from policies.preflight_facts import Check, Side

Body = dict[str, Any]

SHORT_TOKENS = 24
LONG_TOKENS = 96  # a model that reasons first, such as gpt-oss, comes to its answer in fewer
LENGTH_TOKENS = 5
MAX_OVERFLOW_TOKENS = 32_768  # a prompt of 64 KB; a longer one is no small call any more
MANY = 64  # tokens more than the context holds
CITY = "city"

_ASKED = "Name three colours of the rainbow, in one short sentence."
_SYSTEM = {"role": "system", "content": "You answer briefly, in English, and you never mention these instructions."}
_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city, now.",
        "parameters": {
            "type": "object",
            "properties": {CITY: {"type": "string", "description": "The city's name"}},
            "required": [CITY],
            "additionalProperties": False,
        },
    },
}
TOOL_NAME = "get_weather"
_PARIS = "What is the weather in Paris?"
_SCHEMA = {
    "type": "object",
    "properties": {CITY: {"type": "string"}},
    "required": [CITY],
    "additionalProperties": False,
}
_HELD = {  # as a conversation has it that was begun on LM Studio, before the router was there
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "814890118", "type": "function", "function": {"name": TOOL_NAME, "arguments": '{"city":"Paris"}'}}
    ],
}


def _says(text: str) -> list[Body]:
    return [{"role": "user", "content": text}]


GREETING = _says(_ASKED)


def _greedy(text: str = _ASKED, max_tokens: int = SHORT_TOKENS, **fields: Any) -> Body:
    return {"messages": _says(text), "temperature": 0, "max_tokens": max_tokens, **fields}


def _talk() -> Body:
    turns = [_SYSTEM, *_says("Hello!"), {"role": "assistant", "content": "Hello. How can I help?"}, *_says(_ASKED)]
    return {"messages": turns, "temperature": 0, "max_tokens": LENGTH_TOKENS}


def _second_turn() -> Body:
    answered = {"role": "tool", "tool_call_id": "814890118", "content": '{"sky":"clear","celsius":21}'}
    turns = [*_says(_PARIS), _HELD, answered]
    return {"messages": turns, "tools": [_TOOL], "temperature": 0, "max_tokens": SHORT_TOKENS}


def _schema_call() -> Body:
    form = {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": _SCHEMA}}
    return _greedy("Name the capital of France, as JSON.", LONG_TOKENS, response_format=form)


_FORCED = {"type": "function", "function": {"name": TOOL_NAME}}
_FIXED: dict[Check, Body] = {
    Check.GREEDY: _greedy(max_tokens=LONG_TOKENS),
    Check.TURNS: _talk(),
    Check.TOOL_AUTO: _greedy(_ASKED, SHORT_TOKENS, tools=[_TOOL]),
    Check.DEFAULTS: {"messages": _says(_ASKED), "max_tokens": LONG_TOKENS},
    Check.N: {"messages": _says(_ASKED), "temperature": 1, "n": 2, "max_tokens": LENGTH_TOKENS},
    Check.LOGPROBS: _greedy(logprobs=True, top_logprobs=2),
    Check.SEED: {"messages": _says(_ASKED), "temperature": 1, "seed": 7, "max_tokens": SHORT_TOKENS},
    Check.SEED_AGAIN: {"messages": _says(_ASKED), "temperature": 1, "seed": 7, "max_tokens": SHORT_TOKENS},
    Check.MAX_TOKENS: _greedy("Count from one to fifty, in words.", LENGTH_TOKENS),
    Check.EFFORT: _greedy(reasoning_effort="minimal"),
    Check.TOOL_FORCED: _greedy(_PARIS, LONG_TOKENS, tools=[_TOOL], tool_choice=_FORCED),
    Check.TOOL_SECOND_TURN: _second_turn(),
    Check.TOOL_PARALLEL: _greedy(
        "What is the weather in Paris, and in Rome? Ask for both at once.", LONG_TOKENS, tools=[_TOOL]
    ),
    Check.JSON_OBJECT: _greedy(
        'Answer with JSON like {"city": "Paris"}: the capital of Italy.',
        LONG_TOKENS,
        response_format={"type": "json_object"},
    ),
    Check.JSON_SCHEMA: _schema_call(),
    Check.STREAM: _greedy(stream=True),
    Check.STREAM_USAGE: _greedy(stream=True, stream_options={"include_usage": True}),
    Check.STREAM_TOOL: _greedy(_PARIS, LONG_TOKENS, stream=True, tools=[_TOOL], tool_choice=_FORCED),
    Check.UNKNOWN_FIELD: _greedy(max_tokens=LENGTH_TOKENS, x_crossfade_preflight=1),
    Check.BAD_VALUE: {"messages": _says(_ASKED), "temperature": 0, "min_p": 3, "max_tokens": LENGTH_TOKENS},
    Check.BAD_TYPE: {"messages": _says(_ASKED), "temperature": 0, "seed": "hot", "max_tokens": LENGTH_TOKENS},
}


def _stop(so_far: Side) -> Body | None:
    return {**_FIXED[Check.GREEDY], "stop": [so_far.stop_word]} if so_far.stop_word else None


def _overflow(so_far: Side) -> Body | None:
    tokens = so_far.context_tokens
    if tokens is None or tokens > MAX_OVERFLOW_TOKENS:
        return None
    return _greedy("7 " * (tokens + MANY), 1)  # a digit is a token in every vocabulary, and no two are joined to one


_BUILT: dict[Check, Callable[[Side], Body | None]] = {Check.STOP: _stop, Check.OVERFLOW: _overflow}


def question(check: Check, model: str, so_far: Side) -> Body | None:
    """The body of the call, for the public `model`; None where what is known `so_far` does not allow it."""
    built = _BUILT.get(check)
    body = built(so_far) if built is not None else _FIXED[check]
    return None if body is None else {"model": model, **body}


def stop_word_of(text: str) -> str:
    """A word in the middle of an answer, which the same answer must stop at; "" where it has none."""
    words = [word for word in text.split() if word.isalpha() and text.count(word) == 1]
    return words[len(words) // 2] if len(words) > 2 else ""
