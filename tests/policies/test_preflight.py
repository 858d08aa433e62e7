"""The judgement of preflight: facts of two backends to the colour of a cell, and what its words and its remedy say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from policies.preflight import Line, judge, worst
from policies.preflight_cells import Cell, Colour
from policies.preflight_facts import Check, Heard, Listed, Side, Streamed, Terms, Tool, Usage

GREEN, AMBER, RED, GREY = Colour.GREEN, Colour.AMBER, Colour.RED, Colour.GREY
TERMS = Terms("jane", frozenset({"temperature", "top_k", "top_p", "min_p"}))
BARE = Terms("jane")
USAGE = Usage(30, 8, 38, has_details=True)
FITS = Tool("get_weather", fits=True, has_our_id=True)
MISFIT = Tool("get_weather", fits=False, has_our_id=True)
FORM = ("id: str", "choices", "choices.index: int", "usage", "usage.prompt_tokens: int")
ANSWER = Heard(text="Red, green and blue.", finish=("stop",), usage=USAGE, form=FORM)
CALLS = replace(ANSWER, text="", finish=("tool_calls",), tools=(FITS,))
STREAMED = replace(ANSWER, usage=None, stream=Streamed(pieces=5, roles=1, is_done=True))
WELL: dict[Check, Heard] = {
    **dict.fromkeys(Check, ANSWER),
    Check.TOOL_AUTO: replace(ANSWER, usage=Usage(90, 8, 98, has_details=True)),
    Check.N: replace(ANSWER, finish=("stop", "stop")),
    Check.LOGPROBS: replace(ANSWER, has_logprobs=True),
    Check.STOP: replace(ANSWER, text="Red, green"),
    Check.TOOL_FORCED: CALLS,
    Check.JSON_OBJECT: replace(ANSWER, json_fits=True),
    Check.JSON_SCHEMA: replace(ANSWER, json_fits=True),
    Check.STREAM: STREAMED,
    Check.STREAM_USAGE: replace(STREAMED, usage=USAGE, stream=Streamed(5, 1, 1, is_done=True)),
    Check.STREAM_TOOL: replace(CALLS, stream=Streamed(3, 0, 1, is_done=True)),
    Check.BAD_VALUE: Heard(400, "bad_value"),
    Check.BAD_TYPE: Heard(400, None),
    Check.OVERFLOW: Heard(400, "context_length_exceeded"),
}
TIMEOUT = Heard(504, "timeout", "no answer within 60 s")


def side(name: str = "vllm", heard: Mapping[Check, Heard] | None = None, **facts: Any) -> Side:
    """A backend that is well; `heard` lies over answers that are as they should be."""
    known: dict[str, Any] = {
        "ails": ("",),
        "listed": Listed.THERE,
        "said_name": "own-name",
        "context_tokens": 4096,
        "exact_tokens": 30,
        "stop_word": "blue",
    }
    kind = "lmstudio" if name == "lmstudio" else "vllm"
    return Side(name, kind, "own-name", heard={**WELL, **(heard or {})}, **{**known, **facts})


def cell(row: str, candidate: Side, baseline: Side | None = None, terms: Terms = TERMS) -> Cell:
    """The candidate's cell in the row `group: name`; without a baseline it is the only backend."""
    sides = [candidate] if baseline is None else [baseline, candidate]
    return next(line.cells[-1] for line in judge(sides, terms) if f"{line.group}: {line.name}" == row)


def test_two_backends_that_are_alike_are_green_in_every_row() -> None:
    lines = judge([side("lmstudio"), side()], TERMS)
    assert [(line.group, line.name, c) for line in lines for c in line.cells if c.colour is not GREEN] == []
    assert worst(lines) is GREEN


