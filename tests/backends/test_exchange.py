"""One exchange against a real server: waits, limits, back-pressure, and what is left behind by every way out."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable

import pytest
import uvloop

from backends.dialects import VLLM
from backends.errors import AnswerTimeout, BackendError, Failed, FirstTokenTimeout, ProtocolBroken
from backends.exchange import MAX_BUFFERED_BYTES, Exchange
from backends.http import replica_at
from backends.pool import origin_of
from tests.backends.wire import CALL, HELLO, answers, body_of, limits, request_of, serving
from tests.upstream import STREAM_HEAD, Connection, chunked

MIB = 1 << 20
KERNEL_BYTES = 8 * MIB  # what two socket buffers on loopback may hold (tcp_wmem, tcp_rmem of 4 and 6 MiB)
LONG_BYTES = 64 * MIB


class Flood:
    """A server that writes as fast as it is read, and tells how far it came and when it was made to wait."""

    def __init__(self, status: bytes = b"200 OK") -> None:
        self.status = status
        self.sent_bytes = 0
        self.is_stuck = asyncio.Event()

    async def until_stuck(self) -> None:
        async with asyncio.timeout(10):
            await self.is_stuck.wait()

    async def __call__(self, connection: Connection) -> None:
        await request_of(connection)
        connection.writer.write(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n" % (self.status, LONG_BYTES))
        while self.sent_bytes < LONG_BYTES:
            connection.writer.write(b"x" * 65_536)
            self.sent_bytes += 65_536
            try:
                await asyncio.wait_for(connection.writer.drain(), 0.3)
            except TimeoutError:
                self.is_stuck.set()
                await connection.writer.drain()


async def test_what_nobody_reads_is_buffered_only_so_far_and_then_all_of_it_arrives() -> None:
    flood = Flood()
    async with serving(flood) as wire, wire.replica().open(CALL, limits(30)) as reply:
        await flood.until_stuck()
        assert flood.sent_bytes < MAX_BUFFERED_BYTES + KERNEL_BYTES + MIB
        assert len(await reply.read(LONG_BYTES)) == LONG_BYTES


async def test_a_reader_that_pauses_in_mid_pump_stops_the_server_until_it_resumes() -> None:
    flood = Flood()
    size = 0

    async with serving(flood) as wire, wire.replica().open(CALL, limits(30)) as reply:

        def sink(data: bytes) -> None:
            nonlocal size
            size += len(data)
            if size == len(data):
                reply.pause_reading()

        pumping = asyncio.create_task(reply.pump(sink))
        await flood.until_stuck()
        assert size < MIB and flood.sent_bytes < KERNEL_BYTES + MIB
        reply.resume_reading()
        await pumping
    assert size == LONG_BYTES


async def test_a_pause_that_came_before_the_pump_or_from_what_was_buffered_outlasts_its_start() -> None:
    flood = Flood()
    size = 0

    async with serving(flood) as wire, wire.replica().open(CALL, limits(30)) as reply:
        await flood.until_stuck()  # one MiB is buffered, the server waits

        def sink(data: bytes) -> None:
            nonlocal size
            size += len(data)
            reply.pause_reading()  # as a client does that has enough after the first piece

        flood.is_stuck.clear()
        pumping = asyncio.create_task(reply.pump(sink))
        await asyncio.wait_for(until(lambda: size > MAX_BUFFERED_BYTES), 5)
        was, sent = size, flood.sent_bytes
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(until(lambda: size != was or flood.sent_bytes != sent), 0.3)
        reply.resume_reading()
        await asyncio.wait_for(until(lambda: size > was), 5)
        pumping.cancel()


async def until(happened: Callable[[], bool]) -> None:
    """Let the loop turn until it has happened."""
    while not happened():
        await asyncio.sleep(0.005)


async def test_a_connection_goes_back_to_the_pool_reading_even_if_its_last_reader_was_paused() -> None:
    async with serving(answers(HELLO)) as wire:
        replica = wire.replica()
        async with replica.open(CALL, limits()) as reply:
            reply.pause_reading()
            while reply.is_at_work:
                await asyncio.sleep(0)
        assert replica.pool.idle == 1
        assert await body_of(replica) == b"hello"
        assert wire.connections == 1


async def test_the_words_of_an_error_are_read_no_further_than_they_are_kept() -> None:
    flood = Flood(b"500 Oops")
    async with serving(flood) as wire:
        with pytest.raises(Failed):
            await body_of(wire.replica())
        await wire.until_one_is_gone()
        assert flood.sent_bytes < KERNEL_BYTES + 2 * MIB


async def test_two_pumps_share_one_body_and_lose_nothing_in_between() -> None:
    pieces = [b"%d " % number for number in range(200)]

    async def handle(connection: Connection) -> None:
        await request_of(connection)
        await connection.write(STREAM_HEAD, *(chunked(piece) for piece in pieces), b"0\r\n\r\n")

    seen: list[bytes] = []

    def three(data: bytes) -> bool:
        seen.append(data)
        return len(seen) == 3

    async with serving(handle) as wire, wire.replica().open(CALL, limits()) as reply:
        await reply.pump(three)
        assert len(seen) == 3
        await asyncio.sleep(0)  # some of the rest comes while nobody pumps
        await reply.pump(seen.append)
    assert b"".join(seen) == b"".join(pieces)


@pytest.mark.parametrize("size", [100, 70_000, 3 * MIB], ids=["in one read", "in two", "beyond the buffer"])
async def test_a_body_longer_than_its_reader_takes_is_refused_and_what_is_still_coming_stopped(size: int) -> None:
    async with serving(answers(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)) as wire:
        replica = wire.replica()
        with pytest.raises(ProtocolBroken, match="longer than 99 bytes"):
            async with replica.open(CALL, limits()) as reply:
                if size == 100:
                    while reply.is_at_work:
                        await asyncio.sleep(0)
                await reply.read(99)
        if size > MAX_BUFFERED_BYTES:  # else all of it had come, and the connection is as good as before
            await wire.until_one_is_gone()


async def test_a_sink_that_raises_in_mid_stream_ends_the_exchange_with_its_error() -> None:
    async def handle(connection: Connection) -> None:
        await request_of(connection)
        await connection.write(STREAM_HEAD)
        while True:
            await connection.write(chunked(b"data: a\n\n"))
            await asyncio.sleep(0.002)

    def sink(_: bytes) -> None:
        raise Failed("enough")

    async with serving(handle) as wire:
        with pytest.raises(Failed, match="enough"):
            async with wire.replica().open(CALL, limits()) as reply:
                await reply.pump(sink)
        await wire.until_one_is_gone()


async def test_the_limit_is_pushed_forward_by_assigning_it_and_holds_when_nobody_does() -> None:
    loop = asyncio.get_running_loop()
    goes_on = asyncio.Event()

    async def handle(connection: Connection) -> None:
        await request_of(connection)
        await connection.write(STREAM_HEAD)
        for _ in range(20):
            await connection.write(chunked(b"x"))
            await asyncio.sleep(0.02)
        goes_on.set()
        await connection.until_gone()

    async with serving(handle) as wire:
        started_s = loop.time()
        with pytest.raises(FirstTokenTimeout):
            async with wire.replica().open(CALL, limits(0.15)) as reply:

                def sink(_: bytes) -> None:
                    reply.limit_s = loop.time() + 0.15

                await reply.pump(sink)
        assert goes_on.is_set() and loop.time() - started_s < 3
        await wire.until_one_is_gone()


async def test_a_limit_that_is_moved_by_less_than_the_clock_tells_apart_holds() -> None:
    loop = asyncio.get_running_loop()
    now_s = loop.time()
    exchanges = [Exchange(loop, now_s + 0.01) for _ in range(50)]
    waits = [asyncio.ensure_future(exchange.head()) for exchange in exchanges]
    for number, exchange in enumerate(exchanges):
        exchange.limit_s = now_s + 0.01 + number / 10_000
    done, pending = await asyncio.wait(waits, timeout=5)
    assert not pending and all(isinstance(wait.exception(), FirstTokenTimeout) for wait in done)


async def test_a_limit_that_is_due_at_once_can_still_be_replaced() -> None:
    loop = asyncio.get_running_loop()
    exchange = Exchange(loop, loop.time())
    exchange.set_limit(loop.time() - 1, lambda: Failed("another"))
    with pytest.raises(Failed, match="another"):
        await asyncio.wait_for(exchange.head(), 5)


@pytest.mark.parametrize("comes_sooner", [True, False], ids=["sooner than the old limit", "later than the old limit"])
async def test_a_new_limit_replaces_the_old_one_with_its_own_error(comes_sooner: bool) -> None:
    loop = asyncio.get_running_loop()

    async def handle(connection: Connection) -> None:
        await request_of(connection)
        await connection.write(STREAM_HEAD)
        await connection.until_gone()

    async with serving(handle) as wire:
        started_s = loop.time()
        with pytest.raises(AnswerTimeout):
            async with wire.replica().open(CALL, limits(5 if comes_sooner else 0.1)) as reply:
                reply.set_limit(started_s + (0.1 if comes_sooner else 0.3), lambda: AnswerTimeout("late"))
                await reply.pump(lambda _: None)
        assert (0.1 if comes_sooner else 0.3) <= loop.time() - started_s + 0.002 < 3


async def test_an_exchange_may_be_ended_from_outside_with_an_error_of_the_callers_own() -> None:
    async def handle(connection: Connection) -> None:
        await request_of(connection)
        await connection.write(STREAM_HEAD)
        await connection.until_gone()

    async with serving(handle) as wire:
        async with wire.replica().open(CALL, limits()) as reply:
            asyncio.get_running_loop().call_soon(reply.abort, AnswerTimeout("that will do"))
            with pytest.raises(AnswerTimeout, match="that will do"):
                await reply.pump(lambda _: None)
        await wire.until_one_is_gone()


WAITS: list[tuple[str, bytes]] = [
    ("for the head", b""),
    ("in the middle of the head", b"HTTP/1.1 200 OK\r\nx: "),
    ("for the first piece", STREAM_HEAD),
    ("in mid-stream", STREAM_HEAD + chunked(b"data: a\n\n")),
    ("for the words of an error", b"HTTP/1.1 500 Oops\r\ncontent-length: 9\r\n\r\n"),
]


@pytest.mark.parametrize("sent", [row[1] for row in WAITS], ids=[row[0] for row in WAITS])
async def test_a_cancellation_at_any_wait_closes_the_servers_connection(sent: bytes) -> None:
    asked = asyncio.Event()

    async def handle(connection: Connection) -> None:
        await request_of(connection)
        if sent:
            await connection.write(sent)
        asked.set()
        await connection.until_gone()

    async with serving(handle) as wire:
        replica = wire.replica()
        call = asyncio.create_task(body_of(replica))
        await asked.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await wire.until_one_is_gone()
        assert replica.pool.idle == 0


async def test_a_cancellation_while_connecting_leaves_nothing_open() -> None:
    accepted = asyncio.Event()

    async def never_shakes_hands(connection: Connection) -> None:
        accepted.set()
        await connection.until_gone()

    async with serving(never_shakes_hands) as wire:
        wire.is_tls = True
        call = asyncio.create_task(body_of(wire.replica(tls=ssl.create_default_context())))
        await accepted.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await wire.until_one_is_gone()


@pytest.mark.parametrize("sent", [row[1] for row in WAITS[:4]], ids=[row[0] for row in WAITS[:4]])
async def test_the_limit_ends_any_wait_with_the_callers_error_and_closes_the_servers_connection(sent: bytes) -> None:
    async def handle(connection: Connection) -> None:
        await request_of(connection)
        if sent:
            await connection.write(sent)
        await connection.until_gone()

    late: type[BackendError] = AnswerTimeout
    async with serving(handle) as wire:
        with pytest.raises(late, match=r"nothing within 0\.1 s"):
            await body_of(wire.replica(), within=limits(0.1, error=late))
        await wire.until_one_is_gone()


@pytest.mark.parametrize("dies_first", [True, False], ids=["just after a kept connection died", "while connecting"])
async def test_a_limit_that_passed_before_the_request_is_sent_is_not_forgotten(dies_first: bool) -> None:
    loop = asyncio.get_running_loop()
    async with serving(answers(HELLO)) as wire:
        pool = wire.replica().pool
        exchange = Exchange(loop, loop.time() + 0.05, lambda: AnswerTimeout("late"))
        if dies_first:
            exchange.start(await pool.connect(2), (b"GET / HTTP/1.1\r\n",))
            exchange.on_broken(ProtocolBroken("the connection ended before an answer"))
        await until(lambda: loop.time() > exchange.limit_s + 0.02)
        if dies_first:
            exchange.forget_connection()
        with pytest.raises(AnswerTimeout, match="late"):
            exchange.start(await pool.connect(2), (b"GET / HTTP/1.1\r\n\r\n",))
        assert exchange.release() is None


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_what_came_while_the_loop_stood_still_is_read_before_anybody_is_blamed_for_silence(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    stands_still, has_sent = threading.Event(), threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(STREAM_HEAD)
            stands_still.wait(5)
            connection.sendall(chunked(b"first"))
            has_sent.set()
            connection.recv(1)

    async def call(port: int) -> bytes:
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        got: list[bytes] = []
        replica = replica_at(origin_of(f"http://127.0.0.1:{port}"), VLLM)
        async with replica.open(CALL, limits(0.3)) as reply:

            def stand_still() -> None:
                loop.remove_reader(near)
                stands_still.set()
                has_sent.wait(5)
                time.sleep(0.5)  # past the limit

            loop.add_reader(near, stand_still)
            far.send(b"!")

            def enough(data: bytes) -> bool:
                got.append(data)
                return True

            await reply.pump(enough)
            reply.set_limit(loop.time() + 0.2, lambda: AnswerTimeout("late"))
            with pytest.raises(AnswerTimeout):  # and a silence of its own is one
                await reply.pump(lambda data: None)
        near.close()
        far.close()
        return b"".join(got)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, args=(listener,), daemon=True)
        server.start()
        with asyncio.Runner(loop_factory=new_loop) as runner:
            assert runner.run(call(listener.getsockname()[1])) == b"first"
        server.join(5)
