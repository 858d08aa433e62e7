"""Streams of real engines that die or stand still in mid-answer: their clients see one whole answer, from another engine."""

from __future__ import annotations

import json
import signal
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from tests.engines.engine import PATIENCE_S, Engine, wait_until
from tests.engines.load import MODEL, body
from tests.engines.scenes import client_of
from tests.hearing import Ending, Heard, breaks_after, heard_in
from tests.serving import RunningRouter
from tests.upstream import Upstream, event

WORDS = 64
SOME = 9  # pieces after which the first engine is struck
LENGTH: Ending = (["length"], 1, [])


def router_over(first: Engine | str, second: Engine, by: Sequence[str], **timeouts: float) -> RunningRouter:
    """All calls go to the first; a URL stands for a backend that is no engine."""
    url, kind, name = (
        (first, "vllm", "x") if isinstance(first, str) else (first.role.url, first.role.kind, first.role.model)
    )
    model = {
        "on": {"first": name, "second": second.role.model},
        "split": {"first": 1.0},
        "resume": {"by": list(by)},
        "timeouts": timeouts,
    }
    backends = {"first": {"kind": kind, "url": url}, "second": {"kind": second.role.kind, "url": second.role.url}}
    return RunningRouter({"backends": backends, "models": {MODEL: model}})


async def struck(router: RunningRouter, strike: Callable[[], object], **fields: object) -> tuple[Heard, Heard]:
    """A streamed call whose engine is struck after some pieces; and what the client had by then."""
    call = body("everybody", WORDS, stream=True, stream_options={"include_usage": True}, **fields)
    raw, before = "", ""
    async with client_of(router.url) as client, client.stream("POST", "/v1/chat/completions", json=call) as response:
        assert response.status_code == 200
        async for text in response.aiter_text():
            raw += text
            if not before and raw.count('"content":') > SOME:
                before = raw
                strike()
    return heard_in(raw), heard_in(before[: before.rindex("\n\n") + 2])


def is_whole(heard: Heard, before: Heard) -> bool:
    """One answer of the length asked for, with one of everything that there may be only one of, and what was sent at its front."""
    (usage,) = heard.usages
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert heard.ending == LENGTH, heard.raw[-600:]
    assert heard.roles == ["assistant"]
    assert [len(heard.alike(name)) for name in ("id", "model", "created")] == [1, 1, 1]
    assert before.content and heard.content.startswith(before.content)
    return bool(usage["completion_tokens"] == WORDS)


def trail(router: RunningRouter) -> list[str]:
    """What the latest call that did not go smoothly has been through."""
    lines: list[str] = []

    def is_written() -> bool:  # after the client has had its last byte
        lines.extend(line[line.index("{") :] for line in router.log().splitlines() if '"trail"' in line)
        return bool(lines)

    wait_until(is_written, "the call is on record")
    return [note.partition(" after")[0] for note in json.loads(lines[-1])["trail"]]


@contextmanager
def woken(engine: Engine) -> Iterator[None]:
    """Whatever happens, the engine goes on afterwards."""
    try:
        yield
    finally:
        engine.send(signal.SIGCONT)


@pytest.mark.llama
@pytest.mark.timeout(180)
@pytest.mark.parametrize("way", ["continue", "align"])
async def test_kill_9_in_mid_stream_is_not_seen_by_the_client(left: Engine, right: Engine, way: str) -> None:
    with router_over(left, right, [way]) as router:
        heard, before = await struck(router, lambda: left.send(signal.SIGKILL))
        assert is_whole(heard, before)
        assert trail(router) == ["first stream_broken", f"second (resumed: {way}) ok"]


@pytest.mark.llama
@pytest.mark.timeout(180)
async def test_an_engine_that_stands_still_in_mid_stream_is_left_behind(left: Engine, right: Engine) -> None:
    with router_over(left, right, ["continue", "align"], between_tokens_s=1.0) as router, woken(left):
        heard, before = await struck(router, lambda: left.send(signal.SIGSTOP))
        assert is_whole(heard, before)


@pytest.mark.vllm
@pytest.mark.timeout(900)
@pytest.mark.parametrize("order", ["llama to vllm", "vllm to llama"])
async def test_a_stream_goes_on_from_the_other_kind_of_engine(left: Engine, vllm: Engine, order: str) -> None:
    first, second = (left, vllm) if order == "llama to vllm" else (vllm, left)
    with router_over(first, second, ["continue"], between_tokens_s=1.0) as router, woken(first):
        heard, before = await struck(router, lambda: first.send(signal.SIGSTOP))
        assert is_whole(heard, before)
        assert trail(router) == ["first stream_broken", "second (resumed: continue) ok"]


# -- gpt-oss on vLLM: it says noise, so the tokens that it gets are what is looked at ---------------------

SENT = ({"reasoning": "User says hi."}, {"content": "Hello, I"}, {"content": " am"})
OPENED = "<|channel|>analysis<|message|>User says hi.<|end|><|start|>assistant<|channel|>final<|message|>Hello, I am"


def asked(engine: Engine, path: str, **call: object) -> Any:
    """The engine's own answer."""
    data = json.dumps({"model": engine.role.model, **call}).encode()
    request = urllib.request.Request(engine.role.url + path, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
        return json.load(reply)


@pytest.mark.vllm
@pytest.mark.timeout(900)
async def test_a_gpt_oss_goes_on_in_the_final_channel_from_just_the_tokens_that_it_had(gpt_oss: Engine) -> None:
    """The same prompt, tokens and all, asked for by hand: at temperature 0 the noise is the same too."""
    messages = [{"role": "user", "content": "Tell everybody a story."}]
    told = asked(
        gpt_oss, "/v1/chat/completions", messages=messages, max_tokens=1, return_token_ids=True, reasoning_effort="high"
    )
    opened = asked(gpt_oss, "/tokenize", prompt=OPENED, add_special_tokens=False)["tokens"]
    prompt = told["prompt_token_ids"] + opened
    left_to_say = WORDS - len(opened)
    direct = asked(gpt_oss, "/v1/completions", prompt=prompt, max_tokens=left_to_say, temperature=0, ignore_eos=True)

    events = [event(delta) for delta in ({"role": "assistant", "content": ""}, *SENT)]
    async with Upstream(breaks_after(*events)) as first:
        with router_over(first.url, gpt_oss, ["continue"]) as router:
            heard, _ = await struck(router, lambda: None, reasoning_effort="high")
            assert trail(router) == ["first stream_broken", "second (resumed: continue) ok"]
    assert heard.reasoning == "User says hi."
    assert heard.content == "Hello, I am" + direct["choices"][0]["text"]
    assert heard.ending == LENGTH and heard.alike("object") == {'"chat.completion.chunk"'}
    assert [heard.usages[0][name] for name in ("prompt_tokens", "completion_tokens")] == [
        len(told["prompt_token_ids"]),
        WORDS,
    ]


@pytest.mark.vllm
@pytest.mark.timeout(900)
async def test_chat_of_a_gpt_oss_does_not_continue_a_message(gpt_oss: Engine) -> None:
    """Why all this: should it ever do so, the detour through completions can go."""
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello, I am"}]
    flags = {"continue_final_message": True, "add_generation_prompt": False}
    told = asked(gpt_oss, "/v1/chat/completions", messages=messages, max_tokens=1, return_token_ids=True, **flags)
    prompt = asked(gpt_oss, "/detokenize", tokens=told["prompt_token_ids"])["prompt"]
    assert prompt.endswith("Hello, I am<|end|><|start|>assistant")
