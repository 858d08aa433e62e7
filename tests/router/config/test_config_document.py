"""Files that are no configuration at all, or that mean harm: one sentence each, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.config import ConfigInvalid, Problem, load, loads

TAIL = "backends: {a: {kind: vllm, url: http://x}}\nmodels: {m: {on: {a: x}, split: {a: 1}}}\n"


def problems_of(text: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigInvalid) as caught:
        loads(text, {}, "f.yaml")
    return caught.value.problems


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)

# text, line, words
REFUSED: dict[str, tuple[str, int, str]] = {
    "nothing": ("", 0, "The file is empty."),
    "only a comment": ("# nothing\n", 0, "The file is empty."),
    "only null": ("~", 1, "The file holds"),
    "a list": ("- a\n", 1, "The file holds a list, not keys."),
    "a word": ("hello", 1, 'The file holds "hello", not keys.'),
    "a bracket that stays open": ("backends: [\n", 2, "This is not YAML"),
    "a tab as indentation": ("server:\n\tport: 1\n", 2, "Indent with spaces, not with tabs."),
    "a second document": (TAIL + "---\n" + TAIL, 3, "A second YAML document begins here."),
    "a tag": ("server: !!python/object:os.system {}\n" + TAIL, 1, "is not allowed"),
    "a harmless tag": ("server: {port: !!int 8}\n" + TAIL, 1, "is not allowed"),
    "an alias without its anchor": ("server: *x\n", 1, "has no anchor above it"),
    "an alias inside what it repeats": ("server: &x [*x]\n", 1, "stands inside what it repeats"),
    "a billion laughs": (LAUGHS, 5, "aliases make the file too large"),
    "a file that is nested too deep": ("[" * 100_000, 1, "Nested deeper than 24 levels."),
    "a file over 1 MiB": ("#" * (1 << 20) + "\n" + TAIL, 0, "larger than 1048576 bytes"),
    "an escape beyond Unicode": ('a: "\\UFFFFFFFF"', 0, "This is not YAML"),
    "a control character": ("a: \x01", 0, "This is not YAML"),
}


@pytest.mark.parametrize(("text", "line", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_a_text_that_is_no_configuration_is_one_problem(text: str, line: int, words: str) -> None:
    [problem] = problems_of(text)
    assert words in str(problem)
    assert problem.line == line
    assert problem.remedy


def test_a_key_that_stands_twice_is_told_with_both_lines() -> None:
    [problem] = problems_of("server:\n  port: 1\n  host: 127.0.0.1\n  port: 2\n" + TAIL)
    assert str(problem) == ("f.yaml:4: server.port stands twice: on line 2 and on line 4. Keep one of the two.")


def test_all_keys_that_stand_twice_are_told() -> None:
    assert [problem.key for problem in problems_of("store:\nserver: {port: 1, port: 2}\nstore:\n" + TAIL)] == [
        "server.port",
        "store",
    ]


def test_a_key_that_is_no_text_is_told() -> None:
    [problem] = problems_of("server: {[a]: 1}\n" + TAIL)
    assert problem.key == "server" and "has a key that is not text" in str(problem)


@pytest.mark.parametrize("text", ['"a\\0"', '"\\ud800"'], ids=["NUL", "half a character"])
def test_characters_that_are_no_text_are_told(text: str) -> None:
    problems = problems_of(f"server: {{host: {text}}}\n" + TAIL)
    assert problems[0].key == "server.host" and "not text" in str(problems[0])


def test_anchors_aliases_and_merges_work_and_own_keys_win() -> None:
    config = loads(
        "backends:\n"
        "  a: &a {kind: vllm, url: http://a, max_in_flight: 4}\n"
        "  b: {<<: *a, url: http://b}\n"
        "models: {m: {on: {a: x, b: x}, split: {a: 1}}}\n",
        {},
    ).config
    assert config.backends["b"].urls == ("http://b",)
    assert config.backends["b"].max_in_flight == 4


def test_a_merge_of_something_else_is_told() -> None:
    [problem] = problems_of("server: {<<: 5}\n" + TAIL)
    assert "Merge only mappings" in str(problem)


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (b"a: 1\nb: \xff\n", 2, "not UTF-8"),
        (b"#" * (1 << 21), 0, "larger than"),
        (b"\xef\xbb\xbf" + TAIL.encode(), None, ""),
    ],
    ids=["a byte that is no text", "a file of 2 MiB", "a byte order mark is fine"],
)
def test_the_bytes_of_a_file(tmp_path: Path, content: bytes, line: int | None, words: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(content)
    if line is None:
        load(file, {})
        return
    with pytest.raises(ConfigInvalid, match=words) as caught:
        load(file, {})
    assert caught.value.problems[0].line == line


@pytest.mark.parametrize("name", ["missing.yaml", ".", "a\0b"], ids=["missing", "a folder", "NUL in its name"])
def test_a_file_that_cannot_be_read_is_one_problem(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load(tmp_path / name, {})
    [problem] = caught.value.problems
    assert "The file cannot be read" in str(problem) and problem.line == 0
