"""What is an answer to what was asked, and what is none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policies.contract import AcceptRules, Answered, Asked, Calling, Format, JsonRule, Result, ToolCall, judge
from policies.schema import MAX_INSTANCE_BYTES, Schemas

CITY = b'{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}'
WEATHER = Asked(tools={"get_weather": CITY, "ping": b""})
MUST = Asked(tools={"get_weather": CITY}, calling=Calling.MUST)
NO_CALLS = Asked(tools={"get_weather": CITY}, calling=Calling.MUST_NOT)
OTHERS = Asked(tools={"get_weather": CITY}, has_other_tools=True)
PLAIN = Asked(tools={})
CUT = Asked(tools={"get_weather": CITY}, may_be_cut=True)
OBJECT = Asked(tools={}, format=Format.OBJECT)
CITY_JSON = Asked(tools={}, format=Format.SCHEMA, schema=CITY)
MUST_CUT = Asked(tools={"get_weather": CITY}, calling=Calling.MUST, may_be_cut=True)
CUT_JSON = Asked(tools={}, format=Format.OBJECT, may_be_cut=True)


def call(arguments: str | None, name: str = "get_weather") -> Answered:
    return Answered(None, (ToolCall(name, arguments),), "tool_calls")


def said(content: str | None, finish_reason: str = "stop") -> Answered:
    return Answered(content, (), finish_reason)


# (what it is, what was asked, what was answered, the result)
ROWS: list[tuple[str, Asked, Answered, Result]] = [
    ("a text", PLAIN, said("Hello"), Result.OK),
    ("a text although tools were offered", WEATHER, said("Hello"), Result.OK),
    ("nothing", PLAIN, said(None), Result.EMPTY),
    ("an empty text", PLAIN, said(""), Result.EMPTY),
    ("nothing although tools were offered", WEATHER, said(None), Result.EMPTY),
    ("nothing, cut off by max_tokens", PLAIN, said(None, "length"), Result.NOT_JUDGED),
    ("nothing, stopped by a filter", PLAIN, said(None, "content_filter"), Result.NOT_JUDGED),
    ("nothing where the client set stop", CUT, said(""), Result.OK),
    ("a refusal", PLAIN, Answered(None, says_more=True), Result.OK),
    ("a call that fits", WEATHER, call('{"city": "Paris"}'), Result.OK),
    ("a call with a text before it", WEATHER, Answered("Let me see.", call('{"city":"x"}').tool_calls), Result.OK),
    ("a call that ends with stop, as a named one does on vLLM", MUST, Answered("", call('{"city":"x"}').tool_calls), Result.OK),
    ("arguments that are cut off", WEATHER, call('{"city":"Par'), Result.TOOL_ARGUMENTS_NOT_JSON),
    ("arguments that are empty", WEATHER, call(""), Result.TOOL_ARGUMENTS_NOT_JSON),
    ("arguments with something behind them", WEATHER, call('{"city":"Paris"}}'), Result.TOOL_ARGUMENTS_NOT_JSON),
    ("arguments cut off by max_tokens", WEATHER, Answered(None, call('{"ci').tool_calls, "length"), Result.NOT_JUDGED),
    ("arguments cut off where the client set stop", CUT, call('{"city":"Par'), Result.NOT_JUDGED),
    ("arguments without what is required", WEATHER, call("{}"), Result.TOOL_ARGUMENTS_MISMATCH),
    ("arguments of another type", WEATHER, call('{"city": 5}'), Result.TOOL_ARGUMENTS_MISMATCH),
    ("arguments that are a list", WEATHER, call("[]", "ping"), Result.TOOL_ARGUMENTS_MISMATCH),
    ("any arguments where the tool has no schema", WEATHER, call('{"a": 1}', "ping"), Result.OK),
    ("a tool that was not offered", WEATHER, call("{}", "get_time"), Result.UNKNOWN_TOOL),
    ("a tool that was not offered beside those of other kinds", OTHERS, call("{}", "search"), Result.NOT_JUDGED),
    ("a call of another form", WEATHER, call(None), Result.NOT_JUDGED),
    ("a call although none may be made", NO_CALLS, call('{"city":"x"}'), Result.UNKNOWN_TOOL),
    ("a text where a call must be made", MUST, said("Hello"), Result.TOOL_MISSING),
    ("nothing where a call must be made and the client set stop", MUST_CUT, said(""), Result.OK),
    ("a text where a call must be made and the client set stop", MUST_CUT, said("Hello"), Result.TOOL_MISSING),
    ("a text cut off where a call must be made", MUST, said("Hello", "length"), Result.NOT_JUDGED),
    ("a refusal where a call must be made", MUST, Answered(None, says_more=True), Result.OK),
    ("an object", OBJECT, said('{"a": 1}'), Result.OK),
    ("a list where an object was asked for", OBJECT, said("[1]"), Result.JSON_MISMATCH),
    ("a text where an object was asked for", OBJECT, said("Hello there!"), Result.JSON_INVALID),
    ("an object in Markdown", OBJECT, said('```json\n{"a": 1}\n```'), Result.JSON_INVALID),
    ("half an object, cut off by max_tokens", OBJECT, said('{"a": ', "length"), Result.NOT_JUDGED),
    ("half an object where the client set stop", CUT_JSON, said('{"a": '), Result.NOT_JUDGED),
    ("a refusal where an object was asked for", OBJECT, Answered(None, says_more=True), Result.NOT_JUDGED),
    ("what the schema asks for", CITY_JSON, said('{"city": "Paris"}'), Result.OK),
    ("what the schema does not take", CITY_JSON, said('{"town": "Paris"}'), Result.JSON_MISMATCH),
    ("a call where JSON was asked for too", Asked(WEATHER.tools, format=Format.OBJECT), call('{"city":"x"}'), Result.OK),
    ("half of a pair of surrogates, as JavaScript reads it too", OBJECT, said('{"a": "\\ud800"}'), Result.OK),
    ("arguments with half of a pair", WEATHER, call('{"city": "\\ud83d"}'), Result.OK),
    ("a number that is none in JSON", OBJECT, said('{"a": NaN}'), Result.JSON_INVALID),
    ("a number of more digits than can be read", OBJECT, said('{"a": %s}' % ("1" * 5_000)), Result.NOT_JUDGED),
    ("a number beyond all that can be held", OBJECT, said('{"a": 1e999}'), Result.NOT_JUDGED),
    ("more brackets than can be read", OBJECT, said("[" * 5_000), Result.NOT_JUDGED),
    ("an object too large to look at", OBJECT, said('{"a": "%s"}' % ("x" * MAX_INSTANCE_BYTES)), Result.NOT_JUDGED),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "answered", "result"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_what_is_an_answer(asked: Asked, answered: Answered, result: Result) -> None:
    judgement = judge(answered, asked, AcceptRules(), Schemas())
    assert judgement.result is result
    assert judgement.is_violation == (result not in (Result.OK, Result.NOT_JUDGED))
    assert bool(judgement.reason) == judgement.is_violation


HARMONY = [
    ("<|channel|>analysis<|message|>The user", True),
    ("<|start|>assistant<|channel|>commentary to=", True),
    ("<|message|>Hello", True),
    ("commentary to=functions.get_weather <|constrain|>json", True),
    ("assistantcommentary to=functions.get_weather json{}", True),
    ("analysis<|message|>We need", True),
    ("assistantfinalHello", True),
    ("assistantanalysisWe need", True),
    (" to=functions.get_weather json", True),
    ("Hello there!<|return|>", True),
    ("Analysis of the figures", False),
    ("final answer: 42", False),
    ("commentary: the game was close", False),
    ("In harmony, <|channel|> names the channel.", False),
    ("assistant professors are", False),
    ("<|im_start|> is a token of ChatML", False),
]


@pytest.mark.parametrize(("content", "leaks"), HARMONY)
def test_harmonys_markup_is_known_by_where_an_answer_begins_and_ends(content: str, leaks: bool) -> None:
    result = judge(said(content), PLAIN, AcceptRules(), Schemas()).result
    assert result is (Result.HARMONY_LEAK if leaks else Result.OK)


def test_markup_that_max_tokens_cuts_off_is_still_no_answer() -> None:
    assert judge(said("<|start|>assistant", "length"), PLAIN, AcceptRules(), Schemas()).result is Result.HARMONY_LEAK


LENIENT = [
    ("tool calls", AcceptRules(tool_calls=False), WEATHER, call('{"city":"Par')),
    ("a missing call", AcceptRules(tool_calls=False), MUST, said("Hello")),
    ("JSON", AcceptRules(json=JsonRule.ANY), OBJECT, said("Hello")),
    ("nothing at all", AcceptRules(rejects_empty=False), PLAIN, said(None)),
    ("nothing at all where JSON was asked for", AcceptRules(rejects_empty=False), OBJECT, said("")),
    ("markup", AcceptRules(rejects_empty=False), PLAIN, said("<|channel|>analysis")),
]


@pytest.mark.parametrize(("rules", "asked", "answered"), [row[1:] for row in LENIENT], ids=[row[0] for row in LENIENT])
def test_each_rule_can_be_switched_off(rules: AcceptRules, asked: Asked, answered: Answered) -> None:
    assert judge(answered, asked, AcceptRules(), Schemas()).is_violation
    assert judge(answered, asked, rules, Schemas()).result is Result.OK


def test_a_violation_beats_what_could_not_be_judged() -> None:
    calls = (ToolCall("get_weather", None), ToolCall("get_weather", "{"))
    result = judge(Answered(None, calls, "tool_calls"), WEATHER, AcceptRules(), Schemas()).result
    assert result is Result.TOOL_ARGUMENTS_NOT_JSON


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_no_reason_quotes_what_was_asked_or_answered(row: tuple[str, Asked, Answered, Result]) -> None:
    reason = judge(row[2], row[1], AcceptRules(), Schemas()).reason
    for word in ("city", "Paris", "Par", "get_weather", "get_time", "Hello", "town"):
        assert word not in reason


def test_all_calls_of_one_answer_share_one_bound() -> None:
    """Else a model could be made to spend it once a call."""
    schema = json.dumps({"type": "object", "additionalProperties": {"type": "integer"}}).encode()
    arguments: dict[str, Any] = {f"k{place}": place for place in range(1_500)}
    one = ToolCall("count", json.dumps(arguments))
    asked = Asked({"count": schema})
    assert judge(Answered(None, (one,)), asked, AcceptRules(), Schemas()).result is Result.OK
    assert judge(Answered(None, (one,) * 8), asked, AcceptRules(), Schemas()).result is Result.NOT_JUDGED
