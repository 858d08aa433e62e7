"""The commands check and schema: what they print, and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from router.cli.check import check
from router.cli.schema import schema
from router.config.schema import json_schema, markdown

VALID = "backends: {a: {kind: vllm, url: http://x}}\nmodels: {m: {on: {a: x}, split: {a: 1}}}\n"
INVALID = VALID.replace("a: 1", "a: 0.5") + "servr: {}\n"


def run(*args: str, env: dict[str, str] | None = None) -> Result:
    app = typer.Typer()
    app.command()(check)
    app.command()(schema)
    return CliRunner().invoke(app, list(args), env={"CROSSFADE_CONFIG": None, "CROSSFADE_KEYS": None, **(env or {})})


@pytest.fixture
def valid(tmp_path: Path) -> Path:
    file = tmp_path / "valid.yaml"
    file.write_text(VALID)
    return file


@pytest.fixture
def invalid(tmp_path: Path) -> Path:
    file = tmp_path / "invalid.yaml"
    file.write_text(INVALID)
    return file


def test_a_valid_file_is_said_to_be_valid(valid: Path) -> None:
    result = run("check", str(valid))
    assert (result.exit_code, result.stdout) == (0, f"{valid} is valid: 1 backend, 1 model.\n")


def test_notices_come_before_the_summary(valid: Path) -> None:
    valid.write_text(VALID + "store: {keep_days: 3}\n")
    lines = run("check", str(valid)).stdout.splitlines()
    assert lines[0].startswith(f"{valid}:3: store.keep_days is not in effect in this version.")
    assert lines[1] == f"{valid} is valid: 1 backend, 1 model."


def test_an_invalid_file_is_told_problem_by_problem_and_ends_with_1(invalid: Path) -> None:
    result = run("check", str(invalid))
    lines = result.stdout.splitlines()
    assert result.exit_code == 1
    assert lines[0] == (f"{invalid}:2: models.m.split sums to 0.5; shares must sum to 1. Raise one of them by 0.5.")
    assert lines[1] == f"{invalid}:3: servr is not a key of the configuration. Did you mean `server`?"
    assert lines[2] == f"{invalid} is not valid: 2 problems."
    assert "Traceback" not in result.output


def test_a_missing_file_ends_with_1_and_one_sentence(tmp_path: Path) -> None:
    result = run("check", str(tmp_path / "none.yaml"))
    assert result.exit_code == 1
    assert "The file cannot be read: No such file or directory." in result.stdout


def test_json_is_one_document_either_way(valid: Path, invalid: Path) -> None:
    good, bad = run("check", "--json", str(valid)), run("check", "--json", str(invalid))
    assert good.exit_code == 0
    assert json.loads(good.stdout) == {
        "file": str(valid),
        "valid": True,
        "backends": ["a"],
        "models": ["m"],
        "problems": [],
        "notices": [],
    }
    assert bad.exit_code == 1
    assert [problem["key"] for problem in json.loads(bad.stdout)["problems"]] == ["models.m.split", "servr"]


def test_the_file_is_taken_from_the_argument_then_the_option_then_the_environment(valid: Path, invalid: Path) -> None:
    assert run("check", str(valid), env={"CROSSFADE_CONFIG": str(invalid)}).exit_code == 0
    assert run("check", "-c", str(valid), env={"CROSSFADE_CONFIG": str(invalid)}).exit_code == 0
    assert run("check", env={"CROSSFADE_CONFIG": str(invalid)}).exit_code == 1


def test_without_any_name_the_file_is_crossfade_yaml(valid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(valid.parent)
    valid.rename(valid.parent / "crossfade.yaml")
    assert run("check").stdout == "crossfade.yaml is valid: 1 backend, 1 model.\n"


def test_keys_are_looked_for_in_the_environment_of_the_command(valid: Path) -> None:
    valid.write_text(VALID + "server: {host: 0.0.0.0}\n")
    assert run("check", str(valid)).exit_code == 1
    assert run("check", str(valid), env={"CROSSFADE_KEYS": "k"}).exit_code == 0


def test_the_schema_is_one_json_document() -> None:
    for args in (["schema"], ["schema", "--json"]):
        result = run(*args)
        assert result.exit_code == 0
        assert json.loads(result.stdout) == json_schema()


def test_the_schema_as_tables() -> None:
    assert run("schema", "--markdown").stdout == markdown()


def test_two_formats_at_once_are_wrong_usage() -> None:
    assert run("schema", "--markdown", "--json").exit_code == 2
