"""One cell of preflight's matrix: its colour, and what every judgement of a question begins with.

Green: the application cannot tell the backend from the baseline. Amber: it differs, and what to do or to expect is said. Red: calls that
work on the baseline would break. Grey: not asked. The baseline's own cells are judged for themselves: nothing breaks by staying there,
so what it cannot do is amber there, unless it does not work at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from policies.preflight_facts import Check, Heard, Side, Terms


class Colour(StrEnum):
    """How a cell is shown."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"
    GREY = "grey"


@dataclass(frozen=True, slots=True)
class Cell:
    """`says`: a few words for the table. `why`: a sentence for what is not green. `fix`: lines of the configuration, or of a command."""

    colour: Colour
    says: str
    why: str = ""
    fix: str = ""


Judge = Callable[[Side, Side | None, Terms], Cell]  # the second is the baseline, None where the first is
JudgeHeard = Callable[
    [Heard, Heard | None], Cell
]  # both are answers; the second None where there is none to compare with


def green(says: str) -> Cell:
    return Cell(Colour.GREEN, says)


def amber(says: str, why: str, fix: str = "") -> Cell:
    return Cell(Colour.AMBER, says, why, fix)


def red(says: str, why: str, fix: str = "") -> Cell:
    return Cell(Colour.RED, says, why, fix)


def grey(says: str = "not asked") -> Cell:
    return Cell(Colour.GREY, says)


def of_answers(check: Check, judge: JudgeHeard) -> Judge:
    """A judgement of what was heard for `check`, where it was an answer; refusals are judged here, for all questions alike."""

    def judged(side: Side, against: Side | None, terms: Terms) -> Cell:
        heard = side.heard.get(check)
        base = against.heard.get(check) if against is not None else None
        if heard is None:
            return grey()
        if heard.is_passed_over:
            return not_sent(side, check, base, terms)
        if not heard.is_answer:
            return refusal(side, heard, against, base)
        if base is not None and base.is_passed_over:
            return judge(heard, None)  # such calls come here already
        if against is not None and base is not None and not base.is_answer:
            return amber("answers", f"{against.backend} refuses this call ({says(base)}), {side.backend} answers it.")
        return judge(heard, base)

    return judged


def refusal(side: Side, heard: Heard, against: Side | None, base: Heard | None) -> Cell:
    """An error where an answer was asked for."""
    fix = remedy(side, heard)
    if against is None or base is None:
        is_calls_fault = 400 <= heard.status < 500 and not fix
        colour = Colour.AMBER if is_calls_fault else Colour.RED
        return Cell(colour, says(heard), told(side, heard), fix)
    if base.is_answer or not 400 <= heard.status < 500:
        return red(says(heard), told(side, heard), fix)
    if (heard.status, heard.code) == (base.status, base.code):
        return green(f"{says(heard)}, as {against.backend}")
    why = (
        f"Both refuse this call, {against.backend} with {says(base)}, {side.backend} with {says(heard)}: {heard.words}"
    )
    return amber(says(heard), why)


# The name in the configuration's `can` of what a check needs, where the check is not called so itself.
_NEEDS = dict.fromkeys(
    (Check.TOOL_AUTO, Check.TOOL_FORCED, Check.TOOL_SECOND_TURN, Check.TOOL_PARALLEL, Check.STREAM_TOOL), "tools"
)


def not_sent(side: Side, check: Check, base: Heard | None, terms: Terms) -> Cell:
    """What the router knows a backend to lack."""
    if base is not None and base.is_passed_over:
        return green("not sent here either")
    why = f"{side.backend} is known to lack this, so such calls go to a backend that has it; where none has, they get a 400."
    lines = f"# if it has it after all\n{on(terms, side)} {{name: {side.name}, can: {{{_NEEDS.get(check, check.value)}: true}}}}"
    return amber("not sent here", why, lines)


def on(terms: Terms, side: Side) -> str:
    """The lines of a configuration down to the model's place on the backend."""
    return f"models:\n  {terms.model}:\n    on:\n      {side.backend}:"


def told(side: Side, heard: Heard) -> str:
    """An error in the words of the backend, or in ours of what it did; alike for alike ones, so that they can be said together."""
    return f"{side.backend} says: {heard.words or says(heard)}"


def says(heard: Heard) -> str:
    """An error in two words."""
    if heard.is_broken:
        return "broken stream"
    return f"{heard.status} {heard.code}" if heard.code else str(heard.status)


# What engines say where a switch of theirs is off, and the switch.
_SWITCHES = (
    (
        re.compile(r"enable-auto-tool-choice|tool-call-parser"),
        "# gpt-oss: openai; others: see the engine's documentation\nvllm serve … --enable-auto-tool-choice --tool-call-parser NAME",
    ),
    (re.compile(r"--jinja"), "llama-server … --jinja"),
)
# What the router tells clients where a key, or a limit in time, is the reason.
_REMEDIES = {
    "backend_auth": "# an environment variable with a key that it knows\nbackends:\n  {}: {{key_env: NAME}}",
    "timeout": (
        "# where it is only slow; for preflight alone: --timeout-s\nbackends:\n  {}: {{timeouts: {{first_token_s: 120, answer_s: 300}}}}"
    ),
}


def remedy(side: Side, heard: Heard) -> str:
    """What would make the backend answer, where that is known."""
    switch = next((lines for pattern, lines in _SWITCHES if pattern.search(heard.words)), "")
    return switch or _REMEDIES.get(heard.code or "", "").format(side.backend)
