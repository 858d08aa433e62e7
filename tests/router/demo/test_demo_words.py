"""What the demo asks, shows and writes down: answers and refusals, the summary, the configuration."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from policies.ejection import State
from router.config import loads
from router.demo import roles
from router.demo.asking import NoAnswer, ask, curl_line, is_well, states
from router.demo.summary import Row, Summary
from tests.running import config_for, running
from tests.serving import free_port
from tests.upstream import HEALTHY, Upstream, answer, hangs_up_after, says, sends

DEMO = """
server: {{port: 8000}}
backends:
  a: {{kind: vllm, url: "{url}"}}
models:
  smollm2: {{on: {{a: m}}, split: {{a: 1.0}}}}
"""


def summary(*, candidate_pid: int | None, is_in_rotation: bool) -> Summary:
    rows = (
        Row("lmstudio", "llama.cpp's server", "http://127.0.0.1:1234", 11, is_in_rotation=True),
        Row("vllm", "vLLM", "http://127.0.0.1:8001", candidate_pid, is_in_rotation),
    )
    return Summary("http://127.0.0.1:8000", Path("/cache/demo/8000"), rows, "vllm")


async def test_an_answer_is_one_line_and_who_wrote_it() -> None:
    async with Upstream(says("Paris\n is it")) as up, running(DEMO.format(url=up.url)) as router:
        said = await asyncio.to_thread(ask, f"http://127.0.0.1:{router.port}", "jane")
    assert (said.backend, said.text) == ("a", "Paris is it")
    assert up.received[0].headers["content-type"] == "application/json"


async def test_the_callers_name_travels_with_the_question() -> None:
    async with Upstream(says("Paris")) as up:
        await asyncio.to_thread(ask, up.url, "jane")
    assert up.received[0].headers["x-user-id"] == "jane"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"{}", "without text: {}"),
        (b"[]", "without text"),
        (b"nonsense", "Expecting value"),
        (b'{"choices": [{"message": {"content": null}}]}', "without text"),
    ],
    ids=["an answer without choices", "a list", "no JSON", "an answer without text"],
)
async def test_nonsense_is_no_answer(body: bytes, why: str) -> None:
    async with Upstream(sends(answer(body))) as up:
        with pytest.raises(NoAnswer, match=why):
            await asyncio.to_thread(ask, up.url, "jane")


async def test_an_answer_that_breaks_off_is_no_answer() -> None:
    async with Upstream(hangs_up_after(HEALTHY[:-1])) as up:
        with pytest.raises(NoAnswer, match=r"IncompleteRead|reset"):
            await asyncio.to_thread(ask, up.url, "jane")


async def test_an_error_is_no_answer_and_told_with_its_words() -> None:
    async with Upstream(says("Paris")) as up, running(config_for({"a": up.url})) as router:
        with pytest.raises(NoAnswer, match=r"status 404: .*The model `smollm2` does not exist"):
            await asyncio.to_thread(ask, f"http://127.0.0.1:{router.port}", "jane")


def test_where_nobody_listens_there_is_no_answer_and_nothing_is_well() -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(NoAnswer, match="refused"):
        ask(nobody, "jane")
    assert not is_well(nobody)
    assert states(nobody) == {}


async def test_states_are_those_of_the_router() -> None:
    async with Upstream(says("Paris")) as up, running(DEMO.format(url=up.url)) as router:
        assert await asyncio.to_thread(states, f"http://127.0.0.1:{router.port}") == {"a": State.IN_ROTATION}


def test_the_line_to_paste_is_one_line_of_a_shell() -> None:
    line = curl_line("http://127.0.0.1:8000")
    words = shlex.split(line)
    assert "\n" not in line and words[0] == "curl" and "http://127.0.0.1:8000/v1/chat/completions" in words


def test_before_the_candidate_is_there_the_summary_says_who_answers_for_it() -> None:
    text = summary(candidate_pid=None, is_in_rotation=False).text()
    assert "http://127.0.0.1:8000/v1 (model smollm2)" in text
    assert "vLLM, on http://127.0.0.1:8001 (not yet in rotation; the other answers for it)" in text
    assert curl_line("http://127.0.0.1:8000") in text
    assert "kill" not in text


def test_with_both_in_rotation_the_summary_says_how_to_see_one_step_in_for_the_other() -> None:
    text = summary(candidate_pid=12, is_in_rotation=True).text()
    assert "Kill vllm and ask again" in text and "  kill -9 12\n" in text


def test_the_summary_for_programs_has_what_the_text_has() -> None:
    assert summary(candidate_pid=None, is_in_rotation=False).as_json() == {
        "url": "http://127.0.0.1:8000/v1",
        "model": "smollm2",
        "folder": "/cache/demo/8000",
        "backends": [
            {
                "name": "lmstudio",
                "title": "llama.cpp's server",
                "url": "http://127.0.0.1:1234",
                "pid": 11,
                "is_in_rotation": True,
            },
            {"name": "vllm", "title": "vLLM", "url": "http://127.0.0.1:8001", "pid": None, "is_in_rotation": False},
        ],
    }


@pytest.mark.parametrize("candidate", [roles.vllm, roles.standin], ids=["vLLM", "a second llama.cpp server"])
def test_the_configuration_is_one_that_crossfade_reads(candidate: Callable[[int], roles.Role]) -> None:
    role = candidate(8001)
    config = loads(roles.config_text(8000, roles.lmstudio(1234), role), {}).config
    assert dict(config.models["smollm2"].split) == {"lmstudio": 0.5, role.name: 0.5}
    assert set(config.models["smollm2"].fallback) == {"lmstudio", role.name}
