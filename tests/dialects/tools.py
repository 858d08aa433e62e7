"""Two tools that a client offers, and how it puts together what a stream calls of them."""

from __future__ import annotations

from typing import Any

from tests.hearing import Heard

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
CLOCK: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_time", "parameters": {"type": "object", "properties": {"tz": {"type": "string"}}}},
}
TOOLS = [WEATHER, CLOCK]


def calls_of(heard: Heard) -> dict[int, dict[str, Any]]:
    """The calls of tools in a stream, each with all its ids and its arguments put together."""
    calls: dict[int, dict[str, Any]] = {}
    for delta in heard.deltas:
        for call in delta.get("tool_calls", ()):
            found = calls.setdefault(call["index"], {"ids": set(), "name": "", "arguments": ""})
            found["ids"] |= {call["id"]} if "id" in call else set()
            found["name"] = call["function"].get("name") or found["name"]
            found["arguments"] += call["function"].get("arguments") or ""
    return calls
