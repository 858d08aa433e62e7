"""What the documents say is what there is: commands, configurations, files, links, tables; and the README's commands are CI's."""

from __future__ import annotations

import ast
import os
import random
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from functools import wraps
from importlib import import_module
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from backends.pool import IDLE_S
from policies.outcome import OUTCOMES
from router.app import FASTAPI_PATHS
from router.building import build_fleet
from router.cli import build
from router.config import Config, ConfigInvalid, Timeouts, loads
from router.config.pending import PENDING
from router.edge import BODY_TIMEOUT_S, HEAD_TIMEOUT_S, KEEP_ALIVE_S, SLOW_CLIENT_S
from router.endpoints import KINDS
from router.gate import Gate
from router.metrics import Metrics, exposition
from router.paths import HELD, MODELS, RESPONSES
from tests.documents import (
    FRAME,
    anchors,
    blocks,
    command_lines,
    configurations,
    links,
    of_program,
    section,
    spans,
    table,
)
from tests.structure import read_tree

ROOT = Path(__file__).parents[1]
DOCUMENTS = {str(file.relative_to(ROOT)): file.read_text() for file in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]}
README = DOCUMENTS["README.md"]
ARCHITECTURE = DOCUMENTS["docs/architecture.md"]
HTTP = DOCUMENTS["docs/http.md"]
ROUTER = read_tree(ROOT, "router")
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
FOLDERS = r"(?:router|backends|policies|tests|bench|configs|docs)"

COMMANDS = [
    pytest.param(line, id=f"{name}: {' '.join(line)}")
    for name, text in DOCUMENTS.items()
    for line in of_program(command_lines(text), "crossfade")
]
CONFIGURATIONS = [
    pytest.param(text, id=f"{name}, number {number}")
    for name, markdown in DOCUMENTS.items()
    for number, text in enumerate(configurations(markdown), 1)
]


def commands() -> dict[str, Callable[..., None]]:
    """The commands of `crossfade` by name."""
    return {info.callback.__name__: info.callback for info in build().registered_commands if info.callback is not None}


def usage_fault(args: list[str]) -> str:
    """What is wrong with a command line, "" if nothing: read by the same options, with nothing behind them."""
    twin = typer.Typer()
    for command in commands().values():
        twin.command()(wraps(command)(lambda **_: None))
    result = CliRunner().invoke(twin, args)
    return result.output if result.exit_code else ""


# Commands


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_line_in_the_documents_is_one(line: list[str]) -> None:
    assert usage_fault(line) == ""


@pytest.mark.parametrize("line", ["shift jane vllm=0.5", "serve --colour", "check a.yaml b.yaml", "demo --port zero"])
def test_a_command_line_that_is_none_is_noticed(line: str) -> None:
    assert "Usage" in usage_fault(line.split())


def test_every_command_is_in_the_documents() -> None:
    lines = (line for text in DOCUMENTS.values() for line in of_program(command_lines(text), "crossfade"))
    assert {line[0] for line in lines} == set(commands())


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_make_command_in_the_documents_has_its_target(name: str) -> None:
    asked = {word for line in of_program(command_lines(DOCUMENTS[name]), "make") for word in line if "=" not in word}
    assert asked <= TARGETS
    given = {word.partition("=")[0] for line in of_program(command_lines(DOCUMENTS[name]), "make") for word in line[1:]}
    assert given <= set(re.findall(r"^([A-Z]+) \?=", MAKEFILE, re.MULTILINE))


def test_the_two_commands_of_the_readme_are_the_ones_that_ci_runs() -> None:
    assert command_lines(section(README, "## Two commands"))[:2] == [["make", "run"], ["make", "test"]]
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "exec make test"


def test_make_test_checks_style_and_types_and_leaves_no_test_out() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    dry = subprocess.run(["make", "-n", "test"], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    lines = dry.stdout.splitlines()
    assert [line.partition("-m pytest ")[2] for line in lines if "-m pytest" in line] == ['-m "not vllm"', "-m vllm"]
    for tool in ("ruff check .", "ruff format --check .", "mypy"):
        assert any(line.endswith(tool) for line in lines)


def test_no_target_of_make_is_mistaken_for_a_file() -> None:
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == TARGETS


def test_the_extras_that_make_installs_are_declared() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"'\.\[(\w+)\]'", MAKEFILE)) == set(extras)


# Configurations


@pytest.mark.parametrize("text", CONFIGURATIONS)
def test_every_configuration_in_the_documents_is_valid(text: str) -> None:
    loads(text, {})


def test_a_wrong_key_in_a_fragment_is_noticed() -> None:
    (wrong,) = configurations("```yaml\nmodels:\n  jane:\n    splits: {vllm: 1.0}\n```\n")
    with pytest.raises(ConfigInvalid, match="splits"):
        loads(wrong, {})


def test_a_whole_configuration_gets_no_help_from_the_frame() -> None:
    text = "```yaml\nbackends: {lmstudio: {url: http://a}}\nmodels: {jane: {on: {lmstudio: a}, split: {lmstudio: 1}}}\n```\n"
    (wrong,) = configurations(text)
    with pytest.raises(ConfigInvalid, match="kind"):
        loads(wrong, {})


