"""Streams with named events: two engines' captures come out alike, and what is no end, no event or no answer is found."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.apis import Shown
from backends.errors import BackendError, Failed, ProtocolBroken, Refused
from backends.events import MessageStream, ResponseStream, TypedStream, stream_of
from backends.sse import Event, SseDecoder
from tests.backends.captured import captured

CAPTURES = {
    "vllm": "vllm-0.32-smollm2",
    "llama": "llama-server-smollm2",
    "gpt-oss": "vllm-0.33-gpt-oss",
}
NAMES = {"responses": "24_responses_stream", "messages": "25_messages_stream"}


def shown() -> Shown:
    return Shown(model="jane", mark=lambda own_id: f"{own_id}MARK", made_id="msg_1", created_s=7)


def events_in(engine: str, form: str) -> list[Event]:
    """The events of a captured stream; raw captures keep the chunks' sizes, which are no lines of an event."""
    name = NAMES[form] if engine != "gpt-oss" else f"{form}_stream"
    body = captured(f"{CAPTURES[engine]}/{name}")[2]
    lines = [line for line in body.split(b"\n") if line.startswith((b"event:", b"data:")) or not line]
    return SseDecoder().feed(b"\n".join(lines) + b"\n\n")


def run(stream: TypedStream, events: list[Event]) -> list[tuple[str, dict[str, Any]]]:
    """What a client gets: the events' names and data."""
    out: list[bytes] = []
    for event in events:
        stream.take(event, out)
    got = SseDecoder().feed(b"".join(out))
    assert all(json.loads(event.data)["type"] == event.type.decode() for event in got)
    return [(event.type.decode(), json.loads(event.data)) for event in got]


def event(kind: str, **fields: object) -> Event:
    return Event(kind.encode(), json.dumps({"type": kind, **fields}).encode())


# Enough of the APIs' words to reach every branch.
KINDS = ["response.created", "response.completed", "response.failed", "response.output_item.added", "response.output_item.done",
         "response.content_part.added", "response.output_text.delta", "message_start", "content_block_start", "content_block_delta",
         "message_delta", "message_stop", "ping", "error", ""]  # fmt: skip
NAMED = ["response", "item", "part", "delta", "item_id", "output_index", "sequence_number", "message", "content_block", "usage", "id",
         "type", "status", "output", "content", "error", "created_at", "model", "stop_reason", "input_tokens", "text"]  # fmt: skip
EVERY = [(engine, form) for engine in CAPTURES for form in NAMES]


@pytest.mark.parametrize(("engine", "form"), EVERY, ids=[f"{form} of {engine}" for engine, form in EVERY])
def test_a_captured_stream_is_whole_and_names_nobody_but_the_public_model(engine: str, form: str) -> None:
    stream = stream_of(form, shown())
    got = run(stream, events_in(engine, form))
    assert stream.is_whole
    text = json.dumps(got)
    assert all(word not in text for word in ("smollm2", "gpt-oss", "chatcmpl", "timings", "kv_transfer", "per_turn"))
    assert got[0][1]["response" if form == "responses" else "message"]["model"] == "jane"


@pytest.mark.parametrize("form", NAMES)
def test_two_engines_streams_have_the_same_events_with_the_same_keys_in_the_same_order(form: str) -> None:
    def shape(engine: str) -> list[tuple[str, list[str]]]:
        got = run(stream_of(form, shown()), events_in(engine, form))
        seen = [(kind, list(data)) for kind, data in got]
        return [each for index, each in enumerate(seen) if each not in seen[:index]]

    assert shape("vllm") == shape("llama")


@pytest.mark.parametrize("engine", CAPTURES)
def test_a_responses_events_are_numbered_without_a_gap_and_each_names_its_item(engine: str) -> None:
    got = run(ResponseStream(shown()), events_in(engine, "responses"))
    assert [data["sequence_number"] for _, data in got] == list(range(len(got)))
    items = [data["item"]["id"] for kind, data in got if kind == "response.output_item.added"]
    assert all(items[data["output_index"]] == data["item_id"] for _, data in got if "item_id" in data)
    assert {data["response"]["id"][-4:] for _, data in got if "response" in data} == {"MARK"}


