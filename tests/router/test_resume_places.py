"""Who carries a broken stream on: how often each is asked, who pays, until when; and what is said of it."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.hearing import BROKEN, WHOLE, breaks_after, hear, heard_in, stops_after, streams
from tests.rawclient import chat_body, connected, request
from tests.running import Router, config_for, running
from tests.telling import ALIGN, ROLE, SENT, TEXT, WORDS, metric, other, says, two, whole
from tests.upstream import END, STREAM_HEAD, Backend, Connection, Received, Script, Upstream, chunked, hangs


async def test_each_backend_may_break_and_the_next_goes_on() -> None:
    def part(end: int) -> Script:
        return breaks_after(ROLE, *says(*WORDS[:end]))

    async with (
        Upstream(part(1)) as a,
        Upstream(part(3)) as b,
        Upstream(part(5)) as c,
        Upstream(streams(*other(whole(*WORDS)))) as d,
    ):
        urls = {"a": a.url, "b": b.url, "c": c.url, "d": d.url}
        async with running(config_for(urls, "split: {a: 1.0}\nresume: {by: [align]}")) as router:
            heard = await hear(router)
            assert (heard.content, heard.ending, heard.roles) == (TEXT, WHOLE, ["assistant"])
            assert len(heard.alike("id")) == 1
            assert [len(up.received) for up in (a, b, c, d)] == [1, 1, 1, 1]


async def test_what_was_held_back_of_a_second_stream_that_breaks_at_once_was_not_sent() -> None:
    """New text and garbage in one read: the attempt fails before anything of it went out, and the third begins where the first stopped."""

    async def at_once(_request: Received, connection: Connection) -> None:
        await connection.write(STREAM_HEAD, chunked(b"".join([ROLE, *says(*WORDS[:6]), b"data: {\n\n"])))
        await connection.until_gone()

    async with Upstream(breaks_after(*SENT)) as a, Upstream(at_once) as b, Upstream(streams(*whole(*WORDS))) as c:
        urls = {"a": a.url, "b": b.url, "c": c.url}
        async with running(config_for(urls, "split: {a: 1.0}\nresume: {by: [align]}")) as router:
            heard = await hear(router)
            assert (heard.content, heard.ending) == (TEXT, WHOLE)
            assert (len(b.received), len(c.received)) == (1, 1)


async def test_a_backend_that_does_not_answer_is_passed_over() -> None:
    async with Upstream(breaks_after(*SENT)) as a, Upstream(hangs) as b, Upstream(streams(*whole(*WORDS))) as c:
        await b.stop()
        model = "split: {a: 1.0}\nresume: {by: [align]}"
        async with running(config_for({"a": a.url, "b": b.url, "c": c.url}, model)) as router:
            assert (await hear(router)).ending == WHOLE


@pytest.mark.parametrize(("budget", "attempts"), [(0, 1), (3, 2)], ids=["the budget is empty", "the budget has some"])
async def test_the_same_backend_again_is_paid_for(budget: int, attempts: int) -> None:
    model = f"split: {{left: 1.0}}\nresume: {{by: [align]}}\nretry: {{budget_ratio: 0, budget_min_per_s: {budget}}}"
    async with Upstream(breaks_after(*SENT)) as up, running(config_for({"left": up.url}, model)) as router:
        assert (await hear(router)).ending == BROKEN
        assert len(up.received) == attempts


async def test_another_replica_is_preferred_to_the_one_that_broke() -> None:
    backend = Backend(breaks_after(*SENT))
    async with Upstream(backend) as a, Upstream(backend) as b:
        config = config_for({"left": a.url}, ALIGN).replace(f"url: {a.url}", f"urls: [{a.url}, {b.url}]")
        async with running(config) as router:
            for _ in range(5):
                a.received.clear()
                b.received.clear()
                await hear(router)
                assert (len(a.received), len(b.received)) == (1, 1)


async def test_one_that_stalled_is_asked_again_only_through_another_replica() -> None:
    model = ALIGN + "\ntimeouts: {between_tokens_s: 0.2}"
    async with Upstream(stops_after(*SENT)) as up, running(config_for({"left": up.url}, model)) as router:
        assert (await hear(router)).ending == BROKEN
        assert len(up.received) == 1


async def test_a_client_that_leaves_while_it_is_resumed_closes_everything_within_a_second() -> None:
    async with two(breaks_after(*SENT), stops_after(*SENT[:2])) as (router, _, b):
        async with connected(router.port) as client:
            await client.send(request(chat_body(stream=True)))
            await client.head()
            while not b.received:
                await asyncio.sleep(0.005)
        await asyncio.wait_for(b.gone.wait(), 1)
        assert await metric(router, 'crossfade_in_flight{backend="right"') == "0.0"
        assert await metric(router, 'crossfade_calls_total{backend="right",model="jane",result="client_gone"}') == "1.0"
        assert (
            await metric(router, 'crossfade_attempts_total{backend="right",model="jane",outcome="client_gone"}')
            == "1.0"
        )


async def test_the_deadline_is_one_for_all() -> None:
    model = ALIGN + "\ntimeouts: {total_s: 1.6, between_tokens_s: 0.2}"
    loop = asyncio.get_running_loop()
    async with two(stops_after(*SENT), stops_after(ROLE), model) as (router, _, _b):
        began_s = loop.time()
        heard = await hear(router)
        assert heard.ending == ([], 0, ["timeout"])
        assert loop.time() - began_s < 1.7


async def test_report_model_keeps_the_first_backends_name() -> None:
    async def named(request: Received, connection: Connection) -> None:
        events = [one.replace(b'"m"', json.dumps(request.json["model"]).encode()) for one in whole(*WORDS)]
        await connection.write(STREAM_HEAD, *map(chunked, events), END)

    left = breaks_after(*(one.replace(b'"m"', b'"real-left"') for one in SENT))
    async with two(left, named, ALIGN + "\nreport_model: backend") as (router, _, _b):
        heard = await hear(router)
        assert (heard.ending, heard.alike("model")) == (WHOLE, {'"real-left"'})


async def test_the_trail_says_how_a_stream_was_resumed(caplog: pytest.LogCaptureFixture) -> None:
    async with two(breaks_after(*SENT), streams(*whole(*WORDS))) as (router, _, _b):
        with caplog.at_level("WARNING", "crossfade.calls"):
            await hear(router)
        (line,) = [json.loads(record.message) for record in caplog.records if record.name == "crossfade.calls"]
        assert line["result"] == "ok"
        assert [note.partition(" after")[0] for note in line["trail"]] == [
            "left stream_broken",
            "right (resumed: align) ok",
        ]


async def test_an_answer_of_another_model_is_not_glued_on() -> None:
    """LM Studio answers with whatever is loaded."""
    async with Upstream(breaks_after(*SENT)) as a, Upstream(streams(*whole(*WORDS))) as b:
        config = config_for({"left": a.url, "right": b.url}, ALIGN).replace(
            f"vllm, url: {b.url}", f"lmstudio, url: {b.url}"
        )
        async with running(config) as router:
            assert (await hear(router)).ending == BROKEN
            assert len(b.received) == 1


async def test_a_client_of_http_1_0_is_resumed_as_well() -> None:
    async with two(breaks_after(*SENT), streams(*whole(*WORDS))) as (router, _, _b), connected(router.port) as client:
        await client.send(request(chat_body(stream=True), line="POST /v1/chat/completions HTTP/1.0"))
        heard = heard_in((await client.answer()).body.decode())
        assert (heard.content, heard.ending) == (TEXT, WHOLE)


EJECTS = "\neject: {consecutive_failures: 1, for_s: [0.3, 0.3]}\nretry: {attempts_per_backend: 1}"


async def state_of(router: Router, backend: str) -> str:
    """A replica's state under ejection."""
    rows = (await router.client.get("/health/ready")).json()["models"]["jane"]
    state: str = rows[backend][0]["state"]
    return state


