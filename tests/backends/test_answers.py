"""What an answer says: chunks, whole bodies, the name of the model, and the shape that a stream's chunks repeat."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backends.answers import ChunkShape, read_chunk, read_whole
from backends.canonical import Naming
from backends.canonical_forms import Answer
from backends.errors import BackendError, Failed, NotServed, Overflow, ProtocolBroken, Refused, Rejected, RouteMissing
from backends.sse import SseDecoder
from tests.upstream import chunked, event


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def delta(**fields: Any) -> bytes:
    return compact({"model": "m", "choices": [{"index": 0, "delta": fields, "finish_reason": None}]})


CONTENT: list[tuple[str, bytes, bool]] = [
    ("text", delta(content="a"), True),
    ("white space", delta(content=" "), True),
    ("an empty text with a role", delta(role="assistant", content=""), False),
    ("null", delta(content=None), False),
    ("nothing", delta(), False),
    ("reasoning, vLLM's and LM Studio's word", delta(reasoning="a"), True),
    ("reasoning, llama-server's word", delta(reasoning_content="a"), True),
    ("empty reasoning", delta(reasoning="", reasoning_content=""), False),
    ("null reasoning", delta(reasoning=None), False),
    ("a refusal", delta(refusal="no"), True),
    ("a piece of a tool call", delta(tool_calls=[{"index": 0, "function": {"arguments": ""}}]), True),
    ("LM Studio's empty list of tool calls", delta(content="", tool_calls=[]), False),
    ("the form before tools", delta(function_call={"name": "f", "arguments": ""}), True),
    ("Mistral's list of parts", delta(content=[{"type": "thinking", "thinking": []}]), True),
    ("an empty list of parts", delta(content=[]), False),
    ("the second of two choices", compact({"choices": [{"delta": {}}, {"delta": {"content": "b"}}]}), True),
    ("a completion's text", compact({"choices": [{"text": "a"}]}), True),
    ("a completion's empty text", compact({"choices": [{"text": "", "finish_reason": "stop"}]}), False),
    ("usage, no choices", compact({"choices": [], "usage": {"total_tokens": 1}}), False),
    ("choices that are null", compact({"choices": None}), False),
    ("no field that is known", b'{"foo":1}', False),
    ("null, with which llama-server opens a stream of several prompts", b"null", False),
    ("a null error beside it", compact({"error": None, "choices": [{"text": "a"}]}), True),
]


@pytest.mark.parametrize(("data", "expected"), [row[1:] for row in CONTENT], ids=[row[0] for row in CONTENT])
def test_a_chunk_has_content_where_it_carries_a_piece_of_the_answer(data: bytes, expected: bool) -> None:
    assert read_chunk(data).has_content is expected


def test_a_chunk_says_why_a_choice_ended() -> None:
    assert (
        read_chunk(compact({"choices": [{"delta": {}}, {"delta": {}, "finish_reason": "length"}]})).finish_reason
        == "length"
    )
    assert read_chunk(delta(content="a")).finish_reason is None


NOT_A_CHUNK: list[tuple[str, bytes, type[BackendError]]] = [
    ("no JSON", b"{oops", ProtocolBroken),
    ("nothing", b"", ProtocolBroken),
    ("a list", b"[]", ProtocolBroken),
    ("two values", b"{}{}", ProtocolBroken),
    ("text of another type", delta(content=5), ProtocolBroken),
    ("choices of another type", b'{"choices":{}}', ProtocolBroken),
    ("invalid UTF-8 in the text", b'{"choices":[{"text":"\xff"}]}', ProtocolBroken),
    ("nesting without end", b'{"x":' + b"[" * 200_000, ProtocolBroken),
    ("an abort", compact({"choices": [{"delta": {}, "finish_reason": "abort"}]}), Failed),
    ("an abort with text", compact({"choices": [{"text": "a", "finish_reason": "abort"}]}), Failed),
    ("one of two choices aborted", compact({"choices": [{"finish_reason": "stop"}, {"finish_reason": "abort"}]}), Failed),
    ("an error without a code", b'{"error":{"message":"Compute error."},"message":"Compute error."}', Failed),
    ("an error that is a string", b'{"error":"Unexpected endpoint or method. (POST /x)"}', RouteMissing),
    ("an error with a code", b'{"error":{"message":"busy","code":503}}', Refused),
    ("the call's own fault", b'{"error":{"message":"logprobs","type":"BadRequestError","code":400}}', Rejected),
    ("a prompt that is too long", b'{"error":{"message":"Input does not fit in context length. The input has 3"}}', Overflow),
]  # fmt: skip


@pytest.mark.parametrize(("data", "error"), [row[1:] for row in NOT_A_CHUNK], ids=[row[0] for row in NOT_A_CHUNK])
def test_a_chunk_that_is_an_error_or_none_raises_its_meaning(data: bytes, error: type[BackendError]) -> None:
    with pytest.raises(BackendError) as caught:
        read_chunk(data)
    assert type(caught.value) is error


CHOICE = {"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}
WHOLE: list[tuple[str, str, bytes, type[BackendError] | str | None]] = [
    ("a chat completion", "chat", compact({"model": "m", "choices": [CHOICE]}), "m"),
    ("a completion", "completions", compact({"model": "m", "choices": [{"text": "a"}]}), "m"),
    ("embeddings", "embeddings", compact({"model": "m", "data": [{"embedding": [1.0]}]}), "m"),
    ("an answer that names no model", "chat", compact({"choices": [CHOICE]}), None),
    ("no choices", "chat", compact({"model": "m", "choices": []}), ProtocolBroken),
    ("choices missing", "chat", b"{}", ProtocolBroken),
    ("choices that are null", "completions", b'{"choices":null}', ProtocolBroken),
    ("no data", "embeddings", b'{"data":[]}', ProtocolBroken),
    ("an abort", "chat", compact({"choices": [{**CHOICE, "finish_reason": "abort"}]}), Failed),
    ("an error", "chat", b'{"error":{"message":"dead","code":500}}', Failed),
    ("an error instead of embeddings", "embeddings", b'{"error":"No models loaded"}', NotServed),
    ("Anthropic's error", "chat", b'{"type":"error","error":{"type":"overloaded_error","message":"x"}}', Refused),
    ("LM Studio's 200 to an unknown path", "embeddings", b'{"error":"Unexpected endpoint or method. (POST /v1/embeddings)"}', RouteMissing),
    ("HTML", "chat", b"<html></html>", ProtocolBroken),
    ("nothing", "chat", b"", ProtocolBroken),
    ("nesting without end", "chat", b'{"x":' + b'{"a":' * 200_000, ProtocolBroken),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "body", "expected"), [row[1:] for row in WHOLE], ids=[row[0] for row in WHOLE])
def test_a_whole_answer_names_its_model_or_raises_its_meaning(
    kind: str, body: bytes, expected: type[BackendError] | str | None
) -> None:
    if isinstance(expected, type):
        with pytest.raises(BackendError) as caught:
            read_whole(kind, body)
        assert type(caught.value) is expected
    else:
        assert read_whole(kind, body).model == expected


KNOWN = st.sampled_from(["choices", "error", "delta", "text", "model", "finish_reason"])
ANY_JSON = st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(KNOWN, inner)
)


@given(data=st.binary(max_size=60) | ANY_JSON.map(compact))
def test_nothing_that_is_read_raises_anything_but_a_backend_error(data: bytes) -> None:
    with contextlib.suppress(BackendError):
        read_chunk(data)
    with contextlib.suppress(BackendError):
        read_whole("chat", data)


# -- the shape of a stream's chunks --------------------------------------------------------------------


def both_ways(learned: bytes, read: bytes) -> tuple[bytes, bytes] | None:
    """What a client gets of `read` by the shape of `learned`, and by reading in full; None where the shape does not take it."""
    shape = ChunkShape()
    canonical = Naming("m", "jané").begin(Answer("chat", wants_usage=False, one_tool_only=False))
    canonical.begin_stream("chat")
    canonical.put(read_chunk(b'{"choices":[{"delta":{"role":"assistant"}}]}'), [])

    def in_full(raw: bytes) -> bytes:
        decoder, out = SseDecoder(), list[bytes]()
        decoder.feed(b"\n")
        for one in decoder.feed(raw):
            chunk = read_chunk(one.data)
            assert chunk.has_content and chunk.finish_reason is None
            canonical.put(chunk, out)
        return b"".join(out)

    if not shape.learn(learned, in_full(learned)):
        return None
    raw = chunked(read)
    out, taken = shape.apply(raw)
    if taken != len(raw):
        assert (out, taken) == (b"", 0)
        return None
    return out, chunked(in_full(read))


TEXTS = st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=12) | st.sampled_from(
    ["a", " the", "\\", '"', "\x7f"]
)


@given(first=TEXTS, second=TEXTS, field=st.sampled_from(["content", "reasoning", "reasoning_content"]))
@example(first="a", second='"', field="content")
@example(first="a", second="\u2028", field="content")
def test_a_chunk_that_is_taken_by_its_shape_reads_as_it_does_in_full(first: str, second: str, field: str) -> None:
    ways = both_ways(event({field: first}), event({field: second}))
    assert ways is None or ways[0] == ways[1]


WRITTEN = st.text(alphabet=st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc"]), min_size=1)
BROKEN = WRITTEN | st.sampled_from(["\n", ".\n\n", 'say "', "\\", "\t\\n", "é", "你好", "🚀"])


@given(first=BROKEN, second=BROKEN, ending=st.sampled_from([b"\n\n", b"\r\n\r\n"]))
def test_text_of_any_language_with_line_breaks_and_quotes_is_taken_by_its_shape(
    first: str, second: str, ending: bytes
) -> None:
    learned, read = (literal(one).removesuffix(b"\n\n") + ending for one in (first, second))
    ways = both_ways(learned, read)
    assert ways is not None and ways[0] == ways[1]


def literal(text: str) -> bytes:
    """A text chunk as engines write it: no letter is escaped that need not be."""
    return event({"content": "@"}).replace(b'"@"', json.dumps(text, ensure_ascii=False).encode())


@given(
    learned=st.binary(min_size=1, max_size=4),
    cut=st.integers(0, 60),
    junk=st.binary(max_size=8) | st.sampled_from([b'","x":"', b"\n\n", b"\r\n", b'"}', b'\\"']),
)
def test_bytes_put_anywhere_into_a_chunk_never_pass_as_another_meaning(learned: bytes, cut: int, junk: bytes) -> None:
    shape, whole = ChunkShape(), event({"content": "ab"})
    assert shape.learn(whole, whole)
    read = whole[: cut * len(whole) // 60] + junk + whole[cut * len(whole) // 60 :]
    out, taken = shape.apply(chunked(read))
    if taken:
        assert out == chunked(read)
        decoder = SseDecoder()
        decoder.feed(b"\n")
        (one,) = decoder.feed(read)
        choice = json.loads(one.data)["choices"][0]
        assert set(choice) == {"index", "delta", "logprobs", "finish_reason"} and set(choice["delta"]) == {"content"}


UNTEACHABLE: list[tuple[str, bytes]] = [
    ("two texts", event({"content": "a", "reasoning": "b"})),
    ("no text", event({"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]})),
    ("an escape by number", event({"content": "a\x01"})),
    ("two events", event({"content": "a"}) + b'data:{"choices":[]}\n\n'),
    ("two events, the first without a space", b'data:{"choices":[]}\n\n' + event({"content": "a"})),
    ("a type before the data", b"event: message\n" + event({"content": "a"})),
    ("a comment before it", b": ping\n" + event({"content": "a"})),
    ("two lines of data", event({"content": "a"}).replace(b',"choices"', b',\ndata:"choices"')),
    ("its end is missing", event({"content": "a"})[:-1]),
]


@pytest.mark.parametrize("learned", [row[1] for row in UNTEACHABLE], ids=[row[0] for row in UNTEACHABLE])
def test_what_holds_more_than_one_plain_text_in_one_event_teaches_nothing(learned: bytes) -> None:
    assert not ChunkShape().learn(learned, learned)


@pytest.mark.parametrize(
    ("event", "sent"),
    [
        (b'data: {"text":"a"}\n\n', b'data: {"choices":[]}\n\n'),
        (b'data: {"choices":[]}\n\n', b'data: {"text":"a"}\n\n'),
        (b'data: {"text":"a"}\n\n', b'data: {"text":"a","content":"b"}\n\n'),
        (b'data: {"text":"sent already, new"}\n\n', b'data: {"text":", new"}\n\n'),
    ],
    ids=["shown by the old form only", "shown by the new form only", "one more", "only a part of it is new"],
)
def test_a_text_that_the_new_form_brings_changes_or_takes_away_teaches_nothing(event: bytes, sent: bytes) -> None:
    assert not ChunkShape().learn(event, sent)


OTHER: list[tuple[str, bytes, int]] = [
    ("a chunk that is not whole", chunked(event({"content": "b"}))[:-1], 0),
    ("a chunk's size alone", b"5\r\n", 0),
    ("half of a size", b"5", 0),
    ("the last chunk", b"0\r\n\r\n", 0),
    ("a size that is no number", b"+5" + chunked(event({"content": "b"}))[2:], 0),
    ("an extension of the chunk", chunked(event({"content": "b"})).replace(b"\r\n", b";a=b\r\n", 1), 0),
    ("a size too small by one", b"%x" % (len(event({"content": "b"})) - 1) + chunked(event({"content": "b"}))[2:], 0),
    ("the end of the stream", chunked(event({}, "stop")), 0),
    ("an empty text", chunked(event({"content": ""})), 0),
    ("a text with an escape by number", chunked(event({"content": "b\x01"})), 0),
    ("a text that ends in half an escape", chunked(event({"content": "b"}).replace(b'"b"', b'"b\\"')), 0),
    ("an escape that JSON does not know", chunked(event({"content": "b"}).replace(b'"b"', b'"\\x"')), 0),
    ("a text that is not UTF-8", chunked(event({"content": "b"}).replace(b'"b"', b'"\xe9"')), 0),
    ("a text that holds a bare control character", chunked(event({"content": "b"}).replace(b'"b"', b'"\x01"')), 0),
    ("another model", chunked(event({"content": "b"}, model="other")), 0),
    ("a finish_reason beside the text", chunked(event({"content": "b"}, "stop")), 0),
    ("another end of the same length", chunked(event({"content": "b"}).replace(b'reason":null', b'reason":"ab"')), 0),
    ("[DONE]", chunked(b"data: [DONE]\n\n"), 0),
    ("nothing", b"", 0),
    ("two chunks, and a third of another shape", 2 * chunked(event({"content": "b"})) + chunked(event({}, "stop")), 2),
    ("two chunks and a half", 2 * chunked(event({"content": "b"})) + chunked(event({"content": "c"}))[:20], 2),
]


@pytest.mark.parametrize(("read", "chunks"), [row[1:] for row in OTHER], ids=[row[0] for row in OTHER])
def test_the_shape_takes_whole_chunks_from_the_start_and_leaves_the_rest(read: bytes, chunks: int) -> None:
    shape, whole, one = ChunkShape(), event({"content": "ab"}), chunked(event({"content": "b"}))
    assert shape.learn(whole, whole)
    assert shape.apply(read) == (chunks * one, chunks * len(one))


def test_nothing_is_taken_before_a_shape_is_known() -> None:
    assert ChunkShape().apply(chunked(event({"content": "a"}))) == (b"", 0)


AS_LONG = chunked(event({"content": "abcd"}))


@pytest.mark.parametrize(
    ("read", "is_taken"),
    [
        (chunked(event({"content": "wxyz"})), True),
        (chunked(literal("ä🚀")[:-2].replace("ä🚀".encode(), "äé".encode()) + b"\n\n"), True),
        (AS_LONG.replace(b"abcd", b'ab"d'), False),
        (AS_LONG.replace(b'abcd"', "äbcd".encode()), False),
        (AS_LONG.replace(b"abcd", b"abc\\"), False),
        (AS_LONG.replace(b"abcd", b"ab\x01d"), False),
        (AS_LONG.replace(b"abcd", b"ab\xff\xfe"), False),
        (AS_LONG.upper(), False),
        (AS_LONG.replace(b'"index":0', b'"index":1'), False),
        (AS_LONG[:-2] + b"\r\r", False),
        (b"0" + AS_LONG[1:], False),
    ],
    ids=[
        "other text of the same length",
        "text of another language",
        "a quote in the text",
        "no quote behind the text",
        "an escape that is left open",
        "a control character",
        "no UTF-8",
        "another case",
        "another choice",
        "another end",
        "another size",
    ],
)
def test_a_read_as_long_as_one_that_was_taken_is_taken_only_where_it_differs_in_its_text(
    read: bytes, is_taken: bool
) -> None:
    shape, whole = ChunkShape(), event({"content": "abcd"})
    assert shape.learn(whole, whole) and shape.apply(AS_LONG) == (AS_LONG, len(AS_LONG))
    assert len(read) == len(AS_LONG)
    assert shape.apply(read) == ((read, len(read)) if is_taken else (b"", 0))
