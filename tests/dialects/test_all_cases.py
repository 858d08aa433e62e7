"""All 80 cases are played, each under its own number."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CASES = 80
_NUMBER = re.compile(r"::test_case_(\d\d)_|::\w+\[(?:[\w-]*-)?(\d\d)-")


def test_all_80_cases_are_here() -> None:
    """By what is collected, so that a case which is no test any more is missed."""
    here = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", str(here), "--collect-only"]
    listed = subprocess.run(
        command, cwd=here.parent.parent, check=True, capture_output=True, text=True, timeout=60
    ).stdout
    numbers = {int(found[1] or found[2]) for found in _NUMBER.finditer(listed)}
    assert sorted(set(range(1, CASES + 1)) - numbers) == [] and max(numbers) == CASES
