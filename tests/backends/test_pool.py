"""The pool of one replica: what is reused, what expires, how connecting fails; certificates included."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backends.errors import ConnectFailed, DeadlinePassed, FirstTokenTimeout
from backends.pool import IDLE_S, MAX_IDLE, Pool, origin_of
from tests.backends.wire import CALL, HELLO, answers, body_of, limits, request_of, serving
from tests.upstream import Connection


async def test_calls_one_after_the_other_share_a_connection() -> None:
    async with serving(answers(HELLO)) as wire:
        replica = wire.replica()
        assert [await body_of(replica) for _ in range(5)] == [b"hello"] * 5
        assert wire.connections == 1 and replica.pool.idle == 1


async def test_calls_at_the_same_time_take_a_connection_each_and_the_last_one_used_is_used_next() -> None:
    both = asyncio.Barrier(2)

    async def handle(connection: Connection) -> None:
        await request_of(connection)
        await both.wait()
        while True:
            await connection.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%d" % connection.number)
            await request_of(connection)

    async with serving(handle) as wire:
        replica = wire.replica()
        await asyncio.gather(body_of(replica), body_of(replica))
        assert wire.connections == replica.pool.idle == 2
        assert len({await body_of(replica) for _ in range(3)}) == 1


async def test_an_idle_connection_expires_before_it_is_used_and_is_closed_by_the_sweep() -> None:
    async with serving(answers(HELLO)) as wire:
        replica = wire.replica(idle_s=0.1)
        await body_of(replica)
        await wire.until_one_is_gone()
        assert replica.pool.idle == 0
        await body_of(replica)
        assert wire.connections == 2


async def test_age_is_checked_when_a_connection_is_taken_because_the_sweep_may_be_late() -> None:
    loop = asyncio.get_running_loop()
    async with serving(answers(HELLO)) as wire:
        replica = wire.replica()
        await body_of(replica)
        assert replica.pool.take_warm(loop.time() + IDLE_S) is None
        assert replica.pool.idle == 0
        await wire.until_one_is_gone()


def test_ours_expire_a_good_while_before_an_engines_five_seconds() -> None:
    assert IDLE_S <= 4.5


async def test_a_connection_that_the_server_closed_while_it_was_idle_is_not_used() -> None:
    async def once(connection: Connection) -> None:
        await request_of(connection)
        await connection.write(HELLO)

    async with serving(once) as wire:
        replica = wire.replica()
        await body_of(replica)
        await wire.until_one_is_gone()
        await asyncio.sleep(0)
        await body_of(replica)
        assert wire.connections == 2


async def test_closing_the_pool_closes_what_is_idle() -> None:
    async with serving(answers(HELLO)) as wire:
        replica = wire.replica()
        await body_of(replica)
        replica.pool.close()
        await wire.until_one_is_gone()
        assert replica.pool.idle == 0


async def test_no_more_than_the_limit_of_idle_connections_is_kept() -> None:
    loop = asyncio.get_running_loop()

    async def handle(connection: Connection) -> None:
        await connection.until_gone()

    async with serving(handle) as wire:
        pool = Pool(origin_of(wire.url))
        for connection in [await pool.connect(2) for _ in range(MAX_IDLE + 1)]:
            pool.give(connection, loop.time())
        assert pool.idle == MAX_IDLE
        await wire.until_one_is_gone()
        pool.close()


@contextmanager
def full_backlog() -> Iterator[int]:
    """A port whose listener accepts nobody and whose backlog is full: a SYN gets no answer, as from behind a firewall."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for client in waiting:
            client.close()


async def test_a_server_that_accepts_nobody_fails_at_the_connect_limit() -> None:
    loop = asyncio.get_running_loop()
    with full_backlog() as port:
        started_s = loop.time()
        with pytest.raises(ConnectFailed, match=r"within 0\.2 s"):
            await Pool(origin_of(f"http://127.0.0.1:{port}")).connect(0.2)
        assert loop.time() - started_s < 2


async def test_a_deadline_that_passes_while_connecting_is_the_calls_and_not_the_servers_fault() -> None:
    async with serving(answers(HELLO)) as wire:
        with full_backlog() as port:
            wire.port = port
            with pytest.raises(DeadlinePassed):
                await body_of(wire.replica(), within=limits(0.1, connect_s=2, error=DeadlinePassed))
            with pytest.raises(ConnectFailed):
                await body_of(wire.replica(), within=limits(2, connect_s=0.1, error=DeadlinePassed))


