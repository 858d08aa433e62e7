"""Cases 69 to 80: connections, waiting, leaving, swapping: what clients meet of them is the router's own, never a backend's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from backends.pool import IDLE_S
from tests.backends.captured import captured as read
from tests.clients.captured import packets
from tests.clients.node import report_of
from tests.dialects.case import captured
from tests.dialects.stage import CHAT, KINDS, Scene
from tests.faults.scripts import COMMITTED, says_error, silent_after
from tests.faults.stage import CLIENT_KEY, told
from tests.faults.test_cancellation import LEAVES_S, until
from tests.hearing import BROKEN, WHOLE, Ending, heard_in
from tests.rawclient import chat_body, connected, request
from tests.running import Router, config_for, running
from tests.upstream import (
    STREAM_HEAD,
    Connection,
    Received,
    Script,
    Upstream,
    answer,
    chunked,
    event,
    hangs,
    says,
    sends,
    stream,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

GPT_OSS = "vllm-0.33-gpt-oss"
KEY = f"authorization: Bearer {CLIENT_KEY}"
NO_VOTES = "split: {a: 1.0}\neject: {at_most_share: 0}\nretry: {backoff_s: [0.001, 0.002], budget_min_per_s: 100}"


def call(model: str, *headers: str, **fields: object) -> bytes:
    return request(chat_body(model=model, **fields), KEY, *headers)


@asynccontextmanager
async def two(
    a: Script, b: Script, model: str = NO_VOTES, server: str = ""
) -> AsyncIterator[tuple[Router, Upstream, Upstream]]:
    """A router of its own in front of a, which has the whole share, and b."""
    async with (
        Upstream(a) as at_a,
        Upstream(b) as at_b,
        running(config_for({"a": at_a.url, "b": at_b.url}, model, server)) as router,
    ):
        yield router, at_a, at_b


@pytest.mark.parametrize("said", [(), COMMITTED], ids=["in prefill", "in mid-stream"])
async def test_case_69_a_client_that_leaves(said: list[bytes], scene: Scene) -> None:
    has_left = asyncio.Event()

    async def until_left(_request: Received, connection: Connection) -> None:
        await connection.write(*said)
        await connection.until_gone()
        has_left.set()

    scene.begin(vllm=until_left)
    replica = scene.endpoint.fleet.backends["vllm"].replicas[0]
    async with connected(scene.router.port) as client:
        await client.send(call("vllm", stream=True))
        await until(lambda: len(scene.at["vllm"].received) == 1 and replica.in_flight == 1)
        if said:
            await client.head()
    async with asyncio.timeout(LEAVES_S):
        await has_left.wait()
    await until(lambda: replica.in_flight == 0, LEAVES_S)
    assert scene.tries() == ["vllm client_gone"]


async def test_case_69_a_client_that_leaves_in_the_queue() -> None:
    async with two(hangs, says("x"), server="max_in_flight: 1") as (router, a, b):
        app: Any = router.server.config.app
        gate = app.raw_endpoints[CHAT.encode()].admission.gate
        async with connected(router.port) as first:
            await first.send(call("jane"))
            await until(lambda: len(a.received) == 1)
            async with connected(router.port) as second:
                await second.send(call("jane"))
                await until(lambda: gate.waiting == 1)
            await until(lambda: gate.waiting == 0, LEAVES_S)
        await until(lambda: gate.inside == 0, LEAVES_S)
        assert len(a.received) == 1 and not b.received


async def test_case_70_a_connection_that_the_backend_closes_as_it_is_used_again_costs_nobody_anything() -> None:
    """In time (4.9 to 5.1 s) it is played by tests/clients/test_idle_sockets.py; here the close is the answer to the second use."""

    async def closes_at_the_second(request: Received, connection: Connection) -> None:
        if connection.number in used:
            connection.writer.close()
            return
        used.add(connection.number)
        await says("x")(request, connection)

    used: set[int] = set()
    async with Upstream(closes_at_the_second) as a, running(config_for({"a": a.url})) as router:
        answers = [await router.chat(stream=stream) for stream in (False, False, True, True, False)]
    assert [(one.status_code, one.headers["x-crossfade-attempts"]) for one in answers] == [(200, "1")] * 5
    assert IDLE_S < 5.0, "vLLM closes an idle connection after 5.0 s"


async def test_case_71_an_idle_connection_of_a_client_is_kept_for_longer_than_any_client_keeps_it(scene: Scene) -> None:
    """Node's fetch lets go of one after 4 s where no `keep-alive` header says otherwise."""
    assert scene.router.server.config.timeout_keep_alive >= 65
    async with connected(scene.router.port) as client:
        for _ in range(2):
            await client.send(call("vllm"))
            heard = await client.answer()
            assert (
                heard.status == 200 and "keep-alive" not in heard.headers and heard.headers.get("connection") != "close"
            )


