"""The way to the admin API where it breaks: a change is made once however often it is sent, and every end is one sentence."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from router.cli.remote import Refused, Remote, change_of
from tests.router.cli.commands import Desk, desk_alone, desk_beside_a_router, document

Handle = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def scripted(handle: Handle) -> AsyncIterator[asyncio.Server]:
    """A server that reads one request of each connection and then does what `handle` says."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(each.split(b":")[1]) for each in head.split(b"\r\n") if b"ontent-" in each and b"ngth" in each), 0
        )
        try:
            await handle(head + await reader.readexactly(length), writer)
        finally:
            writer.close()

    async with await asyncio.start_server(one, "127.0.0.1", 0) as server:
        yield server


def port_of(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


def url_of(server: asyncio.Server) -> str:
    return f"http://127.0.0.1:{port_of(server)}"


def answer(status: int, body: object) -> bytes:
    content = json.dumps(body).encode() if not isinstance(body, bytes) else body
    return b"HTTP/1.1 %d X\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (status, len(content), content)


def at(desk: Desk, server: asyncio.Server) -> Desk:
    """The desk with the server in the router's place."""
    here = desk.url.rsplit(":", 1)[1]
    desk.file.write_text(desk.file.read_text().replace(f"port: {here}", f"port: {port_of(server)}"))
    return Desk(desk.file)


async def passed_on(request: bytes, port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1))
    reply = await reader.read()
    writer.close()
    return reply


async def test_a_change_whose_answer_was_lost_is_repeated_and_made_once(tmp_path: Path) -> None:
    async with desk_beside_a_router(tmp_path) as desk:
        assert desk.router is not None
        port, seen = desk.router.port, []

        async def loses_the_first_answer(request: bytes, writer: asyncio.StreamWriter) -> None:
            seen.append(request)
            reply = await passed_on(request, port)
            if len(seen) > 1:
                writer.write(reply)
                await writer.drain()

        await desk.ask("shift", "jane", "b=0.25", "--reason", "canary")
        async with scripted(loses_the_first_answer) as server:
            result = await at(desk, server).ask("rollback", "jane")
    assert (result.exit_code, result.stdout.splitlines()[-1], result.stderr) == (0, "revision 3", "")
    assert len(seen) == 2 and seen[0] == seen[1]


async def test_a_change_whose_answer_was_lost_with_the_router_is_found_in_the_store_and_not_made_again(
    tmp_path: Path,
) -> None:
    async with desk_beside_a_router(tmp_path) as desk:
        assert desk.router is not None
        port = desk.router.port

        async def dies_with_the_answer(request: bytes, _writer: asyncio.StreamWriter) -> None:
            await passed_on(request, port)
            server.close()

        await desk.ask("shift", "jane", "b=0.25", "--reason", "canary")
        await desk.ask("shift", "jane", "b=0.5", "--reason", "further")
        async with scripted(dies_with_the_answer) as server:
            result = await at(desk, server).ask("rollback", "jane", "--json")
    made = document(result)
    assert (made["revision"]["number"], made["revision"]["restores"], made["through"]) == (4, 2, "store")
    assert made["changed"]


async def test_a_connection_that_breaks_twice_leaves_it_open_and_says_so(tmp_path: Path) -> None:
    async def hangs_up(_request: bytes, _writer: asyncio.StreamWriter) -> None:
        return

    async with scripted(hangs_up) as server:
        result = await at(desk_alone(tmp_path), server).ask("rollback", "jane")
        looking = await Desk(tmp_path / "crossfade.yaml").ask("history", "jane")
        url = url_of(server)
    said = f"{url} broke off twice before it had answered"
    assert (result.exit_code, result.stderr) == (1, f"{said}; `crossfade history` shows whether it was done.\n")
    assert looking.stderr == f"{said}.\n"
    assert [each.name for each in tmp_path.iterdir()] == ["crossfade.yaml"]


async def test_a_router_that_answers_an_error_is_there_and_its_store_is_left_alone(tmp_path: Path) -> None:
    async def is_in_trouble(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(
            answer(503, {"error": {"message": "the store is full; nothing was changed", "code": "store_failed"}})
        )

    async with scripted(is_in_trouble) as server:
        result = await at(desk_alone(tmp_path), server).ask("rollback", "jane", "--json")
    assert result.exit_code == 1
    assert document(result)["error"] == {
        "message": "the store is full; nothing was changed.",
        "code": "store_failed",
    }
    assert [each.name for each in tmp_path.iterdir()] == ["crossfade.yaml"]


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(answer(200, b"<html>hello</html>"), id="a page"),
        pytest.param(answer(200, []), id="another JSON"),
        pytest.param(answer(404, {"detail": "Not Found"}), id="another API's error"),
        pytest.param(answer(302, b""), id="a way elsewhere"),
    ],
)
async def test_another_program_at_the_address_is_said_to_be_one(tmp_path: Path, reply: bytes) -> None:
    async def is_something_else(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(reply)

    async with scripted(is_something_else) as server:
        result = await at(desk_alone(tmp_path), server).ask("status")
        url = url_of(server)
    status = reply.split()[1].decode()
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"{url} answers /admin/api/status with {status} and not as Crossfade does; is something else there?\n"
    )


async def test_a_server_that_says_nothing_is_not_waited_for_for_ever_and_not_asked_twice() -> None:
    seen, over = [], asyncio.Event()

    async def says_nothing(request: bytes, _writer: asyncio.StreamWriter) -> None:
        seen.append(request)
        await over.wait()

    async with scripted(says_nothing) as server:
        remote = Remote(url_of(server), "", "", timeout_s=0.2)
        with pytest.raises(Refused, match=r"did not answer within 0\.2 s; `crossfade history` shows whether it was"):
            await asyncio.to_thread(remote.change, change_of("/drain", target="a", reason="r"))
        over.set()
    assert len(seen) == 1
