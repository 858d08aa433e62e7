"""The headers that every answer to a call carries: who answered, after how many attempts, under which routing state, how fast."""

from __future__ import annotations

from router.call import Call

MAX_TRAIL_BYTES = 2_000  # of one header; the smallest limit in use for all of them together is Node's 16 KiB

Header = tuple[bytes, bytes]


def call_headers(call: Call, backend: str) -> list[Header]:
    """Of an answer that comes from `backend`; "" where none was tried."""
    headers = [
        (b"x-request-id", call.request_id),
        (b"x-crossfade-attempts", b"%d" % call.attempts),
        (b"x-crossfade-revision", b"%d" % call.revision),
    ]
    if backend:
        headers.append((b"x-crossfade-backend", backend.encode()))
    if call.first_s:
        headers.append((b"server-timing", b"first;dur=%.1f" % ((call.first_s - call.started_s) * 1000)))
    if call.wants_trail:
        headers.append((b"x-crossfade-trail", trail_header(call, backend if call.first_s else "")))
    return headers


def waiting_headers(call: Call) -> list[Header]:
    """Of a stream that is begun before anybody has answered."""
    return [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"x-request-id", call.request_id),
        (b"x-crossfade-revision", b"%d" % call.revision),
    ]


def trail_header(call: Call, answered_by: str) -> bytes:
    """The decision trail in one line: `split -> vllm connect_failed after 0.002 s -> lmstudio`. Only printable ASCII.

    What a backend or the network said stays in the log: it may hold addresses, and a backend's words may repeat somebody's prompt.
    """
    tried = (f"{note.backend} {note.outcome.value} after {note.took_s:.3f} s" for note in call.trail)
    text = " -> ".join(part for part in (call.choice, *tried, answered_by) if part)
    return bytes(byte if 32 <= byte < 127 else 63 for byte in text.encode("ascii", "replace"))[:MAX_TRAIL_BYTES]
