"""What `crossfade shift` takes: shares and durations as people type them, and with --write the file, or nothing at all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router.cli.amounts import NoAmount, seconds_of, shares_of
from tests.router.cli.commands import SPLIT, Desk, desk_alone, desk_beside_a_router, document, run


@pytest.mark.parametrize(
    ("word", "share"),
    [
        ("vllm=0.25", 0.25),
        ("vllm=25%", 0.25),
        ("vllm=0.1%", 0.001),
        ("vllm=12.5 %", 0.125),
        ("vllm=1", 1.0),
        ("vllm=.5", 0.5),
        ("vllm=7%", 0.07),
        ("vllm=-1", -1.0),
    ],
)
def test_a_share_is_a_fraction_or_a_percentage(word: str, share: float) -> None:
    assert shares_of([word]) == {"vllm": share}


@pytest.mark.parametrize("word", ["vllm", "vllm=", "=0.5", "vllm=half", "vllm=nan", "vllm=1e-2", "vllm=0,5", "vllm=٣"])
def test_what_is_no_share_is_said_to_be_none(word: str) -> None:
    with pytest.raises(NoAmount) as caught:
        shares_of([word])
    assert str(caught.value) == f"{word!r} is no share; write BACKEND=SHARE, such as vllm=0.25 or vllm=25%."


def test_a_backend_is_named_once() -> None:
    with pytest.raises(NoAmount, match=r"vllm is named twice; give it one share\."):
        shares_of(["vllm=0.1", "vllm=0.2"])


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("10m", 600), ("2h", 7200), ("1d", 86400), ("1h30m", 5400), ("0.5h", 1800)]
)
def test_a_duration_has_a_unit(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "h", "-5m", "2 h", "1w", "1h30", "1..5h"])
def test_what_is_no_duration_is_said_to_be_none(text: str) -> None:
    with pytest.raises(NoAmount) as caught:
        seconds_of(text)
    assert str(caught.value) == f"{text!r} is no duration; write a number and its unit, such as 30s, 10m, 2h or 1d."


WRONG = {
    "no reason": (("shift", "jane", "b=1"), "Missing option '--reason'"),
    "no share": (("shift", "jane", "--reason", "r"), "name at least one backend and its share"),
    "no such share": (("shift", "jane", "b=x", "--reason", "r"), "'b=x' is no share; write BACKEND=SHARE"),
    "no such duration": (("shift", "jane", "b=1", "--over", "2w", "--reason", "r"), "'2w' is no duration;"),
    "pausing with shares": (("shift", "jane", "b=1", "--pause", "--reason", "r"), "--pause and --resume stand alone"),
    "pausing and resuming": (("shift", "jane", "--resume", "--pause", "--reason", "r"), "stand alone"),
    "a ramp into the file": (
        ("shift", "jane", "b=1", "--over", "1h", "--write", "--reason", "r"),
        "--write and --over exclude each other: a changed file takes effect at once.",
    ),
    "the file of another router": (
        ("shift", "jane", "b=1", "--write", "--url", "http://h", "--reason", "r"),
        "--write beside --url needs the file that is meant: -c FILE.",
    ),
    "no model": (("rollback",), "Missing argument 'MODEL'"),
    "no such revision": (("rollback", "jane", "--to", "0"), "Invalid value for '--to'"),
    "no address": (("history", "jane", "--url", "here"), "the address is no URL of a router"),
    "an address with a password": (("history", "jane", "--url", "http://u:p@h"), "the address is no URL of a router"),
    "an address with a path": (("history", "jane", "--url", "http://h/x"), "is not the address of a router alone"),
}


@pytest.mark.parametrize(("words", "said"), WRONG.values(), ids=WRONG)
def test_wrong_usage_is_said_and_ends_with_2(words: tuple[str, ...], said: str) -> None:
    result = run(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in " ".join(result.stderr.replace("│", "").split())


def test_a_file_that_is_not_there_or_not_valid_is_said_with_the_remedy(tmp_path: Path) -> None:
    none = run("shift", "jane", "b=1", "--reason", "r", "-c", str(tmp_path / "none.yaml"))
    assert (none.exit_code, none.stdout) == (1, "")
    assert none.stderr == (
        f"{tmp_path}/none.yaml: The file cannot be read: No such file or directory. Name a file with -c FILE.\n"
    )


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk_beside_a_router(tmp_path) as given:
        yield given


async def test_what_was_shifted_is_written_into_the_file_with_its_comments(desk: Desk) -> None:
    before = desk.file.read_text()
    result = await desk.ask("shift", "jane", "b=25%", "--reason", "canary", "--write")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, f"{desk.file} has it, too")
    assert desk.file.read_text() == before.replace(SPLIT, "{a: 0.75, b: 0.25}")
    assert document(await desk.ask("status", "--json"))["revision"] >= 2


async def test_a_backend_that_the_split_of_the_file_does_not_name_is_written_beside_the_others(desk: Desk) -> None:
    text = desk.file.read_text().replace(SPLIT, "{a: 1.0}")
    desk.file.write_text(text)
    result = await desk.ask("shift", "jane", "b=25%", "--reason", "the first", "--write")
    assert (result.exit_code, result.stderr) == (0, "")
    assert desk.file.read_text() == text.replace("{a: 1.0}", "{a: 0.75, b: 0.25}")


async def test_shares_that_are_in_force_already_can_still_be_written(desk: Desk) -> None:
    await desk.ask("shift", "jane", "b=25%", "--reason", "canary")
    made = document(await desk.ask("shift", "jane", "b=25%", "--reason", "keep", "--write", "--json"))
    assert (made["changed"], made["written"]) == (False, str(desk.file))
    assert "{a: 0.75, b: 0.25}" in desk.file.read_text()


async def test_a_shift_that_is_refused_leaves_the_file_as_it_was(desk: Desk) -> None:
    before = desk.file.read_text()
    assert (await desk.ask("shift", "jane", "b=2", "--reason", "r", "--write")).exit_code == 1
    assert desk.file.read_text() == before


@pytest.mark.parametrize(
    ("split", "said"),
    [
        pytest.param(
            "{a: '${A_SHARE:-0.95}', b: 0.05}",
            "models.jane.split takes a value from the environment (${A_SHARE:-0.95}); change it there.",
            id="a share from the environment",
        ),
        pytest.param(
            "&usual {a: 0.95, b: 0.05}",
            "models.jane.split is shared with other parts of the file (&usual on line 10); write it out, then repeat.",
            id="a split that another model has, too",
        ),
    ],
)
async def test_a_file_that_cannot_be_edited_is_refused_before_anything_is_changed(
    desk: Desk, split: str, said: str
) -> None:
    text = desk.file.read_text().replace(SPLIT, split)
    if split.startswith("&"):
        text += "  john:\n    on: {a: real-a, b: real-b}\n    split: *usual\n"
    desk.file.write_text(text)
    result = await desk.ask("shift", "jane", "b=0.5", "--reason", "r", "--write")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"Nothing was changed: {said}\n")
    assert desk.file.read_text() == text
    assert len(document(await desk.ask("history", "jane", "--json"))["revisions"]) == 1


def test_without_a_router_the_store_and_the_file_are_changed(tmp_path: Path) -> None:
    desk = desk_alone(tmp_path)
    result = desk.run("shift", "jane", "b=0.5", "--reason", "r", "--force", "--write")
    assert (result.exit_code, "split: {a: 0.5, b: 0.5}   # since Monday" in desk.file.read_text()) == (0, True)
    drift = document(desk.run("status", "--json"))["models"]["jane"]["drift"]
    assert not drift