# What is heard on the candidate for one question while the baseline is as it should be: row, question, heard, colour, words in the reason.
CANDIDATES = {
    "a call that the baseline answers is refused -> red": (
        "parameters: reasoning_effort", Check.EFFORT, Heard(400, None, "Harmony does not support it"), RED, "Harmony does not"),
    "a failing server -> red": ("parameters: n", Check.N, Heard(503, "backend_unavailable", "HTTP 500"), RED, "HTTP 500"),
    "no answer in time -> red": ("tools: auto", Check.TOOL_AUTO, TIMEOUT, RED, "no answer within 60 s"),
    "a stream that breaks -> red": (
        "stream: pieces and end", Check.STREAM, Heard(is_broken=True, words="cut"), RED, "cut"),
    "what the router would not send there -> amber": (
        "parameters: n", Check.N, Heard(400, "unsupported", is_passed_over=True), AMBER, "known to lack this"),
    "other words at temperature 0 -> amber": (
        "answers: text at temperature 0", Check.GREEDY, replace(ANSWER, text="Blue."), AMBER, "quantisation"),
    "reasoning on one side only -> amber": (
        "answers: text at temperature 0", Check.GREEDY, replace(ANSWER, has_reasoning=True), AMBER, "`reasoning`"),
    "a key is lacking -> red": ("answers: keys", Check.GREEDY, replace(ANSWER, form=FORM[1:]), RED, "lacks `id`"),
    "a key more -> amber": ("answers: keys", Check.GREEDY, replace(ANSWER, form=(*FORM, "stats")), AMBER, "`stats`"),
    "another type -> amber": (
        "answers: keys", Check.GREEDY, replace(ANSWER, form=("id: int", *FORM[1:])), AMBER, "`id: int`"),
    "another order -> amber": ("answers: keys", Check.GREEDY, replace(ANSWER, form=FORM[::-1]), AMBER, "another order"),
    "one choice for n: 2 -> red": ("parameters: n", Check.N, ANSWER, RED, "`n: 2` has no effect here, and it has"),
    "logprobs null -> red": ("parameters: logprobs", Check.LOGPROBS, ANSWER, RED, "`logprobs`"),
    "stop is passed over -> red": ("parameters: stop", Check.STOP, ANSWER, RED, "`stop`"),
    "one seed, two answers -> amber": (
        "parameters: seed", Check.SEED_AGAIN, replace(ANSWER, text="Other."), AMBER, "`seed`"),
    "max_tokens off by one -> amber": (
        "parameters: max_tokens", Check.MAX_TOKENS, replace(ANSWER, usage=Usage(30, 7, 37)), AMBER, "8 tokens"),
    "no call where one is forced -> red": ("tools: forced call", Check.TOOL_FORCED, ANSWER, RED, "required"),
    "arguments that do not fit -> red": (
        "tools: forced call", Check.TOOL_FORCED, replace(CALLS, tools=(MISFIT,)), RED, "required"),
    "a forced call that ends with stop -> amber": (
        "tools: forced call", Check.TOOL_FORCED, replace(CALLS, finish=("stop",)), AMBER, "ends with stop"),
    "an id of another form -> amber": (
        "tools: forced call", Check.TOOL_FORCED, replace(CALLS, tools=(replace(FITS, has_our_id=False),)), AMBER, "call_"),
    "a call more, left to itself -> amber": ("tools: auto", Check.TOOL_AUTO, CALLS, AMBER, "Left to itself"),
    "misfit arguments, left to itself -> amber": (
        "tools: auto", Check.TOOL_AUTO, replace(CALLS, tools=(MISFIT,)), AMBER, "accept: {tool_calls: valid}"),
    "text where JSON was asked for -> red": (
        "JSON: json_object", Check.JSON_OBJECT, replace(ANSWER, json_fits=False), RED, "not the JSON"),
    "a stream in one piece -> amber": (
        "stream: pieces and end", Check.STREAM, replace(STREAMED, text="one two three four five", stream=Streamed(1, 0, 1, True)),
        AMBER, "does not stream"),
    "no [DONE] -> red": ("stream: pieces and end", Check.STREAM, replace(STREAMED, stream=Streamed(5, 0, 1)), RED, "[DONE]"),
    "the role in every piece -> amber": (
        "stream: pieces and end", Check.STREAM, replace(STREAMED, stream=Streamed(5, 0, 5, True)), AMBER, "role"),
    "another finish_reason -> amber": (
        "stream: pieces and end", Check.STREAM, replace(STREAMED, finish=("length",)), AMBER, "on the baseline with stop"),
    "usage that was asked for is not there -> red": ("stream: usage on request", Check.STREAM_USAGE, STREAMED, RED, "include_usage"),
    "usage that nobody asked for -> amber": (
        "stream: usage unasked", Check.STREAM, replace(STREAMED, stream=Streamed(5, 1, 1, True)), AMBER, "nobody asked"),
    "no usage -> red": ("usage: sums and details", Check.GREEDY, replace(ANSWER, usage=None), RED, "no usage"),
    "usage that does not add up -> amber": (
        "usage: sums and details", Check.GREEDY, replace(ANSWER, usage=Usage(30, 8, 40, True)), AMBER, "add up"),
    "usage without details -> amber": (
        "usage: sums and details", Check.GREEDY, replace(ANSWER, usage=Usage(30, 8, 38)), AMBER, "details"),
    "an unknown field breaks the call -> red": (
        "errors: unknown field", Check.UNKNOWN_FIELD, Heard(400, None, "extra_forbidden"), RED, "extra_forbidden"),
    "a bad value is taken -> amber": (
        "errors: min_p: 3", Check.BAD_VALUE, ANSWER, AMBER, "A `min_p` of 3 is a 400 bad_value on the baseline"),
    "a value of no number is taken -> amber": ("errors: seed: hot", Check.BAD_TYPE, ANSWER, AMBER, "A `seed` that is no number is a 400"),
    "a bad value is a failure -> red": ("errors: seed: hot", Check.BAD_TYPE, Heard(503, None, "HTTP 500"), RED, "HTTP 500"),
    "a prompt that is too long is cut -> red": ("errors: prompt too long", Check.OVERFLOW, ANSWER, RED, "cut silently"),
    "a prompt that is too long has another code -> red": (
        "errors: prompt too long", Check.OVERFLOW, Heard(400, "bad", "words"), RED, "context_length_exceeded"),
}  # fmt: skip


