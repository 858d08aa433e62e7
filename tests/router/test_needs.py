"""What a call needs beyond its kind: found wherever it may stand, and never in words that only speak of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.facts import NO_NEEDS
from router.needs import needs_of
from router.reading import BadCall, read_body
from tests.offered import A_TOOL

TEXT = {"type": "text", "text": "look"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
TOOL = {"type": "function", "function": {"name": "sky"}}
CUSTOM = {"type": "custom", "custom": {"name": "sky"}}
QUOTED = 'Send {"type": "image_url"} or [{"type":"input_image"}] to me'


def chat(*contents: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content} for content in contents], **fields}


# kind, fields -> needs
NEEDS: list[tuple[str, str, dict[str, Any], str]] = [
    ("a plain call", "chat", chat("hi"), ""),
    ("several choices", "chat", chat("hi", n=2), "n"),
    ("one choice, said so", "chat", chat("hi", n=1), ""),
    ("true is no number", "chat", chat("hi", top_logprobs=True), ""),
    ("the best of several", "completions", {"prompt": "hi", "best_of": 3}, "best_of"),
    ("the best two of several", "completions", {"prompt": "hi", "best_of": 3, "n": 2}, "best_of n"),
    ("all of several", "completions", {"prompt": "hi", "best_of": 3, "n": 3}, "n"),
    ("the best of one", "completions", {"prompt": "hi", "best_of": 1, "n": None}, ""),
    ("the prompt again", "completions", {"prompt": "hi", "echo": True}, "echo"),
    ("the prompt not again", "completions", {"prompt": "hi", "echo": False}, ""),
    ("what comes after", "completions", {"prompt": "hi", "suffix": "!"}, "suffix"),
    ("nothing that comes after", "completions", {"prompt": "hi", "suffix": None}, ""),
    ("functions, as before tools", "chat", chat("hi", functions=[{"name": "f"}]), "functions"),
    ("no functions", "chat", chat("hi", functions=[]), ""),
    ("functions that are null", "chat", chat("hi", functions=None, function_call="none"), ""),
    ("logprobs", "chat", chat("hi", logprobs=True), "logprobs"),
    ("no logprobs, said so", "chat", chat("hi", logprobs=False, top_logprobs=None), ""),
    ("logprobs of none but the chosen token", "chat", chat("hi", logprobs=True, top_logprobs=0), "logprobs"),
    ("top logprobs alone", "chat", chat("hi", top_logprobs=3), "logprobs"),
    ("completions count logprobs from 0", "completions", {"prompt": "hi", "logprobs": 0}, "logprobs"),
    ("completions without", "completions", {"prompt": "hi", "logprobs": None}, ""),
    ("false in completions", "completions", {"prompt": "hi", "logprobs": False}, ""),
    ("of the prompt", "completions", {"prompt": "hi", "prompt_logprobs": 1}, "logprobs"),
    ("of a response", "responses", {"input": "hi", "include": ["message.output_text.logprobs"]}, "logprobs"),
    ("something else to include", "responses", {"input": "hi", "include": ["reasoning.encrypted_content"]}, ""),
    ("a spoken answer", "chat", chat("hi", modalities=["text", "audio"]), "audio"),
    ("an image", "chat", chat([TEXT, IMAGE]), "images"),
    ("an image in an earlier turn", "chat", chat([IMAGE], "and now?"), "images"),
    ("an image after tools", "chat", {"tools": [A_TOOL], **chat([IMAGE])}, "images tools"),
    ("sound", "chat", chat([{"type": "input_audio", "input_audio": {}}]), "audio"),
    ("a film", "chat", chat([{"type": "video_url", "video_url": {}}]), "video"),
    ("a file", "chat", chat([{"type": "file", "file": {}}]), "files"),
    ("all at once", "chat", chat([IMAGE, {"type": "input_audio"}], n=2, logprobs=True), "audio images logprobs n"),
    ("text that quotes a part", "chat", chat(QUOTED), ""),
    ("text that quotes a part, in parts", "chat", chat([{"type": "text", "text": QUOTED}]), ""),
    ("code with many brackets", "chat", chat("a[ 1 ][ 2 ] " * 40), ""),
    ("an image after code with many brackets", "chat", chat("a[1][2] " * 40, [IMAGE]), "images"),
    ("the word image where no part is", "chat", chat("hi", metadata=[{"type": "image_url"}]), ""),
    ("tools and no media", "chat", chat("hi", tools=[{"type": "function", "function": {"name": "image"}}]), "tools"),
    ("tools that must be used", "chat", chat("hi", tools=[TOOL], tool_choice="required"), "tools"),
    ("a tool by its name", "chat", chat("hi", tools=[TOOL], tool_choice=TOOL), "tools"),
    ("tools, and nothing said of them", "chat", chat("hi", tools=[TOOL], tool_choice=None), "tools"),
    ("tools that may not be used", "chat", chat("hi", tools=[TOOL], tool_choice="none"), ""),
    ("a tool that is no function", "chat", chat("hi", tools=[CUSTOM]), "custom_tools tools"),
    ("a tool of a type of its own, after a function", "chat", chat("hi", tools=[TOOL, {"type": "x"}]), "custom_tools tools"),
    ("a tool that is no function and may not be used", "chat", chat("hi", tools=[CUSTOM], tool_choice="none"), "custom_tools"),
    ("no tools", "chat", chat("hi", tools=[]), ""),
    ("a history of tool calls, and no tools", "chat", chat("hi", tool_choice="none"), ""),
    ("tools of a response", "responses", {"input": "hi", "tools": [{"type": "function", "name": "sky"}]}, "tools"),
    ("tools of a response that may not be used", "responses",
     {"input": "hi", "tools": [{"type": "function", "name": "sky"}], "tool_choice": "none"}, ""),
    ("a tool that a response runs itself", "responses", {"input": "hi", "tools": [{"type": "web_search"}]}, "tools"),
    ("tools of a message", "messages", chat("hi", tools=[{"name": "sky"}]), "tools"),
    ("any tool of a message", "messages", chat("hi", tools=[{"name": "sky"}], tool_choice={"type": "any"}), "tools"),
    ("tools of a message that may not be used", "messages",
     chat("hi", tools=[{"name": "sky"}], tool_choice={"type": "none"}), ""),
    ("tools that are only counted", "count_tokens", chat("hi", tools=[{"name": "sky"}]), ""),
    ("tools that are only told in tokens", "tokenize", chat("hi", tools=[TOOL]), ""),
    ("tools where no engine reads any", "completions", {"prompt": "hi", "tools": [TOOL]}, ""),
    ("an image of a response's input", "responses", {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "images"),
    ("an image that a tool put out", "responses",
     {"input": [{"type": "function_call_output", "output": [{"type": "input_image"}]}]}, "images"),
    ("a response's input that is text", "responses", {"input": "[{[{"}, ""),
    ("an image of a message", "messages", chat([{"type": "image", "source": {}}]), "images"),
    ("an image in the result of a tool", "messages", chat([{"type": "tool_result", "content": [{"type": "image"}]}]), "images"),
    ("an image whose tokens are to be counted", "count_tokens", chat([{"type": "image", "source": {}}]), "images"),
    ("an image in what is to be told in tokens", "tokenize", chat([IMAGE]), "images"),
    ("a document of a message", "messages", chat([{"type": "document", "source": {}}]), "files"),
    ("parts of no known type", "chat", chat([{"type": 5}, {"kind": "image_url"}]), ""),
    ("parts that are none", "chat", chat(["image_url", 1, None]), ""),
    ("embeddings have none", "embeddings", {"input": ["a", "b"]}, ""),
    ("what is passed on is not read", "pass", chat([IMAGE], n=2), ""),
]  # fmt: skip


@pytest.mark.parametrize("spaces", [(",", ":"), (", ", ": ")], ids=["tight", "spaced"])
@pytest.mark.parametrize(("kind", "fields", "needs"), [row[1:] for row in NEEDS], ids=[row[0] for row in NEEDS])
def test_the_needs_of_a_call(kind: str, fields: dict[str, Any], needs: str, spaces: tuple[str, str]) -> None:
    must = {"max_tokens": 9} if kind == "messages" else {}
    body = read_body(kind, json.dumps({"model": "jane", **must, **fields}, separators=spaces).encode())
    found = needs_of(kind, body)
    assert " ".join(sorted(found)) == needs
    assert needs or found is NO_NEEDS, "a plain call makes nothing"


@pytest.mark.parametrize("indent", [None, 2])
def test_an_image_is_seen_however_the_body_is_laid_out(indent: int | None) -> None:
    raw = json.dumps({"model": "jane", **chat([IMAGE])}, indent=indent).encode()
    assert needs_of("chat", read_body("chat", raw)) == {"images"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.sampled_from(["image_url", "type", "content"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "content", "x"]), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@given(st.lists(JSON, min_size=1, max_size=3), JSON, JSON)
def test_nothing_that_a_client_writes_raises(messages: list[Any], n: Any, logprobs: Any) -> None:
    turns = [{"role": "user", "content": message} for message in messages]
    fields = {"model": "jane", "messages": turns, "n": n, "logprobs": logprobs, "modalities": n, "top_logprobs": n}
    try:
        body = read_body("chat", json.dumps(fields).encode())
    except BadCall:
        return  # refused before its needs are looked for
    needs_of("chat", body)
