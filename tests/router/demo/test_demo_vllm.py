"""`crossfade demo` end to end with a real vLLM engine as the candidate."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies.ejection import State
from router.demo.asking import ask, states
from tests.engines.engine import START_S, wait_until
from tests.family import family, left_of
from tests.router.demo.running import running_demo

# With the installation and the model's conversion, where nothing is cached: three minutes on two cores.
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
INSTALL_S = 600.0


def test_vllm_comes_into_rotation_by_itself_and_ctrl_c_ends_its_workers_too(tmp_path: Path) -> None:
    with running_demo(tmp_path, "vllm") as demo:
        assert ask(demo.url, "user-1").backend == "lmstudio", (
            "the first engine answers for everybody until vLLM is there"
        )
        both = {"lmstudio": State.IN_ROTATION, "vllm": State.IN_ROTATION}
        wait_until(lambda: states(demo.url) == both, "vLLM is in rotation", INSTALL_S + START_S)
        assert {ask(demo.url, f"user-{number}").backend for number in range(8)} == {"lmstudio", "vllm"}
        members = family(demo.process.pid)
        assert any("VLLM::EngineCore" in member.line for member in members)
        assert demo.interrupt() == 0
        assert left_of(members, timeout_s=0.0) == []
