"""What clients are told: the envelope, the status and the headers for every way in which a call can fail."""

from __future__ import annotations

import json

import msgspec
import pytest

from backends import errors
from backends.errors import BackendError
from router.faults import MAX_RETRY_AFTER_S, CallFailed, Fault, fault_of, overloaded, stream_error, unknown_model
from router.outcomes import KINDS, kind_of

SECRET = "http://10.0.0.1 sk-secret"  # what a backend's own words may hold

# error; status; type; code; retry-after; whether an SDK may try again
TOLD: list[tuple[BackendError, int, str, str | None, int | None, bool]] = [
    (errors.ConnectFailed(SECRET), 503, "server_error", "backend_unavailable", 5, False),
    (errors.Refused(SECRET, status=503), 503, "server_error", "overloaded", 5, False),
    (errors.Refused(SECRET, status=429, retry_after_s=7.4), 429, "rate_limit_error", "overloaded", 7, False),
    (errors.Refused(SECRET, status=429, retry_after_s=0.0), 429, "rate_limit_error", "overloaded", 1, False),
    (errors.Refused(SECRET, status=429, retry_after_s=1e9), 429, "rate_limit_error", "overloaded", MAX_RETRY_AFTER_S, False),
    (errors.Refused(SECRET), 503, "server_error", "overloaded", 5, False),
    (errors.NotServed(SECRET, status=404), 503, "server_error", "backend_unavailable", 5, False),
    (errors.RouteMissing(SECRET, status=404), 503, "server_error", "backend_unavailable", 5, False),
    (errors.NeedMissing(SECRET, "tools", status=400), 503, "server_error", "backend_unavailable", 5, False),
    (errors.KeyRefused(SECRET, status=401), 502, "server_error", "backend_auth", None, False),
    (errors.FirstTokenTimeout(SECRET), 504, "server_error", "timeout", None, False),
    (errors.AnswerTimeout(SECRET), 504, "server_error", "timeout", None, False),
    (errors.DeadlinePassed(SECRET), 504, "server_error", "timeout", None, False),
    (errors.Failed(SECRET, status=500), 503, "server_error", "backend_unavailable", 5, False),
    (errors.ProtocolBroken(SECRET), 503, "server_error", "backend_unavailable", 5, False),
    (errors.NotAccepted("the model said nothing"), 502, "server_error", "answer_not_accepted", None, False),
    (errors.Diverged(SECRET), 503, "server_error", "backend_unavailable", 5, False),
    (errors.StreamBroken(SECRET), 503, "server_error", "backend_unavailable", 5, False),
    (errors.Rejected("x", status=422, body=b'{"error":{"message":"no"}}'), 422, "invalid_request_error", None, None, True),
    (errors.Rejected("x", status=200, body=b'{"error":{"message":"no","code":400}}'), 400, "invalid_request_error", None, None, True),
    (errors.Rejected("x", status=413, body=b"<html>"), 413, "invalid_request_error", None, None, True),
    (errors.Overflow("too long"), 400, "invalid_request_error", "context_length_exceeded", None, True),
]  # fmt: skip


@pytest.mark.parametrize(
    "row", TOLD, ids=[f"{type(row[0]).__name__} {row[0].status} {row[0].retry_after_s}" for row in TOLD]
)
def test_every_way_to_fail_has_its_words(row: tuple[BackendError, int, str, str | None, int | None, bool]) -> None:
    error, status, kind, code, wait_s, may_retry = row
    fault = fault_of(error)
    told = json.loads(fault.body())
    assert (fault.status, told["error"]["type"], told["error"]["code"]) == (status, kind, code)
    assert set(told) == {"error"} and set(told["error"]) == {"message", "type", "param", "code"}
    headers = dict(fault.all_headers())
    assert headers.get(b"retry-after") == (None if wait_s is None else str(wait_s).encode())
    assert headers.get(b"x-should-retry") == (None if may_retry else b"false")
    assert headers[b"content-type"] == b"application/json"
    assert SECRET not in json.dumps(told)


