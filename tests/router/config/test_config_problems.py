"""Each thing that can be wrong between the keys of a configuration: one problem, its key, its words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from router.config import Problem

Problems = Callable[..., tuple[Problem, ...]]
GONE = "<gone>"
JANE = "models/jane/"
SHADOW = {"to": "vllm", "share": 0.1}
ROLLOUT = {"baseline": "lmstudio", "candidate": "vllm"}

# what is changed, the key of the problem, what its sentence and its remedy say
WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    # names
    "an unknown key near a known one -> the known one": (
        {JANE + "fallbak": []},
        "models.jane.fallbak",
        "Did you mean `fallback`?",
    ),
    "a key at the wrong place -> where it belongs": (
        {JANE + "drain_s": 3},
        "models.jane.drain_s",
        "It belongs at server.drain_s.",
    ),
    "a key like no other -> the known ones": ({"zzz": 3}, "zzz", "known here are server, store, backends, models"),
    "an unknown top-level section": ({"model": {}}, "model", "Did you mean `models`?"),
    "a model on a backend that is not there": (
        {JANE + "on": {"vlm": "x"}},
        "models.jane.on.vlm",
        "Did you mean `vllm`?",
    ),
    "a split with a backend that is not in on": (
        {JANE + "split": {"lmstudio": 1.0, "cloud": 0}},
        "models.jane.split.cloud",
        "which is not in this model's `on`. Name one of lmstudio, vllm",
    ),
    "a fallback to a backend that is not in on": (
        {JANE + "fallback": ["vlllm"]},
        "models.jane.fallback[0]",
        "Did you mean `vllm`?",
    ),
    "a fallback that names one twice": (
        {JANE + "fallback": ["vllm", "vllm"]},
        "models.jane.fallback",
        "names 'vllm' twice",
    ),
    "a rule for a backend that is not in on": (
        {JANE + "rules": [{"when": {"tools": True}, "use": "nope"}]},
        "models.jane.rules[0].use",
        "names the backend 'nope'",
    ),
    "a shadow to a backend that is not in on": (
        {JANE + "shadow": {**SHADOW, "to": "x"}},
        "models.jane.shadow.to",
        "'x'",
    ),
    "a rollout from a backend that is not in on": (
        {JANE + "rollout": {**ROLLOUT, "baseline": "x"}},
        "models.jane.rollout.baseline",
        "'x'",
    ),
    "a rollout to a backend that is not in on": (
        {JANE + "rollout": {**ROLLOUT, "candidate": "x"}},
        "models.jane.rollout.candidate",
        "'x'",
    ),
    "a backend whose name no header can carry": (
        {"backends/a b": {"kind": "vllm", "url": "http://x"}},
        'backends."a b"',
        "cannot name a backend",
    ),
    "a model name with a control character": (
        {"models/a\tb": {"on": {"vllm": "m"}, "split": {"vllm": 1}}},
        'models."a\\tb"',
        "cannot name",
    ),
    "a model name of 201 characters": (
        {f"models/{'x' * 201}": {"on": {"vllm": "m"}, "split": {"vllm": 1}}},
        f"models.{'x' * 201}",
        "cannot name a model",
    ),
    # shares
    "shares that sum to less than 1": (
        {JANE + "split": {"lmstudio": 0.95, "vllm": 0.02}},
        "models.jane.split",
        "models.jane.split sums to 0.97; shares must sum to 1. Raise one of them by 0.03.",
    ),
    "shares that sum to more than 1": (
        {JANE + "split": {"lmstudio": 1, "vllm": 0.25}},
        "models.jane.split",
        "Lower one of them by 0.25.",
    ),
    "percent instead of a share": ({JANE + "split/vllm": 5}, "models.jane.split.vllm", "5 % is 0.05"),
    "a negative share": ({JANE + "split/vllm": -0.1}, "models.jane.split.vllm", "must be at least 0"),
    "a share that is true": ({JANE + "split": {"vllm": True}}, "models.jane.split.vllm", "a number is needed"),
    # what must be there
    "no backends": ({"backends": GONE}, "backends", "is missing. Add backends: Servers that can answer calls"),
    "an empty mapping of backends": (
        {"backends": {}, "models/jane/on": {}},
        "backends",
        "at least one entry is needed",
    ),
    "no models": ({"models": GONE}, "models", "is missing"),
    "a model without on": ({JANE + "on": GONE}, "models.jane.on", "is missing"),
    "a model without split": ({JANE + "split": GONE}, "models.jane.split", "is missing"),
    "a model whose split is left empty": ({JANE + "split": None}, "models.jane.split", "is missing"),
    "a backend without kind": ({"backends/vllm/kind": GONE}, "backends.vllm.kind", "is missing"),
    "a backend without an address": ({"backends/lmstudio/url": GONE}, "backends.lmstudio", "has no address. Add url"),
    # backends
    "url and urls": ({"backends/vllm/url": "http://x:1"}, "backends.vllm.urls", "Keep one of the two"),
    "the same replica twice": (
        {"backends/vllm/urls": ["http://x:1", "http://x:1/v1"]},
        "backends.vllm.urls",
        "names 'http://x:1' twice",
    ),
    "an unknown kind": ({"backends/vllm/kind": "vlm"}, "backends.vllm.kind", "Did you mean `vllm`?"),
    "litellm without a provider": ({"backends/vllm": {"kind": "litellm"}}, "backends.vllm", "has no provider"),
    "litellm with an address": (
        {"backends/vllm": {"kind": "litellm", "provider": "openai", "url": "http://x"}},
        "backends.vllm.url",
        "no meaning for kind litellm",
    ),
    "a provider for another kind": (
        {"backends/vllm/provider": "openai"},
        "backends.vllm.provider",
        "for kind litellm only",
    ),
    "an engine for another kind": (
        {"backends/lmstudio/engine": {"model": "m"}},
        "backends.lmstudio.engine",
        "for kind vllm only",
    ),
    "an authority that is not asked": (
        {"backends/vllm/verify": False, "backends/vllm/ca_file": "ca.pem"},
        "backends.vllm.ca_file",
        "of no use while verify is false",
    ),
    "a key variable that is not set": (
        {"backends/vllm/key_env": "VLLM_KEY"},
        "backends.vllm.key_env",
        "VLLM_KEY, which is not set. Set",
    ),
    "an authority whose file is not there": (
        {"backends/vllm/ca_file": "nowhere.pem"},
        "backends.vllm.ca_file",
        "is 'nowhere.pem', which cannot be used: No such file or directory",
    ),
    "an authority whose file holds no certificate": (
        {"backends/vllm/ca_file": __file__},
        "backends.vllm.ca_file",
        "which cannot be used: no PEM file",
    ),
    # server
    "listening everywhere without keys": (
        {"server/host": "0.0.0.0"},
        "server.host",
        "refuses to listen beyond loopback without keys or allow_from. Set the variable CROSSFADE_KEYS",
    ),
    "listening on a name without keys": ({"server/host": "gateway.lan"}, "server.host", "refuses to listen"),
    "listening everywhere with keys switched off": (
        {"server/host": "::", "server/keys_env": None},
        "server.host",
        "Set the variable CROSSFADE_KEYS",
    ),
    "a client's key variable that is not set": (
        {"server/clients": [{"key_env": "TEAM_A"}]},
        "server.clients[0].key_env",
        "TEAM_A, which is not set",
    ),
    "a viewer's key variable that is not set": (
        {"server/admin/viewer_key_env": "V"},
        "server.admin.viewer_key_env",
        "V, which is not set",
    ),
    # rules and plans
    "a rule without a condition": (
        {JANE + "rules": [{"when": {}, "use": "vllm"}]},
        "models.jane.rules[0].when",
        "would apply to every call",
    ),
    "a rule that no call can meet": (
        {JANE + "rules": [{"when": {"prompt_bytes_over": 10, "prompt_bytes_under": 10}, "use": "vllm"}]},
        "models.jane.rules[0].when",
        "No call can be both",
    ),
    "a step that is both": (
        {JANE + "rollout": {**ROLLOUT, "steps": [{"share": 0.1, "shadow": 0.1}]}},
        "models.jane.rollout.steps[0]",
        "either shadow or share",
    ),
    "a step that is neither": (
        {JANE + "rollout": {**ROLLOUT, "steps": [{}]}},
        "models.jane.rollout.steps[0]",
        "either shadow or share",
    ),
    "steps that do not rise": (
        {JANE + "rollout": {**ROLLOUT, "steps": [{"share": 0.5}, {"share": 0.1}]}},
        "models.jane.rollout",
        "do not rise: 0.5, 0.1",
    ),
    "a shadow step after a share step": (
        {JANE + "rollout": {**ROLLOUT, "steps": [{"share": 0.5}, {"shadow": 0.1}]}},
        "models.jane.rollout",
        "Put the shadow steps first",
    ),
    "a rollout from a backend to itself": (
        {JANE + "rollout": {"baseline": "vllm", "candidate": "vllm"}},
        "models.jane.rollout",
        "Name two different backends",
    ),
    "a gate for an unknown measure": (
        {JANE + "rollout": {**ROLLOUT, "gates": {"measures": {"eror": {}}}}},
        "models.jane.rollout.gates.measures.eror",
        "Did you mean `errors`?",
    ),
    "sampling that sets what only the client can": (
        {JANE + "sampling": {"stream": True}},
        "models.jane.sampling",
        "sets stream",
    ),
    "sampling that asks for what not every backend has": (
        {JANE + "sampling": {"logprobs": True}},
        "models.jane.sampling",
        "sets logprobs",
    ),
    "sampling with a temperature that nobody takes": (
        {JANE + "sampling": {"temperature": 3}},
        "models.jane.sampling",
        "sets temperature to what backends refuse, so every call that says nothing of it would fail. A number from 0 to 2 is needed.",
    ),
    "sampling with a top_p below 0": (
        {JANE + "sampling": {"top_p": -1}},
        "models.jane.sampling",
        "A number from 0 to 1 is needed.",
    ),
    "sampling with a top_p that is a percentage": (
        {JANE + "sampling": {"top_p": 95}},
        "models.jane.sampling",
        "A number from 0 to 1 is needed.",
    ),
    "sampling with a penalty that nobody takes": (
        {JANE + "sampling": {"presence_penalty": 2.5}},
        "models.jane.sampling",
        "A number from -2 to 2 is needed.",
    ),
    "sampling with the other penalty": (
        {JANE + "sampling": {"frequency_penalty": -3}},
        "models.jane.sampling",
        "sets frequency_penalty to",
    ),
    "sampling with no tokens at all": (
        {JANE + "sampling": {"max_tokens": 0}},
        "models.jane.sampling",
        "A number of 1 or more is needed.",
    ),
    "sampling with as many tokens as there are, in llama.cpp's words": (
        {JANE + "sampling": {"max_completion_tokens": -1}},
        "models.jane.sampling",
        "sets max_completion_tokens to",
    ),
    "sampling with a temperature that is a word": (
        {JANE + "sampling": {"temperature": "hot"}},
        "models.jane.sampling",
        "sets temperature to",
    ),
    "sampling with a temperature that is true": (
        {JANE + "sampling": {"temperature": True}},
        "models.jane.sampling",
        "sets temperature to",
    ),
    "the same way to resume twice": (
        {JANE + "resume": {"by": ["align", "align"]}},
        "models.jane.resume.by",
        "'align' twice",
    ),
    "the same way to recognise callers twice": (
        {JANE + "stick_by": ["user", "user"]},
        "models.jane.stick_by",
        "'user' twice",
    ),
}


@pytest.mark.parametrize(("changes", "key", "words"), WRONG.values(), ids=WRONG.keys())
def test_each_fault_is_one_sentence_at_its_key(
    problems_with: Problems, changes: dict[str, Any], key: str, words: str
) -> None:
    found = [problem for problem in problems_with(changes) if problem.key == key]
    assert len(found) == 1, problems_with(changes)
    text = str(found[0])
    assert words in text
    assert text.startswith(f"<text>:{found[0].line}: {key} ")
    assert "\n" not in text
    assert found[0].line > 0
    assert found[0].remedy


def test_all_problems_are_told_at_once_and_in_the_order_of_the_file(problems_with: Problems) -> None:
    problems = problems_with(
        {
            "backends/vllm/urls": ["ftp://x"],
            JANE + "split": {"lmstudio": 0.5},
            JANE + "fallbak": [],
            JANE + "retry": {"attempts_per_backend": 0, "backoff_s": [3, 1]},
            "server/host": "0.0.0.0",
            "server/port": "x",
        }
    )
    assert {problem.key for problem in problems} == {
        "backends.vllm.urls[0]",
        "models.jane.split",
        "models.jane.fallbak",
        "models.jane.retry.attempts_per_backend",
        "models.jane.retry.backoff_s",
        "server.host",
        "server.port",
    }
    assert [problem.line for problem in problems] == sorted(problem.line for problem in problems)


def test_a_key_that_no_header_may_carry_is_a_problem_and_is_not_repeated(problems_with: Problems) -> None:
    (problem,) = problems_with({"backends/vllm/key_env": "VLLM_KEY"}, {"VLLM_KEY": "s3cret\nrest"})
    assert problem.key == "backends.vllm.key_env"
    assert "VLLM_KEY, whose value holds what no header may carry. Set it to the key alone" in str(problem)
    assert "s3cret" not in str(problem)


def test_a_wrong_address_is_told_once_and_not_again_as_a_missing_one(problems_with: Problems) -> None:
    assert [problem.key for problem in problems_with({"backends/lmstudio/url": "ftp://x"})] == ["backends.lmstudio.url"]
