"""`crossfade preflight` as a person and a program use it: the real command in a terminal and in a pipe, against scripted engines."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.router.preflight.engines import Differs, Engine, serving
from tests.upstream import Connection, Received, answer

KEY = "sk-engine-key-marker"
COMMAND = (sys.executable, "-c", "from router.cli import main; main()", "preflight")
ENV = {**os.environ, "ENGINE_KEY": KEY, "TERM": "xterm-256color"}
ENV.pop("COLUMNS", None)
BROKEN = Engine("vllm", "gpt-oss-20b", Differs(refuses={"tools": "requires --enable-auto-tool-choice"}))
COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Silent(Engine):
    """Takes calls and answers none."""

    async def __call__(self, request: Received, connection: Connection) -> None:
        self.asked.append(request.json)
        await connection.until_gone()


class Locked(Engine):
    """Wants another key, and quotes the one that it got."""

    async def __call__(self, request: Received, connection: Connection) -> None:
        error = {"message": f"{request.headers['authorization']} is no key", "code": "invalid_api_key"}
        await connection.write(answer({"error": error}, "401 Unauthorized"))


def engines(*, alike: bool = True) -> tuple[Engine, Engine]:
    new = Engine("vllm", "gpt-oss-20b") if alike else Engine("vllm", "gpt-oss-20b", BROKEN.differs)
    return Engine("vllm", "gpt-oss-20b"), new


@asynccontextmanager
async def configured(folder: Path, *scripted: Engine, sampling: str = "{temperature: 0}") -> AsyncIterator[Path]:
    """A file that names them, while they listen."""
    async with serving(*scripted) as config:
        file = folder / "crossfade.yaml"
        file.write_text(f"{config}    sampling: {sampling}\n")
        yield file


async def said(file: Path, *options: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error of one run in a pipe."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        "jane",
        "-c",
        str(file),
        *options,
        env=ENV,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    assert KEY not in out.decode() + err.decode()
    return process.returncode, out.decode(), err.decode()


async def in_a_terminal(file: Path, columns: int) -> tuple[int, str]:
    """Exit code and all that the terminal was shown."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 60, columns, 0, 0))
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "jane", "-c", str(file), env=ENV, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = await asyncio.to_thread(_read_all, ours)
    os.close(ours)
    return await process.wait(), shown


def _read_all(terminal: int) -> str:
    pieces = []
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # how Linux says that the other side is closed
            break
        if not piece:
            break
        pieces.append(piece)
    return b"".join(pieces).decode()


async def test_a_red_matrix_is_exit_code_1_with_the_remedy_under_the_table(tmp_path: Path) -> None:
    async with configured(tmp_path, *engines(alike=False)) as file:
        code, out, err = await said(file)
    assert code == 1
    lines = out.splitlines()
    assert lines[0].split() == ["jane", "old-vllm", "(baseline)", "new-vllm"]
    assert re.search(r"^tools +forced call +green 1 call +red   400", out, re.MULTILINE)
    assert "vllm serve … --enable-auto-tool-choice --tool-call-parser NAME" in out
    assert re.fullmatch(r"jane: \d+ green, (\d+ amber, )?\d+ red(, \d+ grey)?\. Calls would break; .*", _last(out))
    assert "asking new-vllm: overflow" in err.splitlines()
    assert max(map(len, lines)) <= 80


async def test_nothing_red_is_exit_code_0_and_json_is_one_document(tmp_path: Path) -> None:
    async with configured(tmp_path, *engines()) as file:
        code, out, _ = await said(file, "--json")
    assert code == 0
    document = json.loads(out)
    assert (document["model"], document["baseline"], document["error"]) == ("jane", "old-vllm", None)
    assert document["result"] in ("green", "amber")
    assert [each["name"] for each in document["backends"]] == ["old-vllm", "new-vllm"]
    row = next(row for row in document["rows"] if row["check"] == "stop")
    assert row["cells"]["new-vllm"] == {"colour": "green", "says": "stops", "why": "", "fix": ""}
    assert sum(document["counts"].values()) == 2 * len(document["rows"])


async def test_a_backend_that_refuses_the_key_is_red_with_its_remedy_and_without_log_lines(tmp_path: Path) -> None:
    async with configured(tmp_path, engines()[0], Locked("vllm", "gpt-oss-20b")) as file:
        code, out, err = await said(file)
    assert code == 1
    assert "new-vllm: {key_env: NAME}" in out
    assert {line.partition(" ")[0] for line in err.splitlines()} == {"asking"}


async def test_backends_are_narrowed_and_the_first_named_is_the_baseline(tmp_path: Path) -> None:
    async with configured(tmp_path, *engines()) as file:
        _, out, _ = await said(file, "--json", "--backends", "new-vllm, old-vllm")
        _, alone, _ = await said(file, "--json", "--backends", "new-vllm")
    assert json.loads(out)["baseline"] == "new-vllm"
    assert [each["name"] for each in json.loads(alone)["backends"]] == ["new-vllm"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--backends", "nobody"), "is not on a backend nobody; it is on old-vllm, new-vllm"),
        (("--timeout-s", "0"), "--timeout-s"),
    ],
    ids=["a backend that the model is not on", "no time"],
)
async def test_wrong_usage_is_exit_code_2(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    async with configured(tmp_path, *engines()) as file:
        code, out, err = await said(file, *options)
    assert (code, out) == (2, "")
    assert words in " ".join(err.replace("│", " ").split())


async def test_an_unknown_model_is_exit_code_2_and_a_bad_file_is_exit_code_1(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("models: 1\n")
    code, out, _ = await said(bad, "--json")
    assert code == 1 and "models" in json.loads(out)["error"]
    async with configured(tmp_path, *engines()) as file:
        file.write_text(file.read_text().replace("  jane:", "  joan:"))
        code, out, err = await said(file)
    assert code == 2 and "jane is no model of this file; it has joan" in " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize("columns", [60, 100, 200])
async def test_a_terminal_shows_colours_and_no_line_is_wider_than_it(tmp_path: Path, columns: int) -> None:
    async with configured(tmp_path, *engines(alike=False)) as file:
        code, shown = await in_a_terminal(file, columns)
    assert code == 1
    assert "\x1b[32mgreen" in shown and "\x1b[1;31mred" in shown
    lines = [COLOURS.sub("", line).split("\r")[-1] for line in shown.replace("\r\n", "\n").split("\n")]
    assert max(map(len, lines)) <= columns
    assert any(line.startswith("errors ") for line in lines)


async def test_ctrl_c_ends_it_at_once_without_a_traceback(tmp_path: Path) -> None:
    silent = Silent("vllm", "gpt-oss-20b")
    async with configured(tmp_path, silent) as file:
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            "jane",
            "-c",
            str(file),
            "--json",
            env=ENV,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            preexec_fn=_hears_ctrl_c,
        )
        async with asyncio.timeout(20):
            while not silent.asked:
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGINT)
            out, err = await process.communicate()
    assert process.returncode == 130
    assert (out, b"Traceback" in err) == (b"", False)
    assert err.decode().splitlines()[-1] == "preflight: interrupted; nothing was changed anywhere."


def _hears_ctrl_c() -> None:
    """As at a terminal: what a shell starts in the background ignores it, and hands that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _last(text: str) -> str:
    """The last paragraph, as one line."""
    return " ".join(text.strip().split("\n\n")[-1].split())
