"""The key that is made at the first start: one for all processes, for its owner's eyes only, and found by whoever runs the commands."""

from __future__ import annotations

import logging
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from router.admin.keys import AdminKeys, KeyUnusable, Role, admin_key_file, keep_key, operator_key, read_key
from router.admission import digest
from router.config import Config, loads
from tests.router.admin.operators import OPERATOR, VIEWER, Admin, administered
from tests.running import config_for


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "crossfade.db.admin-key"


def config_of(file: Path, server: str = "") -> Config:
    store = f"\nstore: {{url: 'sqlite:///{str(file).removesuffix('.admin-key')}'}}\n"
    return loads(config_for({"a": "http://127.0.0.1:9"}, server=server) + store, {"VIEWER_KEY": VIEWER}).config


def mode_of(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def test_a_key_is_made_once_of_32_random_bytes_in_a_file_of_its_owner(file: Path) -> None:
    key = keep_key(file)
    assert len(key) == 43 and key.isascii()
    assert mode_of(file) == 0o600
    assert keep_key(file) == read_key(file) == key
    assert list(file.parent.iterdir()) == [file]
    assert keep_key(file.with_name("another.admin-key")) != key


def test_a_wide_umask_makes_it_no_wider_for_no_moment(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = os.umask(0)
    try:
        keep_key(file)
    finally:
        os.umask(before)
    assert mode_of(file) == 0o600
    assert not caplog.records, "nothing had to be mended"


def test_of_many_processes_that_start_at_once_all_have_the_same_key(file: Path) -> None:
    with ThreadPoolExecutor(16) as at_once:
        keys = set(at_once.map(lambda _: keep_key(file), range(64)))
    assert keys == {read_key(file)}
    assert list(file.parent.iterdir()) == [file]


def test_a_file_that_others_could_read_is_mended_and_told(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    key = keep_key(file)
    file.chmod(0o644)
    assert read_key(file) == key
    assert mode_of(file) == 0o600
    assert "could be read by others" in caplog.text
    assert key not in caplog.text


@pytest.mark.parametrize("content", ["", "short", "\n"])
def test_a_file_without_a_key_is_no_key(file: Path, content: str) -> None:
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(KeyUnusable, match="holds no key"):
        keep_key(file)


def test_a_link_to_somewhere_else_and_what_is_no_file_are_not_followed(file: Path) -> None:
    elsewhere = file.with_name("elsewhere")
    keep_key(elsewhere)
    file.symlink_to(elsewhere)
    with pytest.raises(KeyUnusable):
        keep_key(file)
    file.unlink()
    os.mkfifo(file, 0o600)
    with pytest.raises(KeyUnusable, match="no file of this user"):
        keep_key(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_no_key(file: Path) -> None:
    keep_key(file)
    os.chown(file, 65534, 65534)
    with pytest.raises(KeyUnusable, match="no file of this user"):
        read_key(file)


def test_where_no_file_can_be_made_it_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(KeyUnusable, match=r"no admin key can be kept in .*No such file or directory"):
        keep_key(tmp_path / "crossfade" / "crossfade.db.admin-key")


def test_the_key_of_a_store_on_a_server_lies_in_the_users_state_folder_and_tells_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    one, other = (admin_key_file(f"postgresql://me:{key}@db.internal/crossfade") for key in ("secret1", "secret2"))
    assert one == other, "a changed password makes no other key"
    assert one.parent == tmp_path / "crossfade"
    assert "secret1" not in one.name
    assert admin_key_file("postgresql://db.internal/other") != one
    assert len(keep_key(one, makes_folder=True)) == 43
    assert (mode_of(one.parent), mode_of(one)) == (0o700, 0o600)


def test_the_key_of_a_sqlite_store_lies_beside_it() -> None:
    assert admin_key_file("sqlite:////var/lib/crossfade/crossfade.db") == Path(
        "/var/lib/crossfade/crossfade.db.admin-key"
    )


def test_the_key_of_the_environment_goes_before_the_kept_one(file: Path) -> None:
    config = config_of(file)
    assert operator_key(config, {}) == ""
    kept = keep_key(file)
    assert operator_key(config, {}) == operator_key(config, {"CROSSFADE_ADMIN_KEY": " "}) == kept
    assert operator_key(config, {"CROSSFADE_ADMIN_KEY": f" {OPERATOR}\n"}) == OPERATOR


async def test_where_the_environment_has_a_key_none_is_made(file: Path) -> None:
    keys = AdminKeys(config_of(file), {"CROSSFADE_ADMIN_KEY": OPERATOR})
    await keys.open(0.0)
    assert not file.exists()
    assert (keys.role_of(digest(OPERATOR)), keys.role_of(digest("other")), keys.role_of(b"")) == (
        Role.OPERATOR,
        None,
        None,
    )


async def test_nobody_is_let_in_where_no_key_can_be_kept_until_one_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "later" / "crossfade.db.admin-key"
    keys = AdminKeys(config_of(file, "admin: {viewer_key_env: VIEWER_KEY}"), {"VIEWER_KEY": VIEWER})
    for now_s in (0.0, 1.0, 10.0, 20.0):
        await keys.open(now_s)
        assert keys.role_of(b"") is None
    assert keys.role_of(digest(VIEWER)) is Role.VIEWER
    assert len([line for line in caplog.records if line.levelno == logging.ERROR]) == 1
    file.parent.mkdir()
    await keys.open(21.0)
    assert not file.exists(), "it is not tried at every request"
    await keys.open(30.0)
    assert keys.role_of(digest(read_key(file))) is Role.OPERATOR


async def test_a_router_without_a_key_makes_one_and_its_operator_finds_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store = f"\nstore: {{url: 'sqlite:///{tmp_path}/crossfade.db'}}\n"
    async with administered(server="admin: {key_env: NOT_SET}", env={}, more=store) as admin:
        key = read_key(tmp_path / "crossfade.db.admin-key")
        assert (await Admin(admin.router, key).shift(0.5)).status_code == 200
        assert (await Admin(admin.router, OPERATOR).shift(0.5)).status_code == 401
    async with administered(server="admin: {key_env: NOT_SET}", env={}, more=store) as admin:
        assert (await Admin(admin.router, key).get("status")).status_code == 200
    assert key not in caplog.text
