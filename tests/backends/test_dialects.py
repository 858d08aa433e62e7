"""Which answers to a probe mean that a server can take calls: the captured ones, and those that lie."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.dialects import DIALECTS, Presence, context_tokens
from tests.backends.captured import captured
from tests.upstream import HEALTHY

LM_STUDIO_LIES = b'{"error":"Unexpected endpoint or method. (GET /health)"}'
MODELS = HEALTHY.partition(b"\r\n\r\n")[2]

PROBES: list[tuple[str, str, bytes, bool]] = [
    ("vLLM 0.33", "vllm", captured("vllm-0.33-gpt-oss/health")[2], True),
    ("vLLM 0.32", "vllm", captured("vllm-0.32-smollm2/01_health")[2], True),
    ("llama-server", "llama-server", captured("llama-server-smollm2/01_health")[2], True),
    ("LM Studio, shown as vLLM", "vllm", LM_STUDIO_LIES, False),
    ("LM Studio, shown as llama-server", "llama-server", LM_STUDIO_LIES, False),
    ("LM Studio, asked for what it does not have", "lmstudio", LM_STUDIO_LIES, False),
    ("LM Studio with a model", "lmstudio", MODELS, True),
    ("LM Studio with duplicates", "lmstudio", b'{"data":[{"id":"a"},{"id":"a:2"}],"object":"list"}', True),
    ("LM Studio without a model, JIT off", "lmstudio", b'{"data":[],"object":"list"}', False),
    ("vLLM's list, by any compatible server's probe", "openai", captured("vllm-0.33-gpt-oss/models")[2], True),
    ("llama-server's list", "openai", captured("llama-server-smollm2/02_models")[2], True),
    ("an entry without an id", "openai", b'{"data":[{}]}', True),
    ("a page of HTML", "openai", b"<html></html>", False),
    ("nothing", "openai", b"", False),
    ("a list of strings", "openai", b'{"data":["a"]}', False),
    ("nesting without end", "openai", b'{"data":' + b"[" * 200_000, False),
    ("an error beside a status of its own", "llama-server", b'{"error":{"message":"Loading model","code":503}}', False),
]


@pytest.mark.parametrize(("kind", "body", "is_well"), [row[1:] for row in PROBES], ids=[row[0] for row in PROBES])
def test_an_answer_with_status_200_means_that_a_server_is_well(kind: str, body: bytes, is_well: bool) -> None:
    assert DIALECTS[kind].is_healthy(body) is is_well


def test_lm_studio_is_never_asked_for_its_health_by_the_path_that_it_does_not_have() -> None:
    assert DIALECTS["lmstudio"].health_path == "/v1/models"


VLLMS = captured("vllm-0.33-gpt-oss/models")[2]  # gpt-oss-20b and openai/gpt-oss-20b
LLAMAS = captured("llama-server-smollm2/02_models")[2]
LISTED = b'{"data":[{"id":"openai/gpt-oss-20b"},{"id":"qwen3-4b:2"},{"id":"text-embed"}],"object":"list"}'
STATES = (
    b'{"data":[{"id":"openai/gpt-oss-20b","type":"llm","state":"not-loaded","max_context_length":131072},'
    b'{"id":"qwen3-4b","state":"not-loaded"},{"id":"qwen3-4b:2","state":"loaded"},{"id":"text-embed","state":"loaded"}],'
    b'"object":"list"}'
)
NO_NAMES = b'{"data":[{"object":"model"}]}'

PRESENCES: list[tuple[str, str, tuple[bytes, ...], str, Presence]] = [
    ("vLLM, an alias", "vllm", (VLLMS,), "openai/gpt-oss-20b", Presence.THERE),
    ("vLLM, a name that it does not serve", "vllm", (VLLMS,), "unsloth/gpt-oss-20b", Presence.MISSING),
    ("vLLM tells names apart by their letters", "vllm", (VLLMS,), "GPT-OSS-20b", Presence.MISSING),
    ("vLLM, no list", "vllm", (b"",), "x", Presence.UNKNOWN),
    ("vLLM, an entry without a name", "vllm", (NO_NAMES,), "x", Presence.UNKNOWN),
    ("vLLM, an error", "vllm", (b'{"error":"Unauthorized"}',), "x", Presence.UNKNOWN),
    ("LM Studio, loaded", "lmstudio", (LISTED, STATES), "text-embed", Presence.THERE),
    ("LM Studio, listed and not loaded", "lmstudio", (LISTED, STATES), "openai/gpt-oss-20b", Presence.NOT_LOADED),
    ("LM Studio, the second instance is loaded", "lmstudio", (LISTED, STATES), "qwen3-4b", Presence.THERE),
    ("LM Studio, not listed", "lmstudio", (LISTED, STATES), "gemma-3", Presence.MISSING),
    ("LM Studio, loaded and yet not listed", "lmstudio", (b'{"data":[{"id":"x"}]}', STATES), "text-embed", Presence.MISSING),
    ("LM Studio, without the publisher's name", "lmstudio", (LISTED, b""), "gpt-oss-20b", Presence.THERE),
    ("LM Studio, in other letters", "lmstudio", (LISTED, b""), "OpenAI/GPT-OSS-20B", Presence.THERE),
    ("LM Studio before it had its own list", "lmstudio", (LISTED, LM_STUDIO_LIES), "text-embed", Presence.THERE),
    ("LM Studio, a state that is not known", "lmstudio", (LISTED, b'{"data":[{"id":"text-embed","state":"new"}]}'),
     "text-embed", Presence.THERE),
    ("LM Studio, no list", "lmstudio", (b"", STATES), "text-embed", Presence.UNKNOWN),
    ("llama-server serves its model under every name", "llama-server", (), "x", Presence.UNKNOWN),
    ("any other serves more than it lists", "openai", (), "x", Presence.UNKNOWN),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "bodies", "asked", "presence"), [row[1:] for row in PRESENCES], ids=[row[0] for row in PRESENCES]
)
def test_whether_a_server_has_a_model_by_its_own_lists(
    kind: str, bodies: tuple[bytes, ...], asked: str, presence: Presence
) -> None:
    dialect = DIALECTS[kind]
    assert len(bodies) == len(dialect.list_paths)
    assert dialect.presence(bodies, asked) is presence


@given(st.lists(st.binary(max_size=200), min_size=2, max_size=2), st.text(max_size=20))
def test_lists_of_any_bytes_are_read_without_an_error(bodies: list[bytes], asked: str) -> None:
    for dialect in DIALECTS.values():
        assert dialect.presence(bodies, asked) is Presence.UNKNOWN


LENGTHS = b'{"data":[{"id":"x","max_context_length":131072,"loaded_context_length":8192},{"id":"x:2","loaded_context_length":4096}]}'
CONTEXTS: list[tuple[str, tuple[bytes, ...], str, int | None]] = [
    ("vLLM", (VLLMS,), "gpt-oss-20b", 4096),
    ("vLLM, another name", (VLLMS,), "x", None),
    ("LM Studio, the longer of two instances", (LISTED, LENGTHS), "pub/x", 8192),
    ("LM Studio, not loaded", (LISTED, STATES), "openai/gpt-oss-20b", None),
    ("a list that says nothing", (LISTED,), "text-embed", None),
    ("no list", (b"", b"<html>"), "x", None),
    (
        "a length below 1",
        (b'{"data":[{"id":"x","max_model_len":-1}]}', b'{"data":[{"id":"x","loaded_context_length":-1}]}'),
        "x",
        None,
    ),
    ("a length that is null", (b'{"data":[{"id":"y","max_model_len":null},{"id":"x","max_model_len":9}]}',), "x", 9),
    ("a length that is none", (b'{"data":[{"id":"x","max_model_len":"long"}]}',), "x", None),
]


@pytest.mark.parametrize(("bodies", "asked", "tokens"), [row[1:] for row in CONTEXTS], ids=[row[0] for row in CONTEXTS])
def test_how_long_a_prompt_may_be_by_a_servers_own_lists(
    bodies: tuple[bytes, ...], asked: str, tokens: int | None
) -> None:
    assert context_tokens(bodies, asked) == tokens


# asked, said -> whether it is the same model
NAMES = [
    ("openai/gpt-oss-20b", "openai/gpt-oss-20b", True),
    ("openai/gpt-oss-20b", "gpt-oss-20b", True),
    ("openai/gpt-oss-20b", "openai/gpt-oss-20b:2", True),
    ("GPT-OSS-20b", "openai/gpt-oss-20b", True),
    ("openai/gpt-oss-20b", "openai/gpt-oss-120b", False),
    ("openai/gpt-oss-20b", "qwen3-4b", False),
    ("gpt-oss-20b", "gpt-oss-20b:latest", False),
]


@pytest.mark.parametrize(("asked", "said", "is_same"), NAMES)
def test_which_names_are_of_one_model_in_lm_studio(asked: str, said: str, is_same: bool) -> None:
    check = DIALECTS["lmstudio"].is_same
    assert check is not None and check(asked, said) is is_same


@pytest.mark.parametrize("kind", sorted({*DIALECTS} - {"lmstudio"}))
def test_no_other_kind_is_held_to_the_name_in_its_answers(kind: str) -> None:
    assert DIALECTS[kind].is_same is None


def test_llama_servers_list_names_one_model_and_is_not_asked_for() -> None:
    assert DIALECTS["vllm"].presence((LLAMAS,), "smollm2-135m-instruct") is Presence.THERE
    assert DIALECTS["llama-server"].list_paths == ()


def test_every_dialect_is_found_by_its_own_kind() -> None:
    assert {kind: dialect.kind for kind, dialect in DIALECTS.items()} == {kind: kind for kind in DIALECTS}
