"""A replica over real sockets: what is sent, the one replay, early answers, refusals, probes."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from backends.dialects import DIALECTS, VLLM
from backends.errors import Failed, FirstTokenTimeout, KeyRefused, ProtocolBroken, Refused, Rejected
from backends.exchange import ERROR_BODY_BYTES
from backends.http import Outgoing, replica_at
from backends.pool import origin_of
from tests.backends.wire import HELLO, Handler, answers, body_of, limits, request_of, serving
from tests.upstream import Connection, answer

INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
Ending = Callable[[Connection], Awaitable[None]]


async def test_the_request_carries_what_a_backend_needs_and_nothing_else() -> None:
    seen: list[bytes] = []

    async def handle(connection: Connection) -> None:
        seen.append(await request_of(connection))
        await connection.write(HELLO)

    async with serving(handle) as wire:
        await body_of(replica_at(origin_of(wire.url), VLLM, " sk-secret\n"))
    assert seen == [
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:%d\r\naccept-encoding: identity\r\n"
        b"authorization: Bearer sk-secret\r\ncontent-type: application/json\r\nx-request-id: my-id\r\n"
        b'content-length: 13\r\n\r\n{"model":"m"}' % wire.port
    ]


@pytest.mark.parametrize("key", ["sk\r\nx-admin: 1", "sk secret", "schlüssel", "sk\x00"])
def test_a_key_that_would_end_its_header_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="no header may carry"):
        replica_at(origin_of("http://127.0.0.1:1"), VLLM, key)


def test_a_replicas_key_is_in_none_of_its_representations() -> None:
    assert "sk-secret" not in repr(replica_at(origin_of("http://127.0.0.1:1"), VLLM, "sk-secret"))


@pytest.mark.parametrize("key", ["sk-secret", 'sk-"quoted\\'], ids=["plain", "one that JSON escapes"])
async def test_a_server_that_quotes_the_routers_key_is_not_quoted(key: str) -> None:
    said = answer({"error": {"message": f"Incorrect API key provided: {key}", "code": "invalid_api_key"}}, "401 No")
    async with serving(answers(said)) as wire:
        replica = replica_at(origin_of(wire.url), VLLM, key)
        assert await replica.probe() == "the server answered 401 Unauthorized (invalid_api_key)"
        with pytest.raises(KeyRefused) as caught:
            await body_of(replica)
    replica.hide_key(caught.value)
    assert key not in str(caught.value)
    assert json.loads(caught.value.body)["error"]["message"] == "Incorrect API key provided: [key]"


# -- the one replay --------------------------------------------------------------------------------


async def fin(connection: Connection) -> None:
    connection.writer.close()


async def reset(connection: Connection) -> None:
    sock: socket.socket = connection.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.reset()


ENDINGS: list[tuple[str, Ending]] = [("an end of file", fin), ("a reset", reset)]


def dying(ending: Ending, *pieces: bytes, dies_always: bool = False) -> Handler:
    """A server whose first connection answers once, takes one more request, writes these pieces and ends; the others answer."""

    async def handle(connection: Connection) -> None:
        for turn in range(10):
            await request_of(connection)
            if (connection.number == 1 and turn == 1) or (dies_always and connection.number > 1):
                await connection.write(*pieces)
                await ending(connection)
                return
            await connection.write(HELLO)

    return handle


@pytest.mark.parametrize("ending", [row[1] for row in ENDINGS], ids=[row[0] for row in ENDINGS])
async def test_a_kept_connection_that_dies_with_the_request_on_its_way_costs_nobody_anything(ending: Ending) -> None:
    async with serving(dying(ending)) as wire:
        replica = wire.replica()
        assert [await body_of(replica) for _ in range(3)] == [b"hello"] * 3
        assert wire.connections == 2


@pytest.mark.parametrize("ending", [row[1] for row in ENDINGS], ids=[row[0] for row in ENDINGS])
async def test_the_replay_is_made_once(ending: Ending) -> None:
    async with serving(dying(ending, dies_always=True)) as wire:
        replica = wire.replica()
        await body_of(replica)
        with pytest.raises(ProtocolBroken, match="before an answer"):
            await body_of(replica)
        assert wire.connections == 2


PARTS: list[tuple[str, bytes]] = [
    ("one byte", b"H"),
    ("a part of the head", b"HTTP/1.1 200 OK\r\ncontent-"),
    ("an interim answer", INTERIM),
    ("the head", HELLO[:-5]),
    ("a part of the body", HELLO[:-2]),
    ("garbage", b"\x00\x01\r\n\r\n"),
]


@pytest.mark.parametrize("part", [row[1] for row in PARTS], ids=[row[0] for row in PARTS])
async def test_no_request_is_sent_again_once_a_byte_of_an_answer_came(part: bytes) -> None:
    async with serving(dying(fin, part)) as wire:
        replica = wire.replica()
        await body_of(replica)
        with pytest.raises(ProtocolBroken):
            await body_of(replica)
        assert wire.connections == 1


async def test_a_connection_that_was_never_used_before_is_not_replayed() -> None:
    async def handle(connection: Connection) -> None:
        await request_of(connection)

    async with serving(handle) as wire:
        with pytest.raises(ProtocolBroken):
            await body_of(wire.replica())
        assert wire.connections == 1


async def test_the_replay_has_only_the_time_that_is_left() -> None:
    async def handle(connection: Connection) -> None:
        await request_of(connection)
        if connection.number == 1:
            await connection.write(HELLO)
            await request_of(connection)
        else:
            await connection.until_gone()

    async with serving(handle) as wire:
        replica = wire.replica()
        await body_of(replica)
        with pytest.raises(FirstTokenTimeout):
            await body_of(replica, within=limits(0.2))
        await wire.until_one_is_gone()


async def test_a_server_that_has_been_restarted_is_found_again_though_connections_were_kept() -> None:
    async with serving(answers(HELLO)) as wire:
        replica = wire.replica()
        await asyncio.gather(*(body_of(replica) for _ in range(5)))
    async with serving(answers(answer(b"again")), port=wire.port):
        assert [await body_of(replica) for _ in range(5)] == [b"again"] * 5


# -- answers that are none -------------------------------------------------------------------------

BIG = Outgoing(path=b"/v1/chat/completions", body=(b"x" * (8 << 20),), request_id=b"r")
TOO_LARGE = answer({"error": {"message": "too large"}}, "413 Content Too Large")


@pytest.mark.parametrize("ending", [row[1] for row in ENDINGS], ids=[row[0] for row in ENDINGS])
async def test_an_error_that_comes_while_the_request_is_still_being_sent_is_heard(ending: Ending) -> None:
    read = asyncio.Event()

    async def early(connection: Connection) -> None:
        await connection.reader.readuntil(b"\r\n\r\n")
        await connection.write(TOO_LARGE)
        await read.wait()
        await ending(connection)

    async with serving(early) as wire:
        replica = wire.replica()
        with pytest.raises(Rejected) as caught:
            await body_of(replica, BIG)
        read.set()
        assert caught.value.status == 413 and b"too large" in caught.value.body and replica.pool.idle == 0


async def test_a_server_that_hangs_up_without_reading_the_request_ends_the_wait_at_once() -> None:
    async def handle(connection: Connection) -> None:
        await connection.reader.readuntil(b"\r\n\r\n")
        connection.writer.write_eof()
        await asyncio.sleep(10)

    loop = asyncio.get_running_loop()
    async with serving(handle) as wire:
        started_s = loop.time()
        with pytest.raises(ProtocolBroken, match="before an answer"):
            await body_of(wire.replica(), BIG)
        assert loop.time() - started_s < 3


async def test_the_words_of_an_error_are_cut_where_they_are_long_and_its_status_still_counts() -> None:
    busy = answer(b"x" * 300_000, "429 Too Many Requests", "retry-after: 7")
    async with serving(answers(busy)) as wire:
        with pytest.raises(Refused) as caught:
            await body_of(wire.replica())
    assert caught.value.retry_after_s == 7 and len(caught.value.body) == ERROR_BODY_BYTES


@pytest.mark.parametrize("breaks_off", [True, False], ids=["that break off", "that never come"])
async def test_an_error_without_its_words_is_judged_by_its_status_soon(breaks_off: bool) -> None:
    async def handle(connection: Connection) -> None:
        await request_of(connection)
        await connection.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 100\r\nretry-after: 3\r\n\r\nsorry")
        if not breaks_off:
            await connection.until_gone()

    loop = asyncio.get_running_loop()
    async with serving(handle) as wire:
        started_s = loop.time()
        with pytest.raises(Refused) as caught:
            await body_of(wire.replica(), within=limits(30))
        assert caught.value.body == b"sorry"
        assert caught.value.retry_after_s == 3 and loop.time() - started_s < 5
        await wire.until_one_is_gone()


async def test_a_connection_is_kept_after_an_error_that_was_read_whole() -> None:
    async with serving(answers(answer({"error": {"message": "no"}}, "500 Oops"))) as wire:
        replica = wire.replica()
        for _ in range(3):
            with pytest.raises(Failed) as caught:
                await body_of(replica)
            assert b"no" in caught.value.body
        assert wire.connections == 1


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "304 Not Modified", "307 Temporary Redirect"])
async def test_a_redirect_is_never_followed(status: str) -> None:
    visited = asyncio.Event()

    async def elsewhere(connection: Connection) -> None:
        visited.set()

    async with serving(elsewhere) as other:
        redirect = f"HTTP/1.1 {status}\r\nlocation: {other.url}/\r\ncontent-length: 0\r\n\r\n".encode()
        async with serving(answers(redirect)) as wire:
            with pytest.raises(ProtocolBroken, match="redirect"):
                await body_of(wire.replica())
    assert not visited.is_set()


async def test_bytes_after_an_answer_are_nobodys_answer() -> None:
    poison = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoi"

    async def handle(connection: Connection) -> None:
        await request_of(connection)
        await connection.write(HELLO + poison)
        await request_of(connection)
        await connection.write(b"son" + HELLO)

    async with serving(handle) as wire:
        replica = wire.replica()
        assert [await body_of(replica) for _ in range(3)] == [b"hello"] * 3
        assert wire.connections == 3


# -- probes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(DIALECTS))
async def test_a_probe_that_gets_no_answer_says_so_in_one_sentence(kind: str) -> None:
    async def handle(connection: Connection) -> None:
        await connection.reader.readuntil(b"\r\n\r\n")

    async with serving(handle) as wire:
        replica = replace(wire.replica(), dialect=DIALECTS[kind])
        assert await replica.probe() == "the connection ended before an answer"
    assert (await replica.probe()).startswith(f"cannot connect to {wire.url}")


async def test_a_probe_of_a_server_that_hangs_ends_in_two_seconds() -> None:
    async def handle(connection: Connection) -> None:
        await connection.until_gone()

    async with serving(handle) as wire:
        assert await wire.replica().probe() == "no answer within 2 s"
        await wire.until_one_is_gone()


async def test_a_probe_takes_no_more_than_a_list_of_models_is_long() -> None:
    async with serving(answers(answer(b"x" * 300_000))) as wire:
        assert "longer than" in await wire.replica().probe()
