"""Whole answers of responses, messages and tokenize: what is one, what is none, and what of it a client sees."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.apis import Shown, read_whole
from backends.errors import BackendError, Failed, NotServed, ProtocolBroken, Refused, RouteMissing
from backends.usage import Usage
from tests.backends.captured import captured


def shown(previous_id: str | None = None) -> Shown:
    return Shown("jane", lambda own_id: f"{own_id}MARK", "msg_1", 7, previous_id)


def read(form: str, body: bytes | dict[str, Any]) -> dict[str, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer: dict[str, Any] = json.loads(read_whole(form, raw, shown()))
    return answer


RESPONSE: dict[str, Any] = {"id": "resp_1", "object": "response", "status": "completed", "model": "m", "output": []}
NO_ROUTE = {"error": "Unexpected endpoint or method. (POST /v1/responses)"}
BROKE = {**RESPONSE, "status": "failed", "error": {"code": "server_error", "message": "x"}}
MESSAGE: dict[str, Any] = {"type": "message", "content": [], "stop_reason": "end_turn", "model": "m"}

NONE: list[tuple[str, str, bytes | dict[str, Any], type[BackendError]]] = [
    ("LM Studio's answer to a path that it does not have", "responses", NO_ROUTE, NotServed),
    ("an error", "messages", {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}, Refused),
    ("HTML", "responses", b"<html>", ProtocolBroken),
    ("no UTF-8", "responses", b'{"output":["\xff"],"status":"completed"}', ProtocolBroken),
    ("a chat completion for a response", "responses", {"choices": []}, ProtocolBroken),
    ("a response that failed", "responses", {**RESPONSE, "status": "failed"}, Failed),
    ("a response that failed and says why", "responses", BROKE, Failed),
    ("vLLM's abort", "responses", {**RESPONSE, "status": "cancelled"}, Failed),
    ("a status that nobody knows", "responses", {**RESPONSE, "status": "\n"}, Failed),
    ("output that is none", "responses", {**RESPONSE, "output": ["x"]}, ProtocolBroken),
    ("a chat completion for a message", "messages", {"choices": []}, ProtocolBroken),
    ("vLLM's abort of a message", "messages", {**MESSAGE, "stop_reason": None}, Failed),
    ("no count", "count_tokens", {}, ProtocolBroken),
    ("llama.cpp's tokenize", "tokenize", captured("llama-server-smollm2/23_tokenize")[2], RouteMissing),
    ("no tokens", "tokenize", {"count": 1}, RouteMissing),
    ("no response for one that is asked for again", "held response", {"error": "x"}, Failed),
    ("no deletion", "deleted response", {}, ProtocolBroken),
    ("no items", "input items", {}, ProtocolBroken),
]  # fmt: skip


@pytest.mark.parametrize(("form", "body", "fault"), [row[1:] for row in NONE], ids=[row[0] for row in NONE])
def test_what_is_no_answer(form: str, body: bytes | dict[str, Any], fault: type[BackendError]) -> None:
    with pytest.raises(fault):
        read(form, body)


def test_ids_lead_back_to_their_owner() -> None:
    answer = read("responses", {**RESPONSE, "previous_response_id": "resp_0"})
    assert (answer["id"], answer["previous_response_id"]) == ("resp_1MARK", "resp_0MARK")
    assert read("deleted response", {"id": "resp_1", "deleted": True})["id"] == "resp_1MARK"


def test_the_predecessors_id_is_the_one_that_the_client_sent() -> None:
    raw = json.dumps({**RESPONSE, "previous_response_id": "resp_0"}).encode()
    assert json.loads(read_whole("responses", raw, shown("the client's")))["previous_response_id"] == "the client's"


def test_what_an_engine_leaves_out_stands_there_all_the_same() -> None:
    answer = read("responses", RESPONSE)
    assert (answer["created_at"], answer["tools"], answer["usage"]) == (7, [], None)
    usage = read("responses", {**RESPONSE, "usage": {"input_tokens": 3, "input_tokens_details": None}})["usage"]
    assert usage["input_tokens_details"] == {"cached_tokens": 0}
    assert usage["output_tokens_details"] == {"reasoning_tokens": 0}
    assert read("responses", {**RESPONSE, "usage": {"input_tokens": "x"}})["usage"] is None
    assert read("messages", MESSAGE)["stop_sequence"] is None


@pytest.mark.parametrize("status", ["in_progress", "queued", "incomplete"])
def test_a_response_that_has_not_ended_is_an_answer(status: str) -> None:
    assert read("responses", {**RESPONSE, "status": status})["status"] == status


def test_of_a_response_that_is_asked_for_again_a_failure_is_the_answer() -> None:
    assert read("held response", BROKE)["error"] == BROKE["error"]


def test_the_model_that_the_backend_named_is_heard() -> None:
    heard = shown()
    read_whole("messages", json.dumps(MESSAGE).encode(), heard)
    assert heard.said == "m"


ITEMS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "a message with gaps",
        {"content": [{"text": "x", "type": "output_text", "logprobs": None, "y": 1}], "type": "message", "phase": None, "id": "m"},
        {"id": "m", "type": "message", "status": "completed", "role": "assistant",
         "content": [{"type": "output_text", "text": "x", "annotations": [], "logprobs": []}]},
    ),
    (
        "reasoning without content",
        {"type": "reasoning", "id": "r", "status": None},
        {"id": "r", "type": "reasoning", "summary": [], "content": None, "encrypted_content": None, "status": "completed"},
    ),
    (
        "a call",
        {"arguments": "{}", "name": "f", "call_id": "c", "type": "function_call", "id": "f1", "status": "completed", "namespace": None},
        {"id": "f1", "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "status": "completed"},
    ),
    ("what is nobody else's", {"b": 1, "type": "x_call", "a": None}, {"b": 1, "type": "x_call", "a": None}),
    (
        "a part that nobody knows",
        {"id": "m", "type": "message", "content": [{"b": 1, "a": 2}]},
        {"id": "m", "type": "message", "status": "completed", "role": "assistant", "content": [{"b": 1, "a": 2}]},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("item", "expected"), [row[1:] for row in ITEMS], ids=[row[0] for row in ITEMS])
def test_an_item_has_its_kinds_keys_in_one_order(item: dict[str, Any], expected: dict[str, Any]) -> None:
    (shows,) = read("responses", {**RESPONSE, "output": [item]})["output"]
    assert json.dumps(shows) == json.dumps(expected)


USAGE: list[tuple[str, dict[str, Any], Usage]] = [
    ("responses", {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 3, "total_tokens": 12,
                   "output_tokens_details": {"reasoning_tokens": 2}}, Usage(9, 3, 4, 2, 12)),
    ("messages", {"input_tokens": 1, "cache_read_input_tokens": 36, "output_tokens": 3}, Usage(37, 3, 36, 0, 40)),
]  # fmt: skip


@pytest.mark.parametrize(("form", "usage", "counted"), USAGE, ids=[row[0] for row in USAGE])
def test_the_tokens_of_an_answer_are_counted_as_those_of_a_chat(
    form: str, usage: dict[str, Any], counted: Usage
) -> None:
    heard = shown()
    whole = RESPONSE if form == "responses" else MESSAGE
    read_whole(form, json.dumps({**whole, "usage": usage}).encode(), heard)
    assert heard.usage == counted


CREATED: list[tuple[object, int]] = [(5, 5), (5.75, 5), (None, 7), ("x", 7), ([], 7), (-1, 7)]


@pytest.mark.parametrize(("said", "created_s"), CREATED, ids=[str(said) for said, _ in CREATED])
def test_when_a_response_was_made_is_a_whole_second(said: object, created_s: int) -> None:
    assert read("responses", {**RESPONSE, "created_at": said})["created_at"] == created_s