async def test_a_refused_connection_is_the_servers_fault_even_where_little_time_is_left() -> None:
    async with serving(answers(HELLO)) as wire:
        replica = wire.replica()
    with pytest.raises(ConnectFailed, match=r"cannot connect to http://127"):
        await body_of(replica, within=limits(1, connect_s=2, error=DeadlinePassed))


@pytest.mark.parametrize("host", ["a" * 64 + ".invalid", "a..b"], ids=["a label too long", "an empty label"])
async def test_a_host_that_is_no_name_fails_like_any_other(host: str) -> None:
    with pytest.raises(ConnectFailed):
        await Pool(origin_of(f"http://{host}:1")).connect(2)


ORIGINS = [
    ("http://127.0.0.1:8000", "127.0.0.1:8000"),
    ("http://example.org", "example.org"),
    ("http://example.org:80", "example.org"),
    ("http://example.org:443", "example.org:443"),
    ("https://example.org", "example.org"),
    ("https://example.org:8443/", "example.org:8443"),
    ("http://[::1]:8000", "[::1]:8000"),
]


@pytest.mark.parametrize(("url", "authority"), ORIGINS, ids=[row[0] for row in ORIGINS])
def test_the_host_header_names_the_port_where_it_is_not_the_schemes_own(url: str, authority: str) -> None:
    assert origin_of(url).authority == authority


@pytest.mark.parametrize("url", ["ftp://a", "127.0.0.1:80", "http://", "http:///v1", "http://a:99999"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"address|Port"):
        origin_of(url)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A key and a self-signed certificate for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=backend", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key)]
    subprocess.run([*command, "-out", str(certificate)], check=True, capture_output=True)
    return key, certificate


def serving_context(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[1], certificate[0])
    return context


async def test_a_certificate_that_is_trusted_by_file_serves_and_its_connection_is_reused(
    certificate: tuple[Path, Path],
) -> None:
    async with serving(answers(HELLO), serving_context(certificate)) as wire:
        replica = wire.replica(tls=ssl.create_default_context(cafile=str(certificate[1])))
        assert [await body_of(replica) for _ in range(3)] == [b"hello"] * 3
        assert wire.connections == 1
        replica.pool.close()


async def test_a_certificate_that_nobody_vouches_for_is_refused_before_anything_is_sent(
    certificate: tuple[Path, Path],
) -> None:
    async with serving(answers(HELLO), serving_context(certificate)) as wire:
        with pytest.raises(ConnectFailed, match="CERTIFICATE_VERIFY_FAILED"):
            await body_of(wire.replica())


async def test_a_certificate_for_another_name_is_refused(certificate: tuple[Path, Path]) -> None:
    async with serving(answers(HELLO), serving_context(certificate)) as wire:
        trusted = ssl.create_default_context(cafile=str(certificate[1]))
        with pytest.raises(ConnectFailed, match="ertificate"):
            await Pool(origin_of(f"https://localhost:{wire.port}", trusted)).connect(2)


async def test_over_tls_a_body_without_a_length_ends_with_the_connection(certificate: tuple[Path, Path]) -> None:
    async def handle(connection: Connection) -> None:
        await request_of(connection)
        await connection.write(b"HTTP/1.1 200 OK\r\n\r\n", b"hel", b"lo")

    async with serving(handle, serving_context(certificate)) as wire:
        replica = wire.replica(tls=ssl.create_default_context(cafile=str(certificate[1])))
        assert await body_of(replica) == b"hello"
        assert replica.pool.idle == 0


async def test_over_tls_a_reader_that_leaves_hangs_up(certificate: tuple[Path, Path]) -> None:
    async def handle(connection: Connection) -> None:
        await request_of(connection)
        await connection.until_gone()

    async with serving(handle, serving_context(certificate)) as wire:
        replica = wire.replica(tls=ssl.create_default_context(cafile=str(certificate[1])))
        with pytest.raises(FirstTokenTimeout):
            async with replica.open(CALL, limits(0.2)):
                pass
        await wire.until_one_is_gone()
