"""Refusals: what asks for patience, what is the call's own fault, what is the operator's (facts B5, 17, 21, and each dialect's words)."""

from __future__ import annotations

from collections.abc import Callable

from tests.faults.scripts import error_event, in_s, in_turn, says_error
from tests.faults.stage import BACKEND_KEY, INTERNALS, Told
from tests.faults.table import OF_B, OVERLOADED, Row, joined, moves, stays
from tests.upstream import Connection, Received, Script, answer, says

OF_A = Told(200, "from a", backend="a")
BUSY = "429 Too Many Requests"


def busy(retry_after: str | Callable[[], str], status: str = BUSY) -> Script:
    """Refuses with this `retry-after`, worked out when it is sent."""

    async def script(_request: Received, connection: Connection) -> None:
        value = retry_after if isinstance(retry_after, str) else retry_after()
        head = f"retry-after: {value}"
        await connection.write(answer({"error": {"message": INTERNALS}}, status, head))

    return script


def refused(status: int, retry_after_s: int) -> Told:
    return Told(status, code="overloaded", retry_after_s=retry_after_s)


def waited(fault: str, retry_after: str | Callable[[], str], at_least_s: float, status: str = BUSY) -> list[Row]:
    """Waited out once on a, which then answers; and where it says so again, b does."""
    once, again = in_turn(busy(retry_after, status), says("from a")), busy(retry_after, status)
    takes_s = (at_least_s, 5.0)
    return [
        Row(f"{fault}, once", once, OF_A, "a refused, a ok", takes_s=takes_s),
        Row(f"{fault}, again and again", again, OF_B, "a refused, a refused, b ok", True, b=says("from b"), takes_s=takes_s),
    ]  # fmt: skip


def not_waited(fault: str, retry_after: str, alone_s: int, status: str = BUSY) -> list[Row]:
    """On at once; with nobody left the client is told at once when to come back."""
    told = refused(int(status[:3]), alone_s)
    return list(moves(fault, busy(retry_after, status), "refused", told, takes_s=(0.0, 0.5)))


PATIENCE = joined(
    waited("429 for 0 s", "0", 0),
    waited("429 for 0.3 s", "0.3", 0.3),
    waited("429 until a date in a second", lambda: in_s(1), 0),
    waited("429 until a date that has passed", lambda: in_s(-3600), 0),
    waited("503 for 0.3 s", "0.3", 0.3, "503 Busy"),
    not_waited("429 for 30 s", "30", 30),
    not_waited("429 for an hour", "3600", 59),
    not_waited("429 until a date in an hour", in_s(3600), 59),
    not_waited("503 for 30 s", "30", 30, "503 Busy"),
    not_waited("429 for -1 s", "-1", 5),
    not_waited("429 for abc", "abc", 5),
    not_waited("429 for 1e9", "1e9", 5),
    not_waited("429 for nothing", "", 5),
    not_waited("429 with two values that differ", "0\r\nretry-after: 30", 5),
    moves("503 without a word when to come back", says_error("503 Busy", INTERNALS), "refused", OVERLOADED),
    stays("one 500 and then well", in_turn(says_error("500 Oh"), says("from a")), OF_A, "failed, a ok", "w"),
)

FILTERED = Told(400, code="content_filter")
CALLERS = joined(
    *(
        stays(f"answers {status}", says_error(status, "no such option"), Told(int(status[:3])), "rejected")
        for status in ("400 Bad Request", "413 Too Large", "422 Unprocessable", "409 Conflict")
    ),
    stays("filters the content", says_error("400 Bad", "filtered", code="content_filter"), FILTERED, "rejected"),
    stays("filters the content inside a 200", says_error("200 OK", "filtered", code="content_filter"), FILTERED, "rejected"),
    stays("answers 200 with an error of 400", says_error("200 OK", "no", code=400), Told(400), "rejected"),
    stays("sends an error of 400 first", error_event(400, "no"), Told(400), "rejected", "s"),
    stays("sends a BadRequestError first", error_event(None, "no", kind="BadRequestError"), Told(400), "rejected", "s"),
)  # fmt: skip

# Each dialect's own words for a prompt that is too long.
TOO_LONG = {
    "vLLM": "This model's maximum context length is 4 tokens. However, you requested 9 tokens.",
    "vLLM for gpt-oss": "Input length (9) exceeds model's maximum context length (4).",
    "vLLM for responses": "The engine prompt length 9 exceeds the max_model_len 4.",
    "LM Studio 0.3": "Trying to keep the first 9 tokens when context the overflows. However, the model",
    "LM Studio 0.3, n_keep": "The number of tokens to keep from the initial prompt is greater than the context length",
    "LM Studio 0.3, truncating": "Cannot truncate prompt with n_keep (5) >= n_ctx (4)",
    "LM Studio 0.4": "Input does not fit in context length. The input has 9 tokens",
    "llama-server": "the request exceeds the available context size, try increasing it",
}
OVERFLOW = Told(400, code="context_length_exceeded")
OVERFLOWS = joined(
    *(moves(f"has too small a context, {who}", says_error("400 Bad", said), "overflow", OVERFLOW, "w") for who, said in TOO_LONG.items()),
    *(moves(f"has too small a context, {who}", error_event(400, said), "overflow", OVERFLOW, "s") for who, said in TOO_LONG.items()),
    moves("has too small a context, by OpenAI's code", says_error("400 Bad", "x", code="context_length_exceeded"), "overflow", OVERFLOW),
    moves("has too small a context, by llama-server's type", says_error("200 OK", type="exceed_context_size_error"), "overflow", OVERFLOW),
    [Row("nobody's context is large enough", says_error("400 Bad", TOO_LONG["vLLM"]), OVERFLOW, "a overflow, b overflow",
         b=says_error("400 Bad", TOO_LONG["LM Studio 0.4"]))],
)  # fmt: skip

BACKEND_AUTH = Told(502, code="backend_auth")
ECHOED = f"Incorrect API key provided: {BACKEND_KEY}. {INTERNALS}"
OPERATORS = joined(
    moves("refuses the router's key, 401", says_error("401 No", ECHOED), "key_refused", BACKEND_AUTH),
    moves("refuses the router's key, 403", says_error("403 No", ECHOED), "key_refused", BACKEND_AUTH),
    moves("refuses the router's key inside a 200", says_error("200 OK", ECHOED, code=401), "key_refused", BACKEND_AUTH),
    moves("refuses the router's key in an event", error_event(401, ECHOED), "key_refused", BACKEND_AUTH, "s"),
    stays("quotes the router's key in a rejection", says_error("400 Bad", f"no: {BACKEND_KEY}"), Told(400), "rejected"),
    stays("quotes it in one inside a 200", says_error("200 OK", f"no: {BACKEND_KEY}", code=400), Told(400), "rejected"),
)

REFUSALS = [*PATIENCE, *CALLERS, *OVERFLOWS, *OPERATORS]