async def test_a_stream_that_goes_on_at_a_backend_that_is_due_is_its_probing_call() -> None:
    right = Backend(breaks_after())
    rules = "\nrules: [{when: {header: {x-use: right}}, use: right}]"
    async with two(breaks_after(*SENT), right, ALIGN + EJECTS + rules) as (router, _, _b):
        await router.chat(stream=True, headers={"x-use": "right"})
        assert await state_of(router, "right") == "ejected"
        right.script = streams(*whole(*WORDS))
        await asyncio.sleep(0.4)
        assert (await hear(router)).ending == WHOLE
        assert await state_of(router, "right") == "in_rotation"


async def test_to_find_out_who_could_carry_a_stream_on_is_nobodys_probing_call() -> None:
    """The first backend fails, is due again when the stream of the second breaks, and the third carries it on."""
    may_break = asyncio.Event()

    async def breaks_late(_request: Received, connection: Connection) -> None:
        await connection.write(STREAM_HEAD, *map(chunked, SENT))
        await may_break.wait()
        connection.reset()

    first = Backend(breaks_after())
    async with Upstream(first) as a, Upstream(breaks_late) as b, Upstream(streams(*whole(*WORDS))) as c:
        urls = {"a": a.url, "b": b.url, "c": c.url}
        async with running(config_for(urls, "split: {a: 1.0}" + EJECTS)) as router:
            call = asyncio.create_task(hear(router))
            while not b.received:
                await asyncio.sleep(0.005)
            assert await state_of(router, "a") == "ejected"
            await asyncio.sleep(0.4)
            may_break.set()
            assert (await call).ending == WHOLE
            first.script = streams(*whole(*WORDS))
            assert (await hear(router)).backend == "a"
            assert await state_of(router, "a") == "in_rotation"
