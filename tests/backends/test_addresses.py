"""Names that move, that lead to several addresses, that cannot be looked up for a while."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from backends.addresses import FRESH_S, Addresses, AddressInfo


class Names:
    """A name server that a test writes: the addresses of the one name, or none; `asked` counts the look-ups."""

    def __init__(self, *addresses: tuple[str, int]):
        self.addresses = addresses
        self.asked = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def look_up(self, _host: str, _port: int) -> Sequence[AddressInfo]:
        self.asked += 1
        await self.may_answer.wait()
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(_family(host), socket.SOCK_STREAM, 6, "", (host, port)) for host, port in self.addresses]


def _family(host: str) -> int:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def behind(names: Names, fresh_s: float = FRESH_S) -> Addresses:
    return Addresses("engine.internal", 80, names.look_up, fresh_s)


@contextmanager
def listening() -> Iterator[int]:
    """A port where the kernel takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        yield port


def a_closed_port() -> int:
    with listening() as port:
        return port


async def leads_to(addresses: Addresses) -> int:
    """The port that a fresh connection goes to."""
    with await addresses.connect() as sock:
        port: int = sock.getpeername()[1]
    return port


async def test_a_name_that_leads_elsewhere_now_is_followed_once_the_old_address_refuses() -> None:
    with listening() as new:
        with listening() as old:
            names = Names(("127.0.0.1", old))
            addresses = behind(names)
            assert await leads_to(addresses) == old
        names.addresses = (("127.0.0.1", new),)
        with pytest.raises(OSError, match="Connect call failed"):
            await addresses.connect()
        assert await leads_to(addresses) == new


async def test_a_name_that_leads_elsewhere_is_followed_in_time_although_the_old_address_still_answers() -> None:
    with listening() as old, listening() as new:
        names = Names(("127.0.0.1", old))
        addresses = behind(names, fresh_s=0.0)
        assert await leads_to(addresses) == old
        names.addresses = (("127.0.0.1", new),)
        assert await leads_to(addresses) == new


async def test_a_name_server_that_is_away_takes_no_server_away() -> None:
    with listening() as port:
        names = Names(("127.0.0.1", port))
        addresses = behind(names, fresh_s=0.0)
        await leads_to(addresses)
        names.addresses = ()
        assert await leads_to(addresses) == port and names.asked == 2


async def test_a_name_server_that_says_nothing_holds_no_connection_up() -> None:
    with listening() as old, listening() as new:
        names = Names(("127.0.0.1", old))
        addresses = behind(names, fresh_s=0.0)
        await leads_to(addresses)
        names.may_answer.clear()
        names.addresses = (("127.0.0.1", new),)
        async with asyncio.timeout(2):  # the default of `connect_s`
            assert await leads_to(addresses) == old
        names.may_answer.set()
        assert await leads_to(addresses) == new and names.asked >= 2


async def test_a_name_that_nobody_knows_is_a_failed_connection_and_is_asked_for_again() -> None:
    with listening() as port:
        names = Names()
        addresses = behind(names)
        with pytest.raises(socket.gaierror):
            await addresses.connect()
        names.addresses = (("127.0.0.1", port),)
        assert await leads_to(addresses) == port


async def test_an_address_that_refuses_costs_nothing_where_the_name_has_a_second_one() -> None:
    with listening() as port:
        names = Names(("::1", a_closed_port()), ("127.0.0.1", port))
        assert await leads_to(behind(names)) == port


async def test_an_address_that_answers_nothing_does_not_use_up_the_limit_of_the_second_one() -> None:
    with socket.socket() as full:  # its backlog is full: the kernel drops what else would connect
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = []
        for _ in range(2):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
            waiting.append(sock)
        with listening() as port:
            names = Names(full.getsockname(), ("127.0.0.1", port))
            assert await leads_to(behind(names)) == port
        for sock in waiting:
            sock.close()


async def test_all_who_connect_at_once_wait_for_one_look_up() -> None:
    with listening() as port:
        names = Names(("127.0.0.1", port))
        names.may_answer.clear()
        addresses = behind(names)
        connecting = [asyncio.create_task(addresses.connect()) for _ in range(20)]
        gives_up = asyncio.create_task(addresses.connect())
        await asyncio.sleep(0)
        gives_up.cancel()  # takes the look-up away from nobody
        names.may_answer.set()
        for sock in await asyncio.gather(*connecting):
            sock.close()
        assert names.asked == 1
