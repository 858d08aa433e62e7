"""Which answers to a probe mean that a server can take calls: the captured ones, and those that lie."""

from __future__ import annotations

import pytest

from backends.dialects import DIALECTS
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


def test_every_dialect_is_found_by_its_own_kind() -> None:
    assert {kind: dialect.kind for kind, dialect in DIALECTS.items()} == {kind: kind for kind in DIALECTS}
