"""`crossfade explain` as a person reads it, from a file and from a pipe; that it chooses as the router does is in test_routing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router.cli import build
from tests.running import config_for

CALL = '{"model":"jane","user":"someone","messages":[{"role":"user","content":"hi"}]}'
CONFIG = config_for(
    {"a": "http://127.0.0.1:1", "b": "http://127.0.0.1:2"},
    "split: {a: 0.5, b: 0.5}\nstick_by: [user]\nrules: [{when: {header: {x-canary: always}}, use: b}]",
)


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "crossfade.yaml"
    file.write_text(CONFIG)
    return str(file)


def test_it_says_who_is_tried_in_which_order_and_why(config: str) -> None:
    result = CliRunner().invoke(build(), ["explain", "-c", config, "-r", "-"], input=CALL)
    first, second, caller = result.stdout.splitlines()
    assert result.exit_code == 0
    assert first[:5] in ("1. a:", "1. b:") and "by the split (user)" in first
    assert second[:5] in ("2. a:", "2. b:") and "fallback" in second
    assert "user = someone" in caller


def test_headers_count_where_the_file_gives_them(config: str, tmp_path: Path) -> None:
    request = tmp_path / "request.json"
    request.write_text(f'{{"headers":{{"X-Canary":"always"}},"body":{CALL}}}')
    result = CliRunner().invoke(build(), ["explain", "-c", config, "-r", str(request)])
    assert result.exit_code == 0 and result.stdout.startswith("1. b: a rule applies (header: ")


def test_a_call_that_would_be_refused_is_a_no_and_a_missing_file_is_wrong_usage(config: str, tmp_path: Path) -> None:
    refused = CliRunner().invoke(
        build(), ["explain", "-c", config, "-r", "-"], input='{"model":"other","messages":[{"role":"user"}]}'
    )
    assert refused.exit_code == 1 and "'other' is not configured" in refused.stderr
    missing = CliRunner().invoke(build(), ["explain", "-c", config, "-r", str(tmp_path / "nothing.json")])
    assert missing.exit_code == 2 and "Traceback" not in missing.output + missing.stderr


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ('{"model":"other","messages":[{"role":"user"}]}', "'other' is not configured"),
        ('{"body":' + "[" * 200_000, "nests deeper than 64 levels"),
        ("", "the body is empty"),
    ],
    ids=["an unknown model", "brackets without end", "nothing"],
)
def test_a_no_is_one_json_document_too(config: str, call: str, said: str) -> None:
    result = CliRunner().invoke(build(), ["explain", "-c", config, "-r", "-", "--json"], input=call)
    assert result.exit_code == 1 and result.exception.__class__ is SystemExit
    document = json.loads(result.stdout)
    assert said in document["error"] and document["candidates"] == []


def test_a_bad_configuration_is_one_json_document_too(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nothing.yaml")
    result = CliRunner().invoke(build(), ["explain", "-c", nowhere, "-r", "-", "--json"], input=CALL)
    assert result.exit_code == 1 and "cannot be read" in json.loads(result.stdout)["error"]


ABLE = """
backends:
  a: {kind: lmstudio, url: "http://127.0.0.1:1"}
  b: {kind: vllm, url: "http://127.0.0.1:2"}
models:
  jane: {on: {a: x, b: {name: y, can: {logprobs: false}, context_tokens: 100}}, split: {a: 1.0}}
"""


@pytest.fixture
def able(tmp_path: Path) -> str:
    file = tmp_path / "crossfade.yaml"
    file.write_text(ABLE)
    return str(file)


def test_it_says_what_a_backend_lacks_by_its_kind_and_by_the_configuration(able: str) -> None:
    asked = CALL[:-1] + ',"n":2}'
    result = CliRunner().invoke(build(), ["explain", "-c", able, "-r", "-"], input=asked)
    assert result.exit_code == 0 and result.stdout.splitlines() == [
        "1. b: next in the fallback order",
        "-  a was passed over: it lacks what the call needs: n",
    ]
    document = json.loads(CliRunner().invoke(build(), ["explain", "-c", able, "-r", "-", "--json"], input=asked).stdout)
    assert document["passed_over"] == [{"backend": "a", "reason": "incapable", "lacking": ["n"]}]


def test_a_context_that_the_configuration_names_counts(able: str) -> None:
    asked = CALL[:-1] + f',"x":"{"x" * 800}"}}'
    result = CliRunner().invoke(build(), ["explain", "-c", able, "-r", "-"], input=asked)
    assert result.stdout.splitlines() == [
        "1. a: by the split",
        "-  b was passed over: the prompt is too long for its context",
    ]


def test_where_nobody_can_it_says_so_what_the_client_would_hear_and_that_the_answer_is_no(able: str) -> None:
    asked = CALL[:-1] + ',"n":2,"logprobs":true}'
    result = CliRunner().invoke(build(), ["explain", "-c", able, "-r", "-"], input=asked)
    assert result.exit_code == 1 and result.stderr.splitlines() == [
        "No backend can answer this call.",
        "-  a was passed over: it lacks what the call needs: logprobs, n",
        "-  b was passed over: it lacks what the call needs: logprobs",
        "The request would be answered with an error: "
        "The model `jane` cannot do all that this call asks for: `logprobs` and so many choices (`n`).",
    ]
    document = json.loads(CliRunner().invoke(build(), ["explain", "-c", able, "-r", "-", "--json"], input=asked).stdout)
    assert document["candidates"] == [] and "cannot do all" in document["error"] and len(document["passed_over"]) == 2
