"""Backends of a kind that this version cannot call yet: their calls go to the next one, as the notice of `check` promises."""

from __future__ import annotations

import pytest

from tests.running import running
from tests.upstream import Upstream, says

CONFIG = """
backends:
  cloud: {{kind: litellm, provider: openai}}
  a: {{kind: vllm, url: {url}}}
models:
  jane:
    on: {{cloud: gpt, a: real-a}}
    split: {split}
"""


@pytest.mark.parametrize(
    "split", ["{cloud: 1.0}", "{cloud: 0.0, a: 1.0}"], ids=["it has the whole share", "it has none"]
)
async def test_a_backend_that_cannot_be_called_yet_is_passed_over(split: str) -> None:
    async with Upstream(says("Hello")) as a, running(CONFIG.format(url=a.url, split=split)) as router:
        response = await router.chat()
    assert (response.status_code, response.headers.get("x-crossfade-backend")) == (200, "a")


async def test_where_no_backend_can_be_called_the_client_gets_a_503() -> None:
    config = CONFIG.format(url="http://127.0.0.1:1", split="{cloud: 1.0}").replace("  a: {kind", "  b: {kind")
    async with running(config.replace(", a: real-a", "")) as router:
        response = await router.chat()
    assert (response.status_code, response.json()["error"]["code"]) == (503, "no_backend")
