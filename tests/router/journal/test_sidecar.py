"""The last known state beside the store: always whole, small, without secrets, and never an obstacle."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec
import pytest

from policies.revisions import Kind
from router.journal.sidecar import MOST, Sidecar, sidecar_for
from router.journal.store import Kept
from tests.router.journal.keeping import kept


def step(number: int, of: int) -> Kept:
    """A small step of a ramp."""
    revision = msgspec.structs.replace(kept(number).revision, kind=Kind.RAMP, part_of=of)
    return Kept(revision)


async def kept_and_read(path: Path, everything: list[Kept]) -> list[int]:
    sidecar = Sidecar(path)
    sidecar.keep(everything)
    await sidecar.close()
    read = await Sidecar(path).read()
    assert all(each in everything for each in read)
    return [each.revision.number for each in read]


async def test_the_end_of_the_journal_is_kept_and_read_as_it_was(tmp_path: Path) -> None:
    everything = [kept(n) for n in range(1, MOST + 21)]
    assert await kept_and_read(tmp_path / "last.json", everything) == list(range(21, MOST + 21))


async def test_the_steps_of_a_ramp_push_out_no_state_to_go_back_to_and_the_last_one_is_kept(tmp_path: Path) -> None:
    everything = [kept(1), kept(2), *(step(n, 2) for n in range(3, 400))]
    assert await kept_and_read(tmp_path / "last.json", everything) == [1, 2, 399]


async def test_what_a_file_asked_for_last_is_kept_however_long_ago_it_was(tmp_path: Path) -> None:
    everything = [kept(1), *(Kept(kept(n).revision) for n in range(2, 200))]
    assert await kept_and_read(tmp_path / "last.json", everything) == [1, *range(200 - MOST, 200)]


async def test_of_many_revisions_in_a_row_the_last_is_there_in_the_end(tmp_path: Path) -> None:
    sidecar = Sidecar(tmp_path / "last.json")
    everything: list[Kept] = []
    for number in range(1, 30):
        everything.append(kept(number))
        sidecar.keep(everything)
        await asyncio.sleep(0)  # it begins to write
    await sidecar.close()
    assert await sidecar.read() == tuple(everything)
    assert [path.name for path in tmp_path.iterdir()] == ["last.json"]


async def test_what_killed_processes_left_goes_and_what_others_are_writing_stays(tmp_path: Path) -> None:
    ended = await asyncio.create_subprocess_exec("true")
    await ended.wait()
    for pid in (ended.pid, os.getpid()):
        (tmp_path / f"last.json.{pid}.new").write_bytes(b"half")
    assert await Sidecar(tmp_path / "last.json").read() == ()
    assert [path.name for path in tmp_path.iterdir()] == [f"last.json.{os.getpid()}.new"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'[{"revision": {}}]', b"\xff\xfe", b'[{"revision":{"kind":"dance"}}]']
)
async def test_a_file_that_says_nothing_is_as_none(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "last.json").write_bytes(content)
    assert await Sidecar(tmp_path / "last.json").read() == ()
    assert len(caplog.records) == 1


async def test_a_place_that_cannot_be_written_is_said_once_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sidecar = Sidecar(tmp_path / "none" / "last.json")
    for number in (1, 2):
        sidecar.keep([kept(number)])
        await sidecar.close()
    assert await sidecar.read() == () and not (tmp_path / "none").exists()
    assert [record.message for record in caplog.records] == [
        f"the last known state cannot be kept in {tmp_path}/none/last.json: [Errno 2] No such file or directory:"
        f" '{tmp_path}/none/last.json.{os.getpid()}.new'"
    ]


async def test_a_servers_is_in_the_users_folder_of_state_under_a_name_that_no_password_changes(tmp_path: Path) -> None:
    one = sidecar_for("postgresql://u:one@h/d?password=two", {"XDG_STATE_HOME": str(tmp_path), "HOME": "/none"})
    assert one.path == sidecar_for("postgres://u:other@h/d", {"XDG_STATE_HOME": str(tmp_path)}).path
    assert one.path != sidecar_for("postgres://u:one@h/e", {"XDG_STATE_HOME": str(tmp_path)}).path
    one.keep([kept(1)])
    await one.close()
    assert one.path is not None and one.path.parent == tmp_path / "crossfade" and one.path.exists()
    home = sidecar_for("postgresql://h/d", {"HOME": "/home/u"}).path
    assert home is not None and home.parent == Path("/home/u/.local/state/crossfade")
    assert sidecar_for("postgresql://h/d", {}).path is None


async def test_where_there_is_no_place_nothing_is_kept() -> None:
    sidecar = Sidecar()
    sidecar.keep([kept(1)])
    assert await sidecar.read() == ()
    await sidecar.close()
