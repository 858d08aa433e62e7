"""A client of one stream that writes down all that it hears, as an SDK would."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tests.running import Router
from tests.upstream import END, STREAM_HEAD, Connection, Received, Script, chunked

Ending = tuple[list[str], int, list[Any]]
WHOLE: Ending = (["stop"], 1, [])
BROKEN: Ending = ([], 0, ["stream_broken"])


@dataclass(slots=True)
class Heard:
    """One stream, heard out."""

    events: list[dict[str, Any]] = field(default_factory=list)
    done: int = 0
    backend: str = ""
    raw: str = ""

    @property
    def deltas(self) -> list[dict[str, Any]]:
        return [choice.get("delta", choice) for event in self.events for choice in event.get("choices", ())]

    @property
    def content(self) -> str:
        return "".join(delta.get("content") or delta.get("text") or "" for delta in self.deltas)

    @property
    def reasoning(self) -> str:
        return "".join(delta.get("reasoning") or delta.get("reasoning_content") or "" for delta in self.deltas)

    @property
    def roles(self) -> list[str]:
        return [delta["role"] for delta in self.deltas if "role" in delta]

    @property
    def finishes(self) -> list[str]:
        choices = [choice for event in self.events for choice in event.get("choices", ())]
        return [choice["finish_reason"] for choice in choices if choice["finish_reason"]]

    @property
    def errors(self) -> list[Any]:
        return [event["error"]["code"] for event in self.events if "error" in event]

    @property
    def usages(self) -> list[Any]:
        return [event["usage"] for event in self.events if event.get("usage")]

    @property
    def ending(self) -> Ending:
        """How it ended: finish_reasons, [DONE]s, errors."""
        return self.finishes, self.done, self.errors

    def alike(self, name: str) -> set[Any]:
        """The values of a field that one stream says alike in each event."""
        return {json.dumps(event.get(name)) for event in self.events if "error" not in event}


async def hear(router: Router, path: str = "/v1/chat/completions", **fields: Any) -> Heard:
    """One streamed call of the model `jane`, heard out."""
    asked = {"messages": [{"role": "user", "content": "hi"}]} if "chat" in path else {"prompt": "Once"}
    body = {"model": "jane", "stream": True, **asked, **fields}
    answer = await router.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return heard_in(answer.text, answer.headers["x-crossfade-backend"])


def heard_in(raw: str, backend: str = "") -> Heard:
    """What a client hears in these bytes; each event must have the form that naive readers understand."""
    heard = Heard(backend=backend, raw=raw)
    *events, rest = raw.split("\n\n")
    assert rest == ""
    for event in events:
        assert event.startswith("data: ") and "\n" not in event
        if event == "data: [DONE]":
            heard.done += 1
        else:
            assert not heard.done, "something follows [DONE]"
            heard.events.append(json.loads(event[6:]))
    return heard


def streams(*events: bytes) -> Script:
    """A backend that sends these events, each in a chunk of its own, and ends the message."""

    async def script(_request: Received, connection: Connection) -> None:
        await connection.write(STREAM_HEAD, *map(chunked, events), END)

    return script


def breaks_after(*events: bytes) -> Script:
    """A backend that sends these events and resets the connection."""

    async def script(_request: Received, connection: Connection) -> None:
        await connection.write(STREAM_HEAD, *map(chunked, events))
        connection.reset()

    return script


def stops_after(*events: bytes) -> Script:
    """A backend that sends these events and then stands still until the other side hangs up."""

    async def script(_request: Received, connection: Connection) -> None:
        await connection.write(STREAM_HEAD, *map(chunked, events))
        await connection.until_gone()

    return script
