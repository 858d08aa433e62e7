"""What a valid file turns into: defaults, forms that are made equal, notices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from router.config import ConfigInvalid, Loaded, OnBackend, Retry, Timeouts, load, loads

Load = Callable[..., Loaded]
JANE = "models/jane/"

# The configuration of the design, whole.
WHOLE = """
server:
  host: 127.0.0.1
  port: 8000
  workers: 1
  keys_env: CROSSFADE_KEYS
  clients: []
  allow_from: []
  hosts: []
  admin: {host: null, port: null, key_env: CROSSFADE_ADMIN_KEY, viewer_key_env: null}
  drain_s: 30
  max_body_bytes: 10485760
  max_in_flight: 512
  queue_size: 1024
  queue_wait_s: 10
  pass_paths: [/v1/rerank, /v1/score, /v1/audio/transcriptions, /v1/audio/speech]
store:
  url: sqlite:///crossfade.db
  keep_days: 14
  keep_bodies: shadowed
  redact: []
backends:
  lmstudio: {kind: lmstudio, url: http://192.168.1.85:1234, max_in_flight: 4, on_client_gone: cancel}
  vllm:
    kind: vllm
    urls: [http://127.0.0.1:8001]
    engine: {model: unsloth/gpt-oss-20b, profile: rtx-4090}
  cloud: {kind: litellm, provider: openai, key_env: OPENAI_API_KEY}
models:
  jane:
    on:
      lmstudio: openai/gpt-oss-20b
      vllm: unsloth/gpt-oss-20b
      cloud: {name: gpt-5-mini, same_model: false}
    split: {lmstudio: 0.95, vllm: 0.05}
    stick_by: [header:x-user-id, user, conversation]
    rules:
      - {when: {header: {x-canary: always}}, use: vllm}
      - {when: {tools: true, prompt_bytes_over: 60000}, use: lmstudio}
    fallback: [vllm, lmstudio]
    sampling: {}
    retry: {attempts_per_backend: 2, backoff_s: [0.1, 2.0], retry_after_wait_s: 1.0, budget_ratio: 0.2, budget_min_per_s: 3}
    timeouts: {connect_s: 2, first_token_s: 60, first_token_per_kib_s: 0.2, between_tokens_s: 30, answer_s: 240,
               total_s: 300, ping_after_s: null}
    eject: {consecutive_failures: 5, failure_share: 0.5, window_s: 30, for_s: [5, 300], at_most_share: 0.5}
    hedge: {after_s: 2.5}
    resume: {by: [continue, align]}
    report_model: public
    accept: {tool_calls: valid, json: valid, empty: reject}
    shadow: {to: vllm, share: 0.1, tokens_per_hour: 200000}
    rollout:
      baseline: lmstudio
      candidate: vllm
      steps: [{shadow: 0.2, min_pairs: 100}, {share: 0.01}, {share: 0.05, min_calls: 100, min_s: 300}, {share: 0.25},
              {share: 0.5}, {share: 1.0}]
      bake: {hold_back: 0.0, min_calls: 1000, max_s: 86400}
      advance: manual
      webhooks: []
      gates: {}
"""


def test_the_whole_configuration_is_read_and_what_is_not_in_effect_is_said() -> None:
    loaded = loads(WHOLE, {"OPENAI_API_KEY": "x", "CROSSFADE_KEYS": "a"})
    assert list(loaded.config.models["jane"].on) == ["lmstudio", "vllm", "cloud"]
    assert loaded.config.backends["cloud"].urls == ()
    assert all("not in effect in this version" in str(notice) for notice in loaded.notices)


def test_every_default_is_the_one_of_the_whole_configuration(load_with: Load) -> None:
    whole = loads(WHOLE, {"OPENAI_API_KEY": "x"}).config
    small = load_with().config
    assert small.server == whole.server
    assert small.store == whole.store
    for section in ("retry", "timeouts", "eject", "resume", "report_model", "accept", "stick_by", "sampling"):
        assert getattr(small.models["jane"], section) == getattr(whole.models["jane"], section), section
    for off in ("rules", "hedge", "shadow", "rollout"):
        assert not getattr(small.models["jane"], off), off
    planned = load_with({JANE + "rollout": {"baseline": "lmstudio", "candidate": "vllm"}}).config.models["jane"].rollout
    assert planned is not None and whole.models["jane"].rollout is not None
    assert planned.bake == whole.models["jane"].rollout.bake


def test_each_nested_key_has_its_own_default(load_with: Load) -> None:
    jane = load_with({JANE + "retry": {"budget_ratio": 0.5}, JANE + "timeouts": {"total_s": 9}}).config.models["jane"]
    assert jane.retry == Retry(budget_ratio=0.5)
    assert jane.timeouts == Timeouts(total_s=9)


def test_a_name_alone_and_its_mapping_are_the_same(load_with: Load) -> None:
    on = load_with({JANE + "on": {"lmstudio": "m", "vllm": {"name": "m"}}}).config.models["jane"].on
    assert on["lmstudio"] == on["vllm"] == OnBackend(name="m", same_model=True, continues="auto")


def test_url_and_a_list_of_one_are_the_same(load_with: Load) -> None:
    backends = load_with({"backends/vllm/urls": ["http://127.0.0.1:1234"]}).config.backends
    assert backends["lmstudio"].urls == backends["vllm"].urls


@pytest.mark.parametrize(("given", "taken"), [(None, ("lmstudio", "vllm")), ([], ()), (["vllm"], ("vllm",))], ids=str)
def test_fallback_is_all_of_on_unless_given(load_with: Load, given: Any, taken: tuple[str, ...]) -> None:
    assert load_with({JANE + "fallback": given}).config.models["jane"].fallback == taken


def test_a_backend_overrides_timeouts_one_by_one(load_with: Load) -> None:
    config = load_with({"backends/vllm/timeouts": {"first_token_s": 20}}).config
    full = config.models["jane"].timeouts.overridden_by(config.backends["vllm"].timeouts)
    assert full == Timeouts(first_token_s=20)


@pytest.mark.parametrize(
    "path", ["server", "store", JANE + "rules", JANE + "retry", JANE + "hedge", "server/admin", "server/hosts"]
)
def test_a_key_left_empty_keeps_its_default(load_with: Load, path: str) -> None:
    assert load_with({path: None}).config == load_with().config


def test_the_configuration_cannot_be_changed(load_with: Load) -> None:
    with pytest.raises(ValidationError):
        load_with().config.server.port = 1


def test_a_rollout_without_steps_has_the_default_ladder(load_with: Load) -> None:
    rollout = load_with({JANE + "rollout": {"baseline": "lmstudio", "candidate": "vllm"}}).config.models["jane"].rollout
    assert rollout is not None
    assert [step.share for step in rollout.steps] == [0.05, 0.1, 0.25, 0.5, 1.0]


def test_a_step_may_ask_for_no_calls_and_no_time(load_with: Load) -> None:
    steps = [{"share": 1.0, "min_calls": 0, "min_s": 0}]
    load_with({JANE + "rollout": {"baseline": "lmstudio", "candidate": "vllm", "steps": steps}})


@pytest.mark.parametrize(
    ("server", "env"),
    [
        ({"host": "127.0.0.1"}, {}),
        ({"host": "::1"}, {}),
        ({"host": "localhost"}, {}),
        ({"host": "0.0.0.0"}, {"CROSSFADE_KEYS": "a,b"}),
        ({"host": "0.0.0.0", "keys_env": "TEAM"}, {"TEAM": "a"}),
        ({"host": "0.0.0.0", "allow_from": ["10.0.0.0/8"]}, {}),
    ],
    ids=str,
)
def test_listening_where_it_is_safe(load_with: Load, server: dict[str, Any], env: dict[str, str]) -> None:
    load_with({"server": server}, env)


def test_a_variable_that_holds_no_key_is_no_key(load_with: Load) -> None:
    with pytest.raises(ConfigInvalid, match="refuses to listen beyond loopback"):
        load_with({"server": {"host": "0.0.0.0"}}, {"CROSSFADE_KEYS": " , "})


# what is set, the key of the notice, its words
NOTICED: dict[str, tuple[dict[str, Any], str, str]] = {
    "clients without keys": (
        {"server/allow_from": ["10.0.0.0/8"]},
        "server.allow_from[0]",
        "lets every client in 10.0.0.0/8 in",
    ),
    "keys that are named and not set": (
        {"server/keys_env": "TEAM"},
        "server.keys_env",
        "TEAM, which is not set: clients need no key",
    ),
    "a certificate that is not checked": (
        {"backends/vllm/verify": False},
        "backends.vllm.verify",
        "can read and change",
    ),
}


@pytest.mark.parametrize(("changes", "key", "words"), NOTICED.values(), ids=NOTICED.keys())
def test_what_is_allowed_and_yet_worth_a_sentence(
    load_with: Load, changes: dict[str, Any], key: str, words: str
) -> None:
    [notice] = load_with(changes).notices
    assert (notice.key, words in str(notice)) == (key, True)
    assert notice.line > 0 and notice.remedy


def test_a_small_configuration_has_no_notices(load_with: Load) -> None:
    assert load_with().notices == ()


def test_the_line_of_a_problem_is_the_line_of_its_key(tmp_path: Path) -> None:
    file = tmp_path / "half.yaml"
    file.write_text(WHOLE.replace("vllm: 0.05}", "vllm: 0.02}"))
    with pytest.raises(ConfigInvalid) as caught:
        load(file, {"OPENAI_API_KEY": "x"})
    line = next(at for at, text in enumerate(WHOLE.splitlines(), 1) if "split:" in text)
    assert str(caught.value) == (
        f"{file}:{line}: models.jane.split sums to 0.97; shares must sum to 1. Raise one of them by 0.03."
    )


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("sqlite:///crossfade.db", "sqlite:///{folder}/crossfade.db"),
        ("sqlite:////var/lib/crossfade.db", "sqlite:////var/lib/crossfade.db"),
        ("postgresql://db/crossfade", "postgresql://db/crossfade"),
    ],
)
def test_a_store_without_a_folder_lies_beside_the_file_wherever_its_reader_was_started(
    tmp_path: Path, url: str, meant: str
) -> None:
    file = tmp_path / "crossfade.yaml"
    file.write_text(
        f"backends: {{a: {{kind: vllm, url: http://h:1}}}}\nmodels: {{m: {{on: {{a: x}}, split: {{a: 1}}}}}}\nstore: {{url: '{url}'}}\n"
    )
    assert load(file, {}).config.store.url == meant.format(folder=tmp_path)
