"""`${NAME}` and `${NAME:-default}`: what they become, and what is said where they become nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from router.config import ConfigInvalid, Loaded, Problem, loads
from router.config.scalars import interpreted, replaced

Load = Callable[..., Loaded]
Problems = Callable[..., tuple[Problem, ...]]
ENV = {"NAME": "value", "EMPTY": "", "PORT": "9000"}

TEXTS: dict[str, tuple[str, str]] = {
    "a variable": ("${NAME}", "value"),
    "a variable inside text": ("http://${NAME}:1", "http://value:1"),
    "two variables": ("${NAME}${NAME}", "valuevalue"),
    "a default that is not needed": ("${NAME:-x}", "value"),
    "a default for an unset variable": ("${NONE:-x y}", "x y"),
    "a default for an empty variable": ("${EMPTY:-x}", "x"),
    "an empty default": ("a${NONE:-}b", "ab"),
    "a default with a colon and a dash": ("${NONE:-http://a:-1}", "http://a:-1"),
    "an empty variable": ("${EMPTY}", ""),
    "an escaped one": ("$${NAME}", "${NAME}"),
    "a dollar alone": ("$NAME $ {", "$NAME $ {"),
}


@pytest.mark.parametrize(("text", "expected"), TEXTS.values(), ids=TEXTS.keys())
def test_what_a_reference_becomes(text: str, expected: str) -> None:
    outcome = replaced(text, ENV)
    assert (outcome.text, outcome.missing, outcome.malformed) == (expected, (), ())


@pytest.mark.parametrize("text", ["${}", "${1A}", "${NAME", "${NA ME}", "${NAME-x}", "${NAME:x}"])
def test_a_reference_that_names_no_variable(problems_with: Problems, text: str) -> None:
    [problem] = problems_with({"models/jane/on/vllm": text}, ENV)
    assert problem.key == "models.jane.on.vllm"
    assert "Write ${NAME} or ${NAME:-default}" in str(problem)


def test_a_missing_variable_is_one_problem_at_its_key(problems_with: Problems) -> None:
    [problem] = problems_with({"backends/lmstudio/url": "${LMSTUDIO_URL}"})
    assert str(problem) == (
        f"<text>:{problem.line}: backends.lmstudio.url needs the environment variable LMSTUDIO_URL, which is not set. "
        "Set LMSTUDIO_URL, or write a default: ${LMSTUDIO_URL:-value}."
    )


def test_every_missing_variable_is_told(problems_with: Problems) -> None:
    problems = problems_with({"backends/lmstudio/url": "${A}", "models/jane/on/vllm": "${B}", "server/port": "${C}"})
    assert [problem.key for problem in problems] == ["backends.lmstudio.url", "models.jane.on.vllm", "server.port"]


TYPED: dict[str, tuple[str, Mapping[str, str], object]] = {
    "a plain number": ("port: ${PORT:-8000}", {}, 8000),
    "a plain number of the environment": ("port: ${PORT:-8000}", {"PORT": "9000"}, 9000),
    "a number in quotes": ('port: "${PORT:-8000}"', {}, 8000),
    "nothing keeps the default": ("port: ${PORT:-}", {}, 8000),
    "null keeps the default": ("port: ${PORT}", {"PORT": "null"}, 8000),
}


@pytest.mark.parametrize(("line", "env", "expected"), TYPED.values(), ids=TYPED.keys())
def test_the_key_decides_the_type(line: str, env: Mapping[str, str], expected: object) -> None:
    text = f"""
server:
  {line}
backends: {{a: {{kind: vllm, url: http://x}}}}
models: {{m: {{on: {{a: "${{NAME:-123}}"}}, split: {{a: "${{SHARE:-1.0}}"}}}}}}
"""
    config = loads(text, env).config
    assert config.server.port == expected
    assert config.models["m"].on["a"].name == "123"
    assert config.models["m"].split == {"a": 1.0}


def test_free_values_from_the_environment_are_read_as_yaml(load_with: Load) -> None:
    sampling = {"temperature": "${T:-0.7}", "stop": ["${S:-end}"], "seed": "12", "x": {"y": "${Y:-true}"}}
    taken = load_with({"models/jane/sampling": sampling}).config.models["jane"].sampling
    assert taken == {"temperature": 0.7, "stop": ["end"], "seed": "12", "x": {"y": True}}


def test_a_variable_inside_braces_without_quotes_is_explained() -> None:
    with pytest.raises(ConfigInvalid) as caught:
        loads("backends:\n  a: {kind: vllm, url: ${VLLM_URL}}\n", {"VLLM_URL": "http://x"})
    [problem] = caught.value.problems
    assert problem.line == 2
    assert 'Inside { } put it in quotes: "${NAME:-default}".' in str(problem)


def test_a_variable_with_characters_that_are_no_text_is_refused(problems_with: Problems) -> None:
    [problem] = problems_with({"models/jane/on/vllm": "${BROKEN}"}, {"BROKEN": "a\udc80"})
    assert "not text" in str(problem)


SCALARS: list[tuple[str, object]] = [
    *((text, None) for text in ("", "~", "null", "NULL")),
    *((text, True) for text in ("true", "True")),
    ("false", False),
    *((text, text) for text in ("yes", "on", "2026-01-01", "1:30", "0o9", "1e", "1_000", "٣")),
    *((text, 8) for text in ("8", "+8", "008", "0o10", "0x8")),
    *((text, 0.5) for text in ("0.5", ".5", "5e-1")),
    (".inf", float("inf")),
    ("-.INF", float("-inf")),
]


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_plain_scalars_have_the_types_of_yaml_1_2(text: str, value: object) -> None:
    assert interpreted(text) == value
    assert type(interpreted(text)) is type(value)