@pytest.mark.parametrize("name", CANDIDATES)
def test_what_differs_on_the_candidate_has_its_colour_and_its_reason(name: str) -> None:
    row, check, heard, colour, words = CANDIDATES[name]
    found = cell(row, side(heard={check: heard}), side("lmstudio"))
    assert (found.colour, words in found.why) == (colour, True), found


ALIKE = {
    "both refuse alike": ("parameters: n", Check.N, Heard(400, "x")),
    "neither honours it": ("parameters: logprobs", Check.LOGPROBS, ANSWER),
    "neither calls the tool": ("tools: forced call", Check.TOOL_FORCED, ANSWER),
    "neither answers JSON": ("JSON: json_schema", Check.JSON_SCHEMA, replace(ANSWER, json_fits=False)),
    "neither has usage": ("usage: sums and details", Check.GREEDY, replace(ANSWER, usage=None)),
    "neither streams usage": ("stream: usage on request", Check.STREAM_USAGE, STREAMED),
}


@pytest.mark.parametrize("name", ALIKE)
def test_what_both_lack_is_amber_on_the_baseline_and_green_beside_it(name: str) -> None:
    row, check, heard = ALIKE[name]
    lacking = {check: heard}
    assert cell(row, side("lmstudio", lacking)).colour is AMBER
    assert cell(row, side(heard=lacking), side("lmstudio", lacking)).colour is GREEN


def test_what_only_the_baseline_refuses_is_amber_and_what_fails_on_both_is_red() -> None:
    refusing, failing = {Check.N: Heard(400, None, "no n")}, {Check.N: Heard(503, None, "HTTP 500")}
    assert cell("parameters: n", side(), side("lmstudio", refusing)).colour is AMBER
    assert cell("parameters: n", side(heard=failing), side("lmstudio", failing)).colour is RED
    assert cell("parameters: n", side("lmstudio", failing)).colour is RED


