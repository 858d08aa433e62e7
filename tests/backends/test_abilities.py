"""What servers say of what they can do: the captured answers, and those that say nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.dialects import DIALECTS, NOT_SAID, ROUTES, Abilities
from tests.backends.captured import captured

MODELS = captured("vllm-0.32-smollm2/02_models")[2]
OPENAPI = captured("vllm-0.32-smollm2/04_openapi")[2]
PROPS = captured("llama-server-smollm2/04_props")[2]
LIES = b'{"error":"Unexpected endpoint or method. (GET /props)"}'


def owned(*entries: dict[str, Any]) -> bytes:
    """LM Studio's own list."""
    return json.dumps({"data": list(entries), "object": "list"}).encode()


LISTED = b'{"data":[{"id":"qwen2-vl-7b"},{"id":"openai/gpt-oss-20b"},{"id":"nomic"}],"object":"list"}'
OWNED = owned(
    {"id": "qwen2-vl-7b", "type": "vlm", "state": "loaded", "loaded_context_length": 4096},
    {"id": "openai/gpt-oss-20b", "type": "llm", "state": "not-loaded", "max_context_length": 131072},
    {"id": "nomic", "type": "embeddings", "state": "loaded"},
)
ALL_BUT_EMBEDDINGS = {name: name != "embeddings" for name in ROUTES}
EMBEDDINGS_ALONE = dict.fromkeys(("chat", "completions", "responses", "messages", "count_tokens"), False) | {
    "embeddings": True
}

SAID: list[tuple[str, str, tuple[bytes, ...], str, Abilities]] = [
    ("vLLM with a chat model has all but embeddings", "vllm", (MODELS, OPENAPI), "smollm2", Abilities(ALL_BUT_EMBEDDINGS, 2048)),
    ("vLLM without its document", "vllm", (MODELS, b""), "smollm2", Abilities({}, 2048)),
    ("vLLM with a document of no paths", "vllm", (MODELS, b'{"paths":{}}'), "smollm2", Abilities({}, 2048)),
    ("vLLM behind a proxy that takes every path", "vllm", (MODELS, b'{"paths":{"/v1/models":{},"/{path}":{}}}'), "smollm2",
     Abilities({}, 2048)),
    ("a document of something else", "vllm", (MODELS, b'{"paths":{"/v1/chat/completions":{}}}'), "smollm2", Abilities({}, 2048)),
    ("vLLM, a name that it does not serve", "vllm", (MODELS, b"<html>"), "x", NOT_SAID),
    ("LM Studio, a model that sees", "lmstudio", (LISTED, OWNED), "qwen2-vl-7b", Abilities({"images": True, "embeddings": False}, 4096)),
    ("LM Studio, one that does not, and is not loaded", "lmstudio", (LISTED, OWNED), "gpt-oss-20b",
     Abilities({"images": False, "embeddings": False})),
    ("LM Studio, one for embeddings", "lmstudio", (LISTED, OWNED), "nomic", Abilities(EMBEDDINGS_ALONE)),
    ("LM Studio, a second instance", "lmstudio", (LISTED, owned({"id": "nomic:2", "type": "vlm"})), "nomic",
     Abilities({"images": True, "embeddings": False})),
    ("LM Studio, a type that is not known", "lmstudio", (LISTED, owned({"id": "nomic", "type": "tts"})), "nomic", NOT_SAID),
    ("LM Studio before it had its own list", "lmstudio", (LISTED, LIES), "nomic", NOT_SAID),
    ("llama-server without a projector", "llama-server", (PROPS,), "x",
     Abilities({"images": False, "audio": False, "video": False}, 2048)),
    ("llama-server with one", "llama-server", (b'{"modalities":{"vision":true,"audio":false}}',), "x",
     Abilities({"images": True, "audio": False})),
    ("an old llama-server", "llama-server", (b'{"total_slots":1}',), "x", NOT_SAID),
    ("a context of nothing", "llama-server", (b'{"default_generation_settings":{"n_ctx":0}}',), "x", NOT_SAID),
    ("a context below nothing", "llama-server", (b'{"default_generation_settings":{"n_ctx":-1}}',), "x", NOT_SAID),
    ("any other server does not tell", "openai", (), "x", NOT_SAID),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "bodies", "asked", "said"), [row[1:] for row in SAID], ids=[row[0] for row in SAID])
def test_what_a_server_says_of_itself(kind: str, bodies: tuple[bytes, ...], asked: str, said: Abilities) -> None:
    dialect = DIALECTS[kind]
    assert len(bodies) == len(dialect.list_paths) + len(dialect.about_paths)
    assert dialect.abilities(bodies, asked, ()) == said


def test_paths_that_are_sent_on_are_looked_for_too() -> None:
    said = DIALECTS["vllm"].abilities((MODELS, OPENAPI), "smollm2", ("/v1/rerank", "/v1/systemone"))
    assert (said.can["/v1/rerank"], said.can["/v1/systemone"]) == (False, True)


@given(st.lists(st.binary(max_size=200), min_size=2, max_size=2), st.text(max_size=20))
def test_any_bytes_are_read_without_an_error(bodies: list[bytes], asked: str) -> None:
    for dialect in DIALECTS.values():
        assert dialect.abilities(bodies, asked, ()) == NOT_SAID


MEDIA = {"images", "audio", "video", "files"}
BEFORE_TOOLS = {"best_of", "echo", "suffix", "functions", "custom_tools"}
LACKING: list[tuple[str, set[str]]] = [
    ("openai", set()),
    ("vllm", MEDIA | {"best_of", "functions", "suffix", "custom_tools"}),
    ("llama-server", MEDIA | {"tokenize"} | BEFORE_TOOLS),
    ("lmstudio", MEDIA | {"tokenize", "n", "logprobs"} | BEFORE_TOOLS),
]


@pytest.mark.parametrize(("kind", "lacks"), LACKING)
def test_what_a_kind_of_server_lacks_unless_somebody_says_otherwise(kind: str, lacks: set[str]) -> None:
    assert DIALECTS[kind].lacks == lacks