@pytest.mark.node
@pytest.mark.timeout(60, func_only=True)
@pytest.mark.parametrize("after_s", [0.5, None], ids=["pinged", "not pinged"])
async def test_case_72_node_waits_for_a_prefill_that_is_longer_than_its_patience(after_s: float | None) -> None:
    """Scaled down: Node's 300 s to 2, 310 s to 4. Without pings Node gives up, however long that takes it: so it is they that keep it."""

    async def prefills(_request: Received, connection: Connection) -> None:
        if after_s is None:
            await connection.until_gone()
        else:
            await asyncio.sleep(4.0)
            await connection.write(*stream("Hello"))

    model = "split: {a: 1.0}" + (f"\ntimeouts: {{ping_after_s: {after_s}}}" if after_s else "")
    async with Upstream(prefills) as a, running(config_for({"a": a.url}, model)) as router:
        url = f"http://127.0.0.1:{router.port}"
        report = await report_of(Path(__file__).with_name("prefill.mjs"), url, "x", "jane", "2")
    if after_s is None:
        assert report["error"] == "UND_ERR_HEADERS_TIMEOUT"
    else:
        assert (report["status"], report["text"], report["done"], report["error"]) == (200, "Hello", True, None)
        assert report["pings"] >= 3


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_case_73_a_large_body_waits_for_100_and_then_gets_200(stream: bool, scene: Scene) -> None:
    messages = [{"role": "user", "content": "x" * 2_000_000}]
    head, _, body = call("vllm", "expect: 100-continue", messages=messages, stream=stream).partition(b"\r\n\r\n")
    async with connected(scene.router.port) as client:
        await client.send(head + b"\r\n\r\n")
        assert (await client.head())[0] == 100 and not scene.at["vllm"].received
        await client.send(body)
        assert told(await client.answer()).text == "from vllm"
    assert len(scene.last_at("vllm").body) > 2_000_000


async def test_case_74_a_stream_is_neither_compressed_nor_held_back(scene: Scene) -> None:
    has_heard = asyncio.Event()

    async def waits(_request: Received, connection: Connection) -> None:
        await connection.write(STREAM_HEAD, chunked(event({"content": "first"})))
        await has_heard.wait()
        await connection.write(*stream("second")[1:])

    scene.begin(vllm=waits)
    async with connected(scene.router.port) as client:
        await client.send(call("vllm", "accept-encoding: gzip, deflate, br, zstd", stream=True))
        status, _, headers = await client.head()
        assert status == 200 and "content-encoding" not in headers
        assert b'"first"' in await client.chunk()
        has_heard.set()
        while b"[DONE]" not in await client.chunk():
            pass
    assert scene.last_at("vllm").headers.get("accept-encoding", "identity") == "identity"