def test_what_a_backend_is_known_to_lack_is_no_difference_where_the_baseline_lacks_it_too() -> None:
    lacking = {Check.N: Heard(400, "unsupported", is_passed_over=True)}
    found = cell("parameters: n", side(heard=lacking), side("lmstudio"))
    assert found.colour is AMBER and "      vllm: {name: own-name, can: {n: true}}" in found.fix
    assert cell("parameters: n", side(heard=lacking), side("lmstudio", lacking)).colour is GREEN
    assert cell("parameters: n", side(), side("lmstudio", lacking)).colour is GREEN  # such calls come here already


@pytest.mark.parametrize(
    ("row", "check"),
    [("tools: auto", Check.TOOL_AUTO), ("tools: second turn, foreign id", Check.TOOL_SECOND_TURN),
     ("tools: forced call", Check.TOOL_FORCED), ("tools: two at once", Check.TOOL_PARALLEL),
     ("stream: forced call", Check.STREAM_TOOL)],
)  # fmt: skip
def test_tools_that_a_backend_is_known_to_lack_come_with_their_key(row: str, check: Check) -> None:
    lacking = {check: Heard(400, "unsupported", is_passed_over=True)}
    found = cell(row, side(heard=lacking), side("lmstudio"))
    assert found.colour is AMBER and "      vllm: {name: own-name, can: {tools: true}}" in found.fix


def test_a_tool_that_adds_nothing_to_the_prompt_is_amber() -> None:
    left_out = {Check.TOOL_AUTO: ANSWER}
    assert cell("prompt tokens: with a tool", side("lmstudio")).colour is GREEN
    assert "leaves tools out" in cell("prompt tokens: with a tool", side("lmstudio", left_out)).why


# A difference in prompt tokens: candidate's count, baseline's, colour.
TOKENS = {
    "the same count -> green": (30, 30, GREEN),
    "a start token more -> amber": (31, 30, AMBER),
    "a date less -> amber": (22, 30, AMBER),
    "a default system prompt more -> red": (51, 30, RED),
    "a tenth of a long prompt -> amber": (1090, 1000, AMBER),
    "more than that -> red": (1200, 1000, RED),
}


@pytest.mark.parametrize("name", TOKENS)
def test_prompt_tokens_tell_another_template_by_size(name: str) -> None:
    tokens, before, colour = TOKENS[name]
    heard = {Check.TURNS: replace(ANSWER, usage=Usage(tokens, 8, tokens + 8))}
    base = {Check.TURNS: replace(ANSWER, usage=Usage(before, 8, before + 8))}
    found = cell("prompt tokens: system and turns", side(heard=heard), side("lmstudio", base))
    assert found.colour is colour
    assert ("--chat-template" in found.fix) is (colour is not GREEN)


def test_without_usage_the_tokenizer_counts_and_one_that_counts_otherwise_is_named() -> None:
    silent = {Check.GREEDY: replace(ANSWER, usage=None)}
    assert cell("prompt tokens: one message", side(heard=silent), side("lmstudio")).says == "30"
    assert "by its tokenizer 28" in cell("prompt tokens: one message", side(exact_tokens=28), side("lmstudio")).says
    assert cell("prompt tokens: one message", side(heard=silent, exact_tokens=None)).colour is GREY


# What a server says of itself: row, facts, colour, words in the reason, words in the remedy.
FACTS: dict[str, tuple[str, dict[str, Any], Colour, str, str]] = {
    "not well -> red": ("server: reachable, well", {"ails": ("HTTP 503",)}, RED, "HTTP 503", "backends:\n  vllm: {kind: vllm"),
    "one replica of two -> amber": ("server: reachable, well", {"ails": ("", "HTTP 503")}, AMBER, "Not every replica", ""),
    "not listed -> red": ("model: listed", {"listed": Listed.MISSING, "listed_names": ("x",)}, RED, "does not list", "on:\n      vllm: x"),
    "not listed, of several -> red": (
        "model: listed", {"listed": Listed.MISSING, "listed_names": ("x", "y", "z")}, RED, "does not list",
        "# also listed: y, z\nmodels:\n  jane:\n    on:\n      vllm: x"),
    "not listed, of very many -> red": (
        "model: listed", {"listed": Listed.MISSING, "listed_names": tuple("abcdefgh")}, RED, "does not list", "b, c, d, e, f …"),
    "nothing listed -> red": ("model: listed", {"listed": Listed.MISSING}, RED, "does not list", "load a model there"),
    "not loaded -> amber": ("model: listed", {"listed": Listed.NOT_LOADED}, AMBER, "load it before", ""),
    "another name -> amber": ("model: name in answers", {"said_name": "x"}, AMBER, "names 'x'", "vllm: x"),
    "another model -> red": ("model: name in answers", {"said_name": "x", "is_other": True}, RED, "model 'x'", "vllm: x"),
    "a smaller context -> amber": ("context: prompt and answer", {"context_tokens": 2048}, AMBER, "fallback", "--max-model-len 4096"),
    "no known context -> amber": ("context: prompt and answer", {"context_tokens": None}, AMBER, "how long", "context_tokens: …"),
}  # fmt: skip