def test_the_keys_that_are_said_to_have_no_effect_are_those() -> None:
    rows = table(section(DOCUMENTS["docs/configuration.md"], "## Not in effect in this version"))
    assert rows == [[f"`{pending.key}`", pending.instead] for pending in PENDING]


# Names, numbers, links


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_that_a_document_names_is_there(name: str) -> None:
    named = set(re.findall(rf"(?<![\w./-]){FOLDERS}/[\w./*-]*\w", DOCUMENTS[name]))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_somewhere(name: str) -> None:
    here = ROOT / name
    for file, anchor in links(DOCUMENTS[name]):
        target = (here.parent / file).resolve() if file else here
        assert target.exists(), file
        if anchor:
            assert anchor in anchors(target.read_text()), anchor


def test_every_object_that_the_architecture_names_is_there() -> None:
    dotted = [
        span.removesuffix("()")
        for span in spans(ARCHITECTURE)
        if re.fullmatch(r"(router|backends|policies)(\.\w+)+(\(\))?", span)
    ]
    assert dotted
    for name in dotted:
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(module), attribute), name


def test_the_table_of_outcomes_is_the_one_that_decides() -> None:
    rows = table(section(ARCHITECTURE, "## What an outcome means"))
    said = {row[0].strip("`"): (row[2] == "yes", row[3] == "yes") for row in rows}
    assert said == {kind.value: (meant.retryable, meant.counts_against_backend) for kind, meant in OUTCOMES.items()}


def test_the_table_of_time_limits_has_the_defaults() -> None:
    server = Config.model_validate(FRAME).server
    defaults = {**Timeouts().model_dump(), "queue_wait_s": server.queue_wait_s, "drain_s": server.drain_s}
    constants = {
        "a connection to a backend": [IDLE_S],
        "a client's connection": [KEEP_ALIVE_S],
        "a request's head, its body": [HEAD_TIMEOUT_S, BODY_TIMEOUT_S],
        "a client that is slow": [SLOW_CLIENT_S],
    }
    rows = table(section(ARCHITECTURE, "## Time limits"))
    said = {row[0]: [float(number) for number in re.findall(r"([\d.]+) s", row[2])] for row in rows}
    names = {limit: re.findall(r"(\w+_s)`", limit) for limit in said}
    assert said == {**{limit: [defaults[name] for name in names[limit]] for limit in said}, **constants}
    assert {name for each in names.values() for name in each} == set(defaults) - {"ping_after_s"}


def test_every_metric_that_the_readme_names_is_exposed() -> None:
    fleet = build_fleet(loads(configurations("```yaml\nserver: {}\n```\n")[0], {}).config, {}, random.Random(1))
    exposed = set(re.findall(r"# TYPE (\w+)", exposition(Metrics(), fleet, Gate(1, 1, 1)).decode()))
    named = {span for span in spans(README) if span.startswith("crossfade_")}
    assert named and named <= exposed


def test_the_codes_of_errors_are_all_documented_and_no_others() -> None:
    tables = (section(HTTP, heading) for heading in ("## Errors", "### Errors of the admin API"))
    said = {code for text in tables for row in table(text) for code in re.findall(r"`(\w+)`", row[1])}
    assert said == {code for text in ROUTER.values() for code in _codes(text)}


def _codes(text: str) -> Iterator[str]:
    """The code of every `Fault(status, message, type, code)` and `refused(status, code, …)`; one that is passed on has no name here."""
    places = {"Fault": 3, "refused": 1}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and (name := getattr(node.func, "id", "")) in places:
            code = node.args[places[name]]
            if isinstance(code, ast.Constant) and isinstance(code.value, str):
                yield code.value


def test_every_header_of_ours_is_documented_and_no_other() -> None:
    used = {name for text in ROUTER.values() for name in re.findall(r'"(x-crossfade-[a-z-]+)"', text)}
    assert set(re.findall(r"`(x-crossfade-[a-z-]+)", HTTP)) == used


def test_every_path_that_is_served_is_documented() -> None:
    named = {f"{RESPONSES}/{{id}}{rest.decode()}" for rest in HELD} | {f"{MODELS}/{{name}}"}
    served = {path.decode() for path in FASTAPI_PATHS} | set(KINDS) | {MODELS} | named
    assert set(re.findall(r"`(?:GET|POST|DELETE) (/[\w/{}]+)`", section(HTTP, "## Paths"))) == served


def test_the_readme_says_what_it_is_in_five_lines() -> None:
    head = README.partition("\n## ")[0].splitlines()[1:]
    assert len([line for line in head if line]) <= 5


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_block_of_a_document_is_closed_and_its_language_is_known(name: str) -> None:
    assert DOCUMENTS[name].count("\n```") == 2 * len(blocks(DOCUMENTS[name]))
    assert {block.language for block in blocks(DOCUMENTS[name])} <= {"", "js", "python", "sh", "ts", "yaml"}