@pytest.mark.parametrize("given", ["req-17", "a1:b2/c3+d4=@e5._-", "x" * 128])
async def test_case_75_a_sane_id_is_told_and_sent_on_and_logged(
    given: str, scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.begin(vllm=says_error("503 Busy"))
    with caplog.at_level("INFO", logger="crossfade"):
        heard = await scene.ask(headers={"x-request-id": given})
    assert heard.headers["x-request-id"] == given
    assert {scene.last_at(name).headers["x-request-id"] for name in ("vllm", "b")} == {given}
    assert f'"request_id": "{given}"' in caplog.text


HOSTILE = {
    "10 kB": b"x" * 10_000,
    "a space": b"a b",
    "a quote": b'a"b',
    "a terminal's escape": b"a\x1b[31mb",
    "an encoded line break": b"a%0d%0ab\xe5\x98\x8a",
    "nothing": b"",
}


@pytest.mark.parametrize("given", HOSTILE.values(), ids=HOSTILE)
async def test_case_75_a_hostile_id_is_replaced(given: bytes, scene: Scene) -> None:
    async with connected(scene.router.port) as client:
        await client.send(
            call("vllm", "connection: close").replace(b"\r\n", b"\r\nx-request-id: " + given + b"\r\n", 1)
        )
        heard = await client.answer()
    if heard.status == 400:  # a control character is no header at all
        assert not scene.at["vllm"].received
        return
    told_id = heard.headers["x-request-id"]
    assert heard.status == 200 and told_id.isalnum() and len(told_id) == 32
    assert scene.last_at("vllm").headers["x-request-id"] == told_id


@pytest.mark.parametrize(
    "line", [b"a\r\nx-injected: 1", b"a\nx-injected: 1", b"a\rx-injected: 1"], ids=["CRLF", "LF", "CR"]
)
async def test_case_75_a_line_break_in_an_id_reaches_no_backend_and_no_answer(line: bytes, scene: Scene) -> None:
    async with connected(scene.router.port) as client:
        await client.send(call("vllm", "connection: close").replace(b"\r\n", b"\r\nx-request-id: " + line + b"\r\n", 1))
        heard = await client.answer()
    assert "x-injected" not in heard.headers
    assert all("x-injected" not in received.headers for received in scene.at["vllm"].received)


async def _shed(headers: dict[str, str]) -> tuple[int, float]:
    """The status of a first try that comes after a call with these headers to a queue of one place, and how many repeats are counted."""
    async with two(hangs, hangs, server="max_in_flight: 1\nqueue_size: 1") as (router, a, _):
        app: Any = router.server.config.app
        gate = app.raw_endpoints[CHAT.encode()].admission.gate
        tasks = [asyncio.create_task(router.chat())]
        await until(lambda: len(a.received) == 1)
        tasks.append(asyncio.create_task(router.chat(headers=headers)))
        await until(lambda: gate.waiting == 1)
        tasks.append(asyncio.create_task(router.chat()))
        done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        (shed,) = done
        text = (await router.client.get("/metrics")).text
        counted = [
            float(row.rpartition(" ")[2])
            for row in text.splitlines()
            if row.startswith("crossfade_client_retries_total{")
        ]
        for each in others:
            each.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        assert shed.result().status_code == 503
        return tasks.index(shed), sum(counted)


async def test_case_76_under_overload_a_call_that_an_sdk_repeats_is_shed_before_one_that_is_new() -> None:
    assert await _shed({"x-stainless-retry-count": "2"}) == (1, 1.0)
    assert await _shed({"x-stainless-retry-count": "1"}) == (2, 1.0), "who has come back once waits like anybody"
    for first in ("0", "-2", "two"):
        assert await _shed({"x-stainless-retry-count": first}) == (2, 0.0)


ABORTS = sends(*packets(f"{GPT_OSS}/fail_abort0_stream"))


async def test_case_77_a_vllm_that_was_marked_out_before_it_drains_aborts_nothing(scene: Scene) -> None:
    scene.begin(vllm=ABORTS)
    backend = scene.endpoint.fleet.backends["vllm"]
    backend.is_draining = True
    try:
        for _ in range(10):
            assert (await scene.hear()).backend == "b"
    finally:
        backend.is_draining = False
    assert scene.tries() == ["b ok"] * 10


async def test_case_77_the_aborts_of_one_that_was_not_are_turned_into_failover(scene: Scene) -> None:
    scene.begin(vllm=ABORTS)
    for _ in range(3):
        heard = await scene.hear()
        assert (heard.backend, heard.content.strip(), heard.ending) == ("b", "from b", (["stop"], 1, []))


WORDS = ("one", "two", "three", "four", "five", "six")


class Swapped:
    """A backend that may be taken away, its streams with it, and brought back."""

    def __init__(self) -> None:
        self.is_there = True

    async def __call__(self, request: Received, connection: Connection) -> None:
        for packet in stream(*WORDS, model=request.json["model"]):
            if not self.is_there:
                connection.reset()
                return
            await connection.write(packet)
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("by", ["[]", "[align]"], ids=["not resumed", "resumed"])
async def test_case_78_a_rolling_swap_under_200_streams_leaves_each_with_one_end_or_one_error(by: str) -> None:
    """There and back again: both, only vLLM, both, only LM Studio. A swap of the shares themselves needs a later version."""
    old, new = Swapped(), Swapped()
    model = (
        f"split: {{a: 0.5, b: 0.5}}\nstick_by: ['header:x-user-id']\neject: {{at_most_share: 0}}\nresume: {{by: {by}}}\n"
        + NO_VOTES.rpartition("\n")[2]
    )
    ends: list[Ending] = []
    plan = {40: (False, True), 80: (True, True), 120: (True, False), 160: (True, True)}

    async def caller(number: int) -> None:
        for turn in range(10):
            said = await router.chat(stream=True, headers={"x-user-id": f"{number}-{turn}"})
            assert said.status_code == 200, said.text
            ends.append(heard_in(said.text).ending)
            if len(ends) in plan:
                old.is_there, new.is_there = plan[len(ends)]

    async with two(old, new, model) as (router, _, _):
        await asyncio.gather(*(caller(number) for number in range(20)))
    assert len(ends) == 200
    assert [end for end in ends if end not in (WHOLE, BROKEN)] == []
    assert ends.count(WHOLE) >= (200 if by == "[align]" else 150)


KIM = "\n  kim: {on: {b: x}, split: {b: 1.0}}"


async def test_case_79_the_list_of_models_is_the_same_whoever_is_alive() -> None:
    """As captured, vLLM's list leaks a path of its file system as `root`."""
    lists = {"/v1/models": answer(read(f"{GPT_OSS}/models")[2])}
    async with (
        Upstream(says("x"), lists=lists) as a,
        Upstream(says("x")) as b,
        running(config_for({"a": a.url, "b": b.url}) + KIM) as router,
    ):
        seen = [await router.client.get("/v1/models")]
        for each in (a, b):
            await each.stop()
            await router.chat()
            seen.append(await router.client.get("/v1/models"))
    assert len({one.text for one in seen}) == 1
    assert [entry["id"] for entry in seen[0].json()["data"]] == ["jane", "kim"]
    assert {key for entry in seen[0].json()["data"] for key in entry} == {"id", "object", "created", "owned_by"}
    assert not any(word in seen[0].text for word in ("root", "permission", "max_model_len", "gpt-oss", "vllm", "real-"))


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/v1/embeddings", "/foo"])
async def test_case_80_a_preflight_of_cors_is_the_routers_to_answer(path: str, scene: Scene) -> None:
    """vLLM says 400 (captured) and LM Studio 200. The router grants no other origin anything, and asks no backend."""
    asks = (
        "origin: https://example.test",
        "access-control-request-method: POST",
        "access-control-request-headers: authorization",
    )
    async with connected(scene.router.port) as client:
        await client.send(request(b"", *asks, line=f"OPTIONS {path} HTTP/1.1", content_type=None))
        heard = await client.answer()
    assert heard.status in (404, 405) and set(json.loads(heard.body)["error"]) == {"message", "type", "param", "code"}
    assert not any(name.startswith("access-control-") for name in heard.headers)
    assert not any(scene.at[kind].received for kind in KINDS) and read(f"{GPT_OSS}/options")[0] == 400


async def test_case_69_and_all_others_leave_nobody_in_flight(scene: Scene) -> None:
    scene.begin(vllm=silent_after(), b=captured(f"{GPT_OSS}/chat_stream"))
    assert all(
        replica.in_flight == 0 for backend in scene.endpoint.fleet.backends.values() for replica in backend.replicas
    )
