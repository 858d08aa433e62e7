"""Answers of real engines, as they were captured: status, headers and body, or the data of a stream's events."""

from __future__ import annotations

from pathlib import Path

from backends.sse import SseDecoder

FOLDER = Path(__file__).parent.parent / "captures"


def captured(name: str) -> tuple[int, dict[str, str], bytes]:
    """One capture. The two tools that wrote them differ in their first line and in how they end."""
    raw = (FOLDER / f"{name}.txt").read_bytes().replace(b"\r\n", b"\n")
    raw = raw[raw.index(b"\nHTTP") + 1 :].removesuffix(b"# curl exit 0\n")
    head, _, body = raw.partition(b"\n\n")
    status, *lines = head.decode().split("\n")
    headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in lines)}
    return int(status.split()[1]), headers, body[: int(headers.get("content-length", len(body)))]


def events_of(name: str) -> list[bytes]:
    """The data of the events of a captured stream."""
    return [event.data for event in SseDecoder().feed(captured(name)[2] + b"\n\n")]