def test_the_table_above_and_the_table_of_outcomes_leave_no_error_out() -> None:
    all_errors = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BackendError)}
    assert {type(row[0]) for row in TOLD} == set(KINDS) == all_errors - {BackendError}
    assert len({kind_of(row[0]) for row in TOLD}) == len(KINDS), "each error has an outcome of its own"


def test_a_backends_own_code_is_told_and_is_no_metric() -> None:
    error = errors.Rejected("x", status=400, body=b'{"error":{"message":"no","code":"code-17","param":"n"}}')
    fault = fault_of(error)
    assert (fault.code, fault.param, fault.result) == ("code-17", "n", "rejected")
    assert overloaded(1.0).result == "overloaded"


UNKNOWN = "The prompt exceeds this model's maximum context length. Please reduce the length of the messages."
KNOWN = "This model's maximum context length is 4096 tokens. Please reduce the length of the messages."
WORDINGS = {
    "vLLM": "This model's maximum context length is 4096 tokens. However, your prompt contains at least 5000 input tokens.",
    "vLLM for gpt-oss": "Input length (6068) exceeds model's maximum context length (4096).",
    "vLLM for responses": "The engine prompt length 9000 exceeds the max_model_len 4096. Please reduce prompt.",
    "LM Studio 0.3": "Trying to keep the first 9000 tokens when context the overflows. However, the model is loaded with context "
    "length of only 4096 tokens, which is not enough.",
    "LM Studio 0.3, truncating": "Cannot truncate prompt with n_keep (9000) >= n_ctx (4096)",
    "LM Studio 0.4": "Input does not fit in context length. The input has 9000 tokens, but the context length only supports 4096 tokens.",
    "llama-server": "request (9000 tokens) exceeds the available context size (4096 tokens), try increasing it",
}


@pytest.mark.parametrize("words", WORDINGS.values(), ids=WORDINGS)
def test_an_overflow_is_told_in_one_message_whoever_says_it(words: str) -> None:
    fault = fault_of(errors.Overflow("x", status=400, body=msgspec.json.encode({"error": {"message": words}})))
    assert (fault.message, fault.code, fault.param) == (KNOWN, "context_length_exceeded", "messages")


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"error":{"message":"n_ctx of 4"}}'])
def test_an_overflow_of_unknown_size_says_what_clients_look_for_all_the_same(body: bytes) -> None:
    assert fault_of(errors.Overflow("x", body=body)).message == UNKNOWN


def test_a_long_name_of_a_model_is_cut() -> None:
    assert len(unknown_model("x" * 200).message) < 200


@pytest.mark.parametrize(
    ("error", "code"), [(None, "stream_broken"), (errors.DeadlinePassed(SECRET), "timeout"), (errors.StreamBroken(SECRET), "stream_broken")]
)  # fmt: skip
def test_a_broken_stream_ends_with_one_event_that_gives_nothing_away(error: BackendError | None, code: str) -> None:
    event = stream_error(error)
    assert event.startswith(b"data: ") and event.endswith(b"\n\n") and event.count(b"\n") == 2
    assert json.loads(event[6:])["error"]["code"] == code and SECRET.encode() not in event


def test_a_failed_call_is_an_error_with_the_same_words() -> None:
    assert str(CallFailed(Fault(400, "no such thing", "invalid_request_error"))) == "no such thing"


FIELDS = [
    ("chat", "messages"),
    ("messages", "messages"),
    ("responses", "input"),
    ("completions", "prompt"),
    ("embeddings", "input"),
]


@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_an_overflow_names_the_field_that_the_client_has_sent(kind: str, field: str) -> None:
    fault = fault_of(errors.Overflow("x", body=b""), kind)
    assert fault.param == field and fault.message.endswith(f"length of the {field}.")
