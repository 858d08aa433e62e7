"""Anthropic's own SDK for Python through the router: messages whole and streamed, counts, and errors raised as what they are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anthropic
import pytest
from anthropic.types import MessageParam

from tests.backends.captured import captured
from tests.router.test_typed_streams import until_content, whole
from tests.running import config_for, running
from tests.upstream import END, Connection, Received, Script, Upstream, answer, sends

PATH = "/v1/messages"
HI: list[MessageParam] = [{"role": "user", "content": "hi"}]


@asynccontextmanager
async def client_over(script: Script, key: str = "right") -> AsyncIterator[anthropic.AsyncAnthropic]:
    """The SDK in front of a router that asks for keys, in front of one backend."""
    model = "split: {a: 1.0}\nretry: {attempts_per_backend: 1}"
    async with (
        Upstream(script) as a,
        running(config_for({"a": a.url}, model), {"CROSSFADE_KEYS": "right"}) as router,
        anthropic.AsyncAnthropic(base_url=f"http://127.0.0.1:{router.port}", api_key=key) as client,
    ):
        yield client


async def test_a_message_arrives_whole() -> None:
    async with client_over(sends(answer(captured("vllm-0.33-gpt-oss/messages")[2]))) as client:
        message = await client.messages.create(model="jane", max_tokens=50, messages=HI)
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert (message.model, message.stop_reason, message.usage.output_tokens) == ("jane", "end_turn", 20)
    assert message.id.startswith("msg_")


async def test_a_streamed_message_is_put_together_by_the_sdk() -> None:
    async with (
        client_over(sends(*whole(PATH))) as client,
        client.messages.stream(model="jane", max_tokens=50, messages=HI) as stream,
    ):
        text = "".join([piece async for piece in stream.text_stream])
        message = await stream.get_final_message()
    assert text == "Hello there!" and message.content[1].type == "text" and message.content[1].text == text
    assert (message.model, message.stop_reason, message.usage.input_tokens) == ("jane", "end_turn", 68)


async def test_tokens_are_counted() -> None:
    async with client_over(sends(answer(captured("vllm-0.33-gpt-oss/count_tokens")[2]))) as client:
        assert (await client.messages.count_tokens(model="jane", messages=HI)).input_tokens == 68


REJECTS = sends(answer({"error": {"message": "x"}}, "400 Bad Request"))
ERRORS: list[tuple[str, Script, type[anthropic.APIStatusError], str, str]] = [
    ("a wrong key", sends(), anthropic.AuthenticationError, "authentication_error", "wrong"),
    ("a model that nobody knows", sends(), anthropic.NotFoundError, "not_found_error", "right"),
    ("what the backend rejects", REJECTS, anthropic.BadRequestError, "invalid_request_error", "right"),
    ("a failure", sends(answer(b"<html>")), anthropic.InternalServerError, "overloaded_error", "right"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "script", "raised", "kind", "key"), ERRORS, ids=[row[0] for row in ERRORS])
async def test_an_error_is_raised_as_what_it_is_and_not_tried_again_in_vain(
    what: str, script: Script, raised: type[anthropic.APIStatusError], kind: str, key: str
) -> None:
    asked: list[Received] = []

    async def counting(request: Received, connection: Connection) -> None:
        asked.append(request)
        await script(request, connection)

    model = "who" if what.startswith("a model") else "jane"
    async with client_over(counting, key) as client:
        with pytest.raises(raised) as error:
            await client.messages.create(model=model, max_tokens=50, messages=HI)
    assert isinstance(error.value.body, dict) and error.value.body["error"]["type"] == kind
    assert len(asked) == (kind in ("invalid_request_error", "overloaded_error"))


async def test_a_stream_that_breaks_after_its_first_content_is_raised() -> None:
    async with client_over(sends(*until_content(PATH), END)) as client:
        with pytest.raises(anthropic.APIStatusError, match="broke off"):
            async with client.messages.stream(model="jane", max_tokens=50, messages=HI) as stream:
                async for _ in stream:
                    pass
