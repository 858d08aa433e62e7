"""What a refusal means: every wording, status and envelope of the engines' that was seen, to its error."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backends.answers import read_chunk, read_whole
from backends.errors import (
    BackendError,
    Failed,
    KeyRefused,
    NeedMissing,
    NotServed,
    Overflow,
    ProtocolBroken,
    Refused,
    Rejected,
    RouteMissing,
)
from backends.faults import MAX_MESSAGE_CHARS, error_text, fault_of_answer, fault_of_error, retry_after_s
from tests.backends.captured import captured, events_of

Fault = type[BackendError]


def openai(message: str, **fields: object) -> bytes:
    return json.dumps({"error": {"message": message, **fields}}).encode()


def string(message: str) -> bytes:
    return json.dumps({"error": message}).encode()


CAPTURED: list[tuple[str, Fault]] = [
    ("vllm-0.33-gpt-oss/err_json", Rejected),
    ("vllm-0.33-gpt-oss/err_badtype", Rejected),
    ("vllm-0.33-gpt-oss/err_temp3", Rejected),
    ("vllm-0.33-gpt-oss/err_model", NotServed),
    ("vllm-0.33-gpt-oss/fail_paused", Refused),
    ("vllm-0.33-gpt-oss/fail_dead", Failed),
    ("vllm-0.33-gpt-oss/unknown_route", RouteMissing),
    ("vllm-0.33-gpt-oss/wrong_method", RouteMissing),
    ("vllm-0.33-gpt-oss/trailing_slash", ProtocolBroken),
    ("vllm-0.33-gpt-oss/render", KeyRefused),
    ("vllm-0.32-smollm2/32_err_context_overflow", Overflow),
    ("vllm-0.32-smollm2/33_err_max_tokens_too_big", Rejected),
    ("llama-server-smollm2/32_err_context_overflow", Overflow),
    ("llama-server-smollm2/35_err_unknown_path", RouteMissing),
    ("llama-server-smollm2/31_err_invalid_json", Rejected),
    ("llama-server-smollm2/34_err_max_tokens_negative", Rejected),
]

CAPTURED_EVENTS: list[tuple[str, int, Fault]] = [
    ("vllm-0.33-gpt-oss/fail_paused_stream", 0, Refused),
    ("vllm-0.33-gpt-oss/err_logprobs30_stream", 0, Rejected),
    ("vllm-0.33-gpt-oss/fail_abort0_stream", 1, Failed),
    ("vllm-0.33-gpt-oss/fail_dead_stream", -2, Failed),
]

# (name, status, body, error): captures that are too long to keep, source, documentation and issue reports (facts A2, C3).
SEEN: list[tuple[str, int, bytes, Fault]] = [
    (
        "vLLM: overload",
        503,
        openai("The engine is currently busy and cannot accept new requests.", type="Service Unavailable", code=503),
        Refused,
    ),
    ("vLLM: elastic scaling", 503, string("The model is currently scaling"), Refused),
    (
        "vLLM: a dead engine",
        500,
        openai("EngineCore encountered an issue. See stack trace (above) for the root cause.", code=500),
        Failed,
    ),
    (
        "vLLM: gpt-oss, a prompt too long",
        400,
        openai("Input length (6068) exceeds model's maximum context length (4096).", type="BadRequestError", code=400),
        Overflow,
    ),
    (
        "vLLM: responses, a prompt too long",
        400,
        openai("The engine prompt length 9 exceeds the max_model_len 4.", type="invalid_request_error"),
        Overflow,
    ),
    ("vLLM: no key", 401, string("Unauthorized"), KeyRefused),
    (
        "vLLM: wrong content type",
        400,
        openai("Unsupported Media Type: Only 'application/json' is allowed", code=400),
        Rejected,
    ),
    (
        "vLLM: no tool parser",
        400,
        openai('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set', code=400),
        NeedMissing,
    ),
    (
        "vLLM: no tool parser for a tool by its name",
        400,
        openai('tool_choice=function "sky" requires --tool-call-parser to be set', type="BadRequestError", code=400),
        NeedMissing,
    ),
    (
        "vLLM: no tool parser, in a stream",
        200,
        openai('tool_choice="required" requires --tool-call-parser to be set', code=400),
        NeedMissing,
    ),
    ("llama-server: no --jinja", 500, openai("tools param requires --jinja flag", code=500), NeedMissing),
    (
        "vLLM: words of a tool that is called like a refusal",
        400,
        openai('unknown tool "x requires --tool-call-parser to be set"', code=400),
        Rejected,
    ),
    ("vLLM: bad grammar", 400, openai("Invalid grammar specification: 'triggers'", code=400), Rejected),
    (
        "vLLM of 2024: flat",
        400,
        b'{"object":"error","message":"bad n","type":"BadRequestError","param":null,"code":400}',
        Rejected,
    ),
    (
        "vLLM of 2024: flat, too long",
        400,
        b'{"object":"error","message":"This model\'s maximum context length is 4","type":"BadRequestError","code":400}',
        Overflow,
    ),
    ("FastAPI: validation", 422, b'{"detail":[{"loc":["body","model"],"msg":"field required"}]}', Rejected),
    (
        "LM Studio: an unknown path",
        200,
        string("Unexpected endpoint or method. (POST /chat/completions)"),
        RouteMissing,
    ),
    ("LM Studio: json_object", 400, string("'response_format.type' must be 'json_schema' or 'text'"), Rejected),
    (
        "LM Studio: a named tool",
        400,
        string("Invalid tool_choice type: 'object'. Supported string values: none, auto, required"),
        Rejected,
    ),
    ("LM Studio: no messages", 400, string("'messages' field is required"), Rejected),
    (
        "LM Studio: nothing loaded",
        400,
        openai(
            "No models loaded. Please load a model in the developer page",
            type="invalid_request_error",
            param="model",
            code=None,
        ),
        NotServed,
    ),
    ("LM Studio: nothing loaded, older", 404, openai("No models loaded. Please load"), NotServed),
    ("LM Studio: two loaded, another asked for", 404, openai("x", code="model_not_found"), NotServed),
    ("LM Studio: that inside a 200", 200, openai("x", code="model_not_found"), NotServed),
    ("LM Studio: evicted", 400, string('Failed to load model "x". Error: Operation canceled.'), NotServed),
    ("LM Studio: unloaded", 400, string("Model is unloaded"), NotServed),
    ("LM Studio: unloaded, in a stream", 200, string("Model has unloaded or crashed.."), NotServed),
    ("LM Studio: canceled", 400, string("Operation canceled"), NotServed),
    (
        "LM Studio 0.3: too long",
        400,
        string("Trying to keep the first 111490 tokens when context the overflows. However"),
        Overflow,
    ),
    (
        "LM Studio 0.3: n_keep",
        400,
        string("The number of tokens to keep from the initial prompt is greater than the context length"),
        Overflow,
    ),
    ("LM Studio 0.3: truncate", 400, string("Cannot truncate prompt with n_keep (5) >= n_ctx (4)"), Overflow),
    (
        "LM Studio 0.4: too long, in a stream",
        200,
        b'{"error":{"message":"Input does not fit in context length. The input has 31430 tokens"},"message":"x"}',
        Overflow,
    ),
    ("LM Studio: computing failed", 200, b'{"error":{"message":"Compute error."},"message":"Compute error."}', Failed),
    ("LM Studio: crashed", 200, openai("The model has crashed without additional information. (Exit code: 1)"), Failed),
    (
        "LM Studio: its token is missing",
        401,
        openai("An LM Studio API token is required", code="invalid_api_key", type="invalid_request"),
        KeyRefused,
    ),
    ("llama-server: loading", 503, openai("Loading model", type="unavailable_error", code=503), NotServed),
    ("llama-server: an image", 500, openai("image input is not supported", code=500), Failed),
    ("llama-server: too long, inside a 200", 200, openai("x", type="exceed_context_size_error"), Overflow),
    (
        "OpenAI: too long",
        400,
        openai(
            "This model's maximum context length is 8 tokens.",
            code="context_length_exceeded",
            type="invalid_request_error",
        ),
        Overflow,
    ),
    ("OpenAI: only its code says so", 400, openai("Too many words.", code="context_length_exceeded"), Overflow),
    ("OpenAI: rate limit", 429, openai("Rate limit reached", code="rate_limit_exceeded"), Refused),
    ("OpenAI: forbidden", 403, openai("no"), KeyRefused),
    ("a code that is a status in words", 200, openai("x", code="429"), Refused),
    ("a filter that is a name, inside a 200", 200, openai("x", code="content_filter"), Rejected),
    ("a rate limit that is a name, inside a 200", 200, openai("x", code="rate_limit_exceeded"), Refused),
    ("a wrong key that is a type, inside a 200", 200, openai("x", type="authentication_error"), KeyRefused),
    ("a missing model that is a type, inside a 200", 200, openai("x", type="not_found_error", code=None), NotServed),
    ("a name that means nothing", 200, openai("x", code="oh_no", type="SomeError"), Failed),
    ("a code that is no status", 200, openai("x", code=7), Failed),
    ("a code that is true", 200, openai("x", code=True), Failed),
    ("too large", 413, b"<html>413</html>", Rejected),
    ("a time-out of the server's own", 408, b"", Failed),
    ("not implemented", 501, b"", RouteMissing),
    ("a page of a web server for a path that it does not have", 404, b"404 page not found", RouteMissing),
    ("a 404 that says nothing", 404, b"", RouteMissing),
    ("something else that was not found", 404, openai("Response with id 'resp_x' not found."), NotServed),
    ("a call's own fault in the same words", 400, openai("not found"), Rejected),
    ("HTML of a proxy", 502, b"<html><h1>Bad Gateway</h1></html>", Failed),
    ("a 500 that speaks of context", 500, openai("crashed at maximum context length"), Failed),
    ("an empty error", 200, b'{"error":{}}', Failed),
    ("an error of another type", 200, b'{"error":[1]}', ProtocolBroken),
    ("no error at all", 200, b'{"choices":[]}', ProtocolBroken),
    ("fields of other types", 400, b'{"error":{"message":{"a":1},"type":3,"param":["x"],"code":{}}}', Rejected),
    ("nesting without end", 400, b'{"error":' + b"[" * 60_000, Rejected),
    ("invalid UTF-8", 429, b"\xff\xfe", Refused),
    ("a status that does not exist", 999, b"", Failed),
]


@pytest.mark.parametrize(("name", "error"), CAPTURED, ids=[row[0] for row in CAPTURED])
def test_a_captured_refusal_means(name: str, error: Fault) -> None:
    status, headers, body = captured(name)
    fault = fault_of_answer(status, headers, body)
    assert type(fault) is error and fault.status == status


@pytest.mark.parametrize(("name", "index", "error"), CAPTURED_EVENTS, ids=[row[0] for row in CAPTURED_EVENTS])
def test_a_captured_error_inside_a_stream_means(name: str, index: int, error: Fault) -> None:
    with pytest.raises(BackendError) as caught:
        read_chunk(events_of(name)[index])
    assert type(caught.value) is error


def test_a_captured_abort_with_status_200_is_a_failure() -> None:
    with pytest.raises(Failed, match="aborted"):
        read_whole("chat", captured("vllm-0.33-gpt-oss/fail_abort0")[2])


@pytest.mark.parametrize(("status", "body", "error"), [row[1:] for row in SEEN], ids=[row[0] for row in SEEN])
def test_a_refusal_means(status: int, body: bytes, error: Fault) -> None:
    fault = fault_of_error(body) if status == 200 else fault_of_answer(status, {}, body)
    assert type(fault) is error
    assert fault.body == body or error is ProtocolBroken


ECHOES = [
    "No models loaded",
    "Operation canceled",
    "maximum context length",
    "Unexpected endpoint or method",
    "model_not_found",
]


@pytest.mark.parametrize("words", ECHOES)
def test_a_call_that_is_quoted_back_cannot_blame_the_backend(words: str) -> None:
    """NotServed counts against a backend and Overflow makes a call go on to the next: neither may be had for the asking."""
    dump = f"1 validation error:\n  {{'type': 'float_parsing', 'loc': 'body.temperature', 'input': '{words}'}}"
    fault = fault_of_answer(400, {}, openai(dump, type="Bad Request", code=400))
    assert type(fault) is Rejected


@pytest.mark.parametrize("status", range(300, 400))
def test_every_redirect_is_a_broken_protocol(status: int) -> None:
    assert type(fault_of_answer(status, {"location": "http://x"}, b"")) is ProtocolBroken


WORDS: list[tuple[str, bytes, str | None]] = [
    ("OpenAI's object", openai("a"), "a"),
    ("a string", string("a"), "a"),
    ("FastAPI's detail", b'{"detail":"Not Found"}', "Not Found"),
    ("FastAPI's list", b'{"detail":[{"msg":"a"}]}', '[{"msg":"a"}]'),
    ("vLLM's old flat form", b'{"object":"error","message":"a","type":"T"}', "a"),
    ("a message of another type", b'{"error":{"message":{"a":1}}}', '{"a":1}'),
    ("no message", b'{"error":{"code":500}}', "unknown error"),
    ("too long", openai("a" * 5000), "a" * MAX_MESSAGE_CHARS),
    ("an error that is null", b'{"error":null}', None),
    ("a detail that is null", b'{"detail":null}', None),
    ("a message without a type", b'{"message":"a"}', None),
    ("a list", b"[]", None),
    ("no JSON", b"oops", None),
]


@pytest.mark.parametrize(("body", "words"), [row[1:] for row in WORDS], ids=[row[0] for row in WORDS])
def test_the_words_of_an_error_are_found_in_any_envelope(body: bytes, words: str | None) -> None:
    text = error_text(body)
    assert (text.message if text else None) == words


NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
RETRY_AFTER: list[tuple[str, str | None, float | None]] = [
    ("none", None, None),
    ("seconds", "7", 7.0),
    ("seconds with white space", " 7 ", 7.0),
    ("a fraction", "0.5", 0.5),
    ("zero", "0", 0.0),
    ("a date", "Sun, 22 Nov 2026 12:00:30 GMT", 30.0),
    ("a date of the old form", "Sunday, 22-Nov-26 12:00:30 GMT", 30.0),
    ("a date without a zone", "Sun, 22 Nov 2026 12:00:30", 30.0),
    ("a date with an offset", "Sun, 22 Nov 2026 14:00:30 +0200", 30.0),
    ("a date in the past", "Sun, 22 Nov 2026 11:00:00 GMT", 0.0),
    ("a negative number", "-1", None),
    ("a sign", "+5", None),
    ("an exponent", "1e9", None),
    ("a huge number", "9" * 40, None),
    ("no number", "abc", None),
    ("nothing", "", None),
    ("infinity", "inf", None),
    ("digits that are not ASCII", "٣", None),
    ("two values", "3, 5", None),
    ("a month that does not exist", "Sun, 22 Foo 2026 12:00:30 GMT", None),
    ("a year that does not exist", "Sun, 22 Nov 99999 12:00:30 GMT", None),
    ("a year beyond any number", "Sun, 22 Nov 99999999999999999999 12:00:30 GMT", None),
    ("an offset that does not exist", "Sun, 22 Nov 2026 12:00:30 +99999999999", None),
]


@pytest.mark.parametrize(("value", "wait_s"), [row[1:] for row in RETRY_AFTER], ids=[row[0] for row in RETRY_AFTER])
def test_retry_after_is_seconds_or_a_date_and_else_ignored(value: str | None, wait_s: float | None) -> None:
    assert retry_after_s(value, NOW) == wait_s


@given(value=st.text(max_size=40) | st.from_regex(r"\A[A-Z][a-z]{2}, \d{1,3} Nov \d{1,5} [\d:]{1,9} [+-]?\d{0,12}\Z"))
@example(value="Sun, 22 Nov 0001 00:00:00 +2359")
def test_retry_after_of_any_text_is_a_wait_or_nothing(value: str) -> None:
    wait_s = retry_after_s(value, NOW)
    assert wait_s is None or wait_s >= 0


def test_only_a_status_carries_retry_after() -> None:
    assert fault_of_answer(429, {"retry-after": "3"}, b"").retry_after_s == 3
    assert fault_of_answer(503, {"retry-after": "3"}, b"").retry_after_s == 3
    assert fault_of_answer(500, {"retry-after": "3"}, b"").retry_after_s is None


@given(body=st.binary(max_size=200), status=st.integers(300, 999))
def test_any_body_of_any_status_has_a_meaning(body: bytes, status: int) -> None:
    assert isinstance(fault_of_answer(status, {}, body), BackendError)
    assert isinstance(fault_of_error(body), BackendError)


def test_an_answer_without_a_word_is_named_by_its_status() -> None:
    assert str(fault_of_answer(404, {}, b"")) == "the server answered 404"


QUOTES: list[tuple[str, dict[str, object], str]] = [
    (
        "a prompt",
        {"message": "cannot parse: my secret", "type": "BadRequestError"},
        "the server answered 400 Bad Request (BadRequestError)",
    ),
    (
        "a prompt in its names",
        {"message": "x", "type": "my secret", "code": "secret"},
        "the server answered 400 Bad Request",
    ),
    (
        "a key in its names",
        {"message": "x", "code": "sk-secret-1", "type": "invalid_key"},
        "the server answered 400 Bad Request (invalid_key)",
    ),
    ("a line of a log", {"message": "x\n2026-01-01 ERROR secret"}, "the server answered 400 Bad Request"),
    (
        "a known phrase, then a prompt",
        {"message": "No models loaded. secret"},
        "the server answered 400 Bad Request (No models loaded)",
    ),
    ("an overflow", {"message": "maximum context length is 4; secret"}, "the server answered 400 Bad Request"),
]


@pytest.mark.parametrize(("error", "told"), [row[1:] for row in QUOTES], ids=[row[0] for row in QUOTES])
def test_an_errors_message_is_ours_and_what_the_backend_said_is_in_its_body_alone(
    error: dict[str, object], told: str
) -> None:
    body = json.dumps({"error": error}).encode()
    fault = fault_of_answer(400, {}, body)
    assert str(fault) == told and fault.body == body