def test_the_pieces_of_an_answer_put_together_are_what_its_end_says() -> None:
    got = run(ResponseStream(shown()), events_in("gpt-oss", "responses"))
    said = "".join(data["delta"] for kind, data in got if kind == "response.output_text.delta")
    assert said == got[-1][1]["response"]["output"][1]["content"][0]["text"] == "Hello there!"


def first_content(form: str, engine: str) -> str:
    stream, out = stream_of(form, shown()), list[bytes]()
    return next(event.type.decode() for event in events_in(engine, form) if stream.take(event, out))


@pytest.mark.parametrize("engine", CAPTURES)
def test_the_first_content_is_the_first_piece_that_says_something(engine: str) -> None:
    kind = "reasoning" if engine == "gpt-oss" else "output"
    assert first_content("responses", engine) == f"response.{kind}_text.delta"
    assert first_content("messages", engine) == "content_block_delta"


CONTENT: list[tuple[str, str, Event, bool]] = [
    ("an empty delta", "responses", event("response.output_text.delta", delta=""), False),
    ("arguments", "responses", event("response.function_call_arguments.delta", delta="{"), True),
    ("an item that comes at once", "responses", event("response.output_item.done", item={"id": "a"}), True),
    ("an item that begins", "responses", event("response.output_item.added", item={"id": "a"}), False),
    ("a text block that begins", "messages", event("content_block_start", content_block={"type": "text"}), False),
    ("a tool call that begins", "messages", event("content_block_start", content_block={"type": "tool_use"}), True),
    ("a signature", "messages", event("content_block_delta", delta={"signature": "x"}), False),
    ("no thought", "messages", event("content_block_delta", delta={"thinking": ""}), False),
    ("a piece of arguments", "messages", event("content_block_delta", delta={"partial_json": "{"}), True),
    ("a ping", "messages", event("ping"), False),
    ("a sign of life", "responses", event("keepalive"), False),
]


@pytest.mark.parametrize(("form", "said", "is_content"), [row[1:] for row in CONTENT], ids=[row[0] for row in CONTENT])
def test_what_commits_a_call(form: str, said: Event, is_content: bool) -> None:
    out: list[bytes] = []
    assert stream_of(form, shown()).take(said, out) is is_content
    assert bool(out) == (said.type not in (b"ping", b"keepalive"))


LIMITED = {"error": {"message": "x", "code": "rate_limit_exceeded"}}
OVERLOADED = {"type": "overloaded_error", "message": "busy"}
FAULTS: list[tuple[str, str, list[Event], type[BackendError]]] = [
    ("an error event", "responses", [Event(b"error", b'{"error":{"message":"x"}}')], Failed),
    ("an error event that says little", "responses", [Event(b"error", b'{"message":"x"}')], ProtocolBroken),
    ("an error event that says little of a message", "messages", [Event(b"error", b"{}")], ProtocolBroken),
    ("OpenAI's error event", "responses", [event("error", code="server_error", message="x")], Failed),
    ("an error without its name", "responses", [Event(b"", b'{"error":{"message":"x","code":503}}')], Refused),
    ("Anthropic's error event", "messages", [event("error", error=OVERLOADED)], Refused),
    ("a failure", "responses", [event("response.failed", response={"status": "failed", "error": None})], Failed),
    ("a failure with its cause", "responses", [event("response.failed", response=LIMITED)], Refused),
    ("vLLM's abort", "responses", [event("response.completed", response={"status": "cancelled"})], Failed),
    ("vLLM's abort of a message", "messages", [event("message_delta", delta={"stop_reason": None}), event("message_stop")], Failed),
    ("no JSON", "responses", [Event(b"response.created", b"{")], ProtocolBroken),
    ("no UTF-8", "responses", [Event(b"response.output_text.delta", b'{"delta":"\xff"}')], ProtocolBroken),
    ("another API's event", "messages", [Event(b"", b'{"choices":[]}')], ProtocolBroken),
    ("a name of two lines", "messages", [Event(b"", b'{"type":"ping_\\ndata: x"}')], ProtocolBroken),
    ("a response that is none", "responses", [event("response.created", response=[])], ProtocolBroken),
]  # fmt: skip