@pytest.mark.parametrize("name", FACTS)
def test_what_a_server_says_of_itself_is_judged_with_the_lines_that_mend_it(name: str) -> None:
    row, facts, colour, words, lines = FACTS[name]
    found = cell(row, side(**facts), side("lmstudio"))
    assert (found.colour, words in found.why, lines in found.fix) == (colour, True, True), found


def test_sampling_that_is_not_set_is_amber_with_the_block_that_sets_the_baselines() -> None:
    row = "parameters: sampling defaults"
    found = cell(row, side(), side("lmstudio"), BARE)
    assert found.colour is AMBER
    assert "    sampling: {temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05}" in found.fix
    told = side("lmstudio", defaults={"temperature": 0.3})
    assert "sampling: {temperature: 0.3}" in cell(row, side(), told, BARE).fix
    half = Terms("jane", frozenset({"temperature", "top_p"}))
    assert "sampling: {top_k: 40, min_p: 0.05}" in cell(row, side(), side("lmstudio"), half).fix
    greedy = Terms("jane", frozenset({"temperature"}), is_greedy=True)
    assert cell(row, side(), side("lmstudio"), greedy).colour is GREEN


REMEDIES = {
    "the engine's switch for tools": (
        Heard(400, None, '"auto" tool choice requires --enable-auto-tool-choice'),
        "--tool-call-parser",
    ),
    "llama.cpp's switch for templates": (
        Heard(503, None, "tools param requires --jinja flag"),
        "llama-server … --jinja",
    ),
    "a key": (Heard(502, "backend_auth", "the backend refuses the router's key (HTTP 401)"), "vllm: {key_env: NAME}"),
    "time": (TIMEOUT, "timeouts: {first_token_s: 120"),
}


@pytest.mark.parametrize("name", REMEDIES)
def test_a_refusal_with_a_known_remedy_says_it(name: str) -> None:
    heard, lines = REMEDIES[name]
    found = cell("tools: auto", side(heard={Check.TOOL_AUTO: heard}), side("lmstudio"))
    assert found.colour is RED and lines in found.fix


def test_of_a_backend_that_is_not_well_nothing_else_is_judged_and_the_other_is_judged_by_itself() -> None:
    down = Side("lmstudio", "lmstudio", "own-name", ails=("cannot connect",))
    lines = judge([down, side()], TERMS)
    assert {line.cells[0].colour for line in lines[1:]} == {GREY}
    assert {line.cells[1].colour for line in lines} == {GREEN}
    assert worst(lines) is RED


def test_a_question_that_was_not_asked_is_grey() -> None:
    asked: dict[Check, Heard] = {}
    lines: tuple[Line, ...] = judge([side("lmstudio"), replace(side(), heard=asked, stop_word="")], TERMS)
    grey = {f"{line.group}: {line.name}" for line in lines if line.cells[1].colour is GREY}
    assert {"parameters: n", "parameters: stop", "tools: auto", "errors: prompt too long"} <= grey
    assert "too long" in cell("errors: prompt too long", replace(side(), heard=asked)).says
    assert "not known" in cell("errors: prompt too long", replace(side(context_tokens=None), heard=asked)).says
