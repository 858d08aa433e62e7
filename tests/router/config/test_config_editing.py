"""Editing one split in a file: those shares change, and not a character elsewhere; what cannot be edited is refused and left as it was."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from router.config.editing import NotEditable, check_editable, with_split, write_split

FILE = """\
# Our file. Don't touch the   odd spacing.
server: {port:   8000}   # why not
backends:
    lmstudio: {kind: lmstudio, url: "${LM_URL:-http://127.0.0.1:1234}"}
    vllm: {kind: vllm, url: 'http://127.0.0.1:8001'}
    cloud: {kind: openai, url: "http://127.0.0.1:8002"}
models:
  jane:
    on: {lmstudio: a, vllm: b,
         cloud: c}
    split: {lmstudio: 0.95, vllm: 0.05}   # since Monday
  john:
    on: {lmstudio: a, vllm: b}
    split:
      # the baseline
      lmstudio: 0.9   # stays for now
      vllm: 1e-1
    # below
    stick_by: []
"""
JANE = "{lmstudio: 0.95, vllm: 0.05}"


def test_only_the_shares_change_in_a_split_on_one_line() -> None:
    assert with_split(FILE, "jane", {"lmstudio": 0.75, "vllm": 0.25}) == FILE.replace(
        JANE, "{lmstudio: 0.75, vllm: 0.25}"
    )


def test_only_the_shares_change_in_a_split_on_several_lines_and_its_comments_stay() -> None:
    after = with_split(FILE, "john", {"lmstudio": 0.5, "vllm": 0.5})
    assert after == FILE.replace("lmstudio: 0.9   #", "lmstudio: 0.5   #").replace("vllm: 1e-1", "vllm: 0.5")


def test_shares_that_are_the_same_number_keep_how_they_are_written() -> None:
    assert with_split(FILE, "john", {"lmstudio": 0.9, "vllm": 0.1}) == FILE


@pytest.mark.parametrize(
    ("model", "before", "after"),
    [
        pytest.param("jane", JANE, "{lmstudio: 0.7, vllm: 0.05, cloud: 0.25}", id="on one line -> behind the last one"),
        pytest.param(
            "john",
            "lmstudio: 0.9   # stays for now\n      vllm: 1e-1",
            "lmstudio: 0.7   # stays for now\n      vllm: 0.05\n      cloud: 0.25",
            id="on several lines -> a line of its own",
        ),
    ],
)
def test_a_backend_that_had_no_share_is_added(model: str, before: str, after: str) -> None:
    split = {"lmstudio": 0.7, "vllm": 0.05, "cloud": 0.25}
    assert with_split(FILE, model, split) == FILE.replace(before, after)


@pytest.mark.parametrize(
    ("model", "before", "after"),
    [
        pytest.param("jane", JANE, "{vllm: 1.0}", id="the first on one line"),
        pytest.param("john", "      lmstudio: 0.9   # stays for now\n      vllm: 1e-1", "      vllm: 1.0", id="a line"),
    ],
)
def test_a_backend_without_a_share_in_the_running_state_is_taken_out(model: str, before: str, after: str) -> None:
    assert with_split(FILE, model, {"vllm": 1.0}) == FILE.replace(before, after)


@pytest.mark.parametrize(
    ("model", "before", "after"),
    [
        pytest.param("jane", JANE, "{lmstudio: 0.0, vllm: 0.0, cloud: 1.0}", id="on one line"),
        pytest.param("john", "vllm: 1e-1", "vllm: 0.0\n      cloud: 1.0", id="on several lines"),
    ],
)
def test_where_no_backend_of_the_file_has_a_share_any_more_they_stay_with_none(
    model: str, before: str, after: str
) -> None:
    expected = FILE.replace(before, after).replace("0.9   #", "0.0   #" if model == "john" else "0.9   #")
    assert with_split(FILE, model, {"cloud": 1.0}) == expected


def test_a_split_that_names_nobody_is_refused() -> None:
    with pytest.raises(NotEditable, match=r"the split on line 1 names no backend; edit it by hand\."):
        with_split("models: {jane: {split: {}}}", "jane", {"a": 1.0})


def test_the_last_one_on_one_line_is_taken_out_with_the_comma_before_it() -> None:
    assert with_split(FILE, "jane", {"lmstudio": 1.0}) == FILE.replace(JANE, "{lmstudio: 1.0}")


def test_a_file_of_windows_keeps_its_line_ends_and_its_mark() -> None:
    text = "\ufeff" + FILE.replace("\n", "\r\n")
    after = with_split(text, "john", {"lmstudio": 0.5, "vllm": 0.25, "cloud": 0.25})
    assert after.replace("\r\n", "\n") == "\ufeff" + FILE.replace("lmstudio: 0.9 ", "lmstudio: 0.5 ").replace(
        "vllm: 1e-1", "vllm: 0.25\n      cloud: 0.25"
    )
    assert after.count("\n") == after.count("\r\n")
    assert with_split(text, "john", {"vllm": 1.0}).count("\n") == with_split(text, "john", {"vllm": 1.0}).count("\r\n")


def test_a_file_of_json_stays_json() -> None:
    text = '{"backends": {}, "models": {"jane": {"split": {"a": 0.5, "b": 0.5}}}}'
    assert with_split(text, "jane", {"a": 0.5, "b": 0.25, "c": 0.25}) == text.replace(
        '"b": 0.5', '"b": 0.25, "c": 0.25'
    )


REFUSED = {
    "an alias": ("x: &usual {a: 1}\nmodels: {jane: {split: *usual}}", "(*usual on line 2)"),
    "an anchor that another model uses": (
        "models:\n  jane:\n    split: &usual {a: 1}\n  john: {split: *usual}",
        "(&usual on line 3)",
    ),
    "a model that is another one's": ("models:\n  jane: &m {split: {a: 1}}\n  john: *m", "(&m on line 2)"),
    "a share that is an alias": ("x: &half 0.5\nmodels: {jane: {split: {a: *half, b: 0.5}}}", "(*half on line 2)"),
}


@pytest.mark.parametrize(("text", "place"), REFUSED.values(), ids=REFUSED)
def test_what_is_shared_is_refused(text: str, place: str) -> None:
    with pytest.raises(NotEditable) as caught:
        with_split(text, "jane", {"a": 0.5, "b": 0.5})
    assert str(caught.value) == (
        f"models.jane.split is shared with other parts of the file {place}; write it out, then repeat."
    )


def test_what_comes_from_a_merge_is_refused() -> None:
    text = "x: &usual {split: {a: 1}}\nmodels: {jane: {<<: *usual}}"
    with pytest.raises(NotEditable, match=r"models.jane.split comes from elsewhere in the file \(<<\); write it out"):
        with_split(text, "jane", {"a": 1.0})


def test_a_merge_inside_the_split_is_refused() -> None:
    text = "x: &usual {a: 1}\nmodels: {jane: {split: {<<: *usual}}}"
    with pytest.raises(NotEditable, match=r"models.jane.split is shared with other parts of the file \(\*usual"):
        with_split(text, "jane", {"a": 1.0})


def test_a_share_from_the_environment_is_refused() -> None:
    text = "models: {jane: {split: {a: '${A_SHARE:-0.5}', b: 0.5}}}"
    with pytest.raises(NotEditable) as caught:
        with_split(text, "jane", {"a": 0.5, "b": 0.5})
    assert str(caught.value) == (
        "models.jane.split takes a value from the environment (${A_SHARE:-0.5}); change it there."
    )


def test_a_model_that_is_not_in_the_file_is_refused() -> None:
    with pytest.raises(NotEditable, match=r"the file has no models\.jack\.split; add it by hand\."):
        with_split(FILE, "jack", {"a": 1.0})


def test_a_layout_that_is_not_understood_is_refused_and_never_guessed_at() -> None:
    text = "models:\n  jane:\n    split: {? a\n      : 0.5, b: 0.5, ? c}\n"
    with pytest.raises(NotEditable, match=r"models\.jane\.split is written in a way that cannot be edited"):
        with_split(text, "jane", {"a": 0.5, "b": 0.25, "c": 0.25})


def test_a_written_file_keeps_its_mode_and_a_link_to_it_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real.yaml", tmp_path / "link.yaml"
    real.write_text(FILE)
    real.chmod(0o640)
    link.symlink_to(real)
    write_split(link, "jane", {"lmstudio": 0.75, "vllm": 0.25})
    assert link.is_symlink() and "{lmstudio: 0.75, vllm: 0.25}" in real.read_text()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link.yaml", "real.yaml"]


def test_a_file_in_a_folder_that_cannot_be_written_is_refused_beforehand(tmp_path: Path) -> None:
    file = tmp_path / "crossfade.yaml"
    refused = pytest.raises(NotEditable, match="cannot be written: you may not write it, or not into its folder")
    with only_to_be_read(tmp_path, lambda: file.write_text(FILE)), refused:
        check_editable(file, "jane", {"vllm": 0.5})


@contextmanager
def only_to_be_read(folder: Path, fill: Callable[[], object]) -> Iterator[None]:
    """A folder that nobody may write into once it is filled: rights stop everybody but root, who needs a disk for it."""
    if os.geteuid() != 0:
        fill()
        folder.chmod(0o500)
        yield
        folder.chmod(0o700)
        return
    subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
    try:
        fill()
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_file_that_is_not_there_is_refused_beforehand(tmp_path: Path) -> None:
    with pytest.raises(NotEditable, match=r"none\.yaml cannot be read: No such file or directory\."):
        check_editable(tmp_path / "none.yaml", "jane", {"vllm": 0.5})


def test_checking_beforehand_does_not_touch_the_file(tmp_path: Path) -> None:
    file = tmp_path / "crossfade.yaml"
    file.write_text(FILE)
    check_editable(file, "jane", {"vllm": 0.5, "cloud": 0.5})
    assert file.read_text() == FILE