@pytest.mark.parametrize(("form", "said", "fault"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_what_breaks_a_stream(form: str, said: list[Event], fault: type[BackendError]) -> None:
    stream = stream_of(form, shown())
    with pytest.raises(fault):
        run(stream, said)
    assert not stream.is_whole


@pytest.mark.parametrize("kind", ["response.failed", "response.completed"])
def test_of_a_response_that_is_asked_for_again_a_failure_is_the_answer(kind: str) -> None:
    stream = stream_of("held response", shown())
    run(stream, [event(kind, response={"id": "resp_1", "status": "failed"})])
    assert stream.is_whole


def test_a_response_that_its_engine_begins_again_and_again_is_begun_once() -> None:
    begun = [event("response.created", response={}), event("response.in_progress", response={})]
    got = run(ResponseStream(shown()), [*begun, event("response.output_text.delta", delta="\U0001f30d"), *begun])
    assert [data["type"].removeprefix("response.") for _, data in got] == [
        "created",
        "in_progress",
        "output_text.delta",
    ]


@pytest.mark.parametrize("times", [0, 1, 2])
def test_a_message_is_begun_once_however_often_its_engine_begins_it(times: int) -> None:
    start = event("message_start", message={"id": "chatcmpl-1", "content": [], "usage": {"input_tokens": 0}})
    got = run(MessageStream(shown()), [*[start] * times, event("content_block_start", index=0, content_block={})])
    assert [kind for kind, _ in got] == ["message_start", "content_block_start"]
    message = got[0][1]["message"]
    assert (message["id"], message["content"], message["stop_reason"]) == ("msg_1", [], None)
    assert message["usage"]["input_tokens"] == message["usage"]["output_tokens"] == 0


def test_a_message_that_ends_at_a_stop_sequence_says_so_whatever_its_engine_calls_it() -> None:
    delta = {"stop_reason": "end_turn", "stop_sequence": "!"}
    got = run(MessageStream(shown()), [event("message_delta", delta=delta)])
    assert got[-1][1]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "!"}


def test_nothing_after_the_last_event_is_passed_on() -> None:
    stream = MessageStream(shown())
    got = run(
        stream,
        [event("message_delta", delta={"stop_reason": "end_turn"}), event("message_stop"), event("message_stop")],
    )
    assert [kind for kind, _ in got] == ["message_start", "message_delta", "message_stop"]


def test_a_field_of_an_engines_own_and_done_stay_away() -> None:
    got = run(
        ResponseStream(shown()), [event("response.output_text.delta", delta="x", timings={}), Event(b"", b"[DONE]")]
    )
    assert list(got[0][1]) == ["type", "sequence_number", "delta", "logprobs"] and len(got) == 1


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMED), inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.sampled_from(NAMED), VALUES, max_size=5)


@settings(max_examples=300, deadline=None)
@given(
    form=st.sampled_from(["responses", "messages", "held response"]),
    kind=st.sampled_from(KINDS),
    fields=st.builds(dict, OBJECTS, response=OBJECTS, item=OBJECTS, message=OBJECTS),
)
def test_whatever_an_event_holds_it_is_an_event_or_a_fault(form: str, kind: str, fields: dict[str, Any]) -> None:
    out: list[bytes] = []
    try:
        stream_of(form, shown()).take(event(kind, **fields), out)
    except BackendError:
        return
    assert all(json.loads(each.data) for each in SseDecoder().feed(b"".join(out)))
