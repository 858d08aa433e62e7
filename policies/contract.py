"""Whether what a backend says is an answer to what was asked: tool calls that can be run, JSON where JSON was asked for, anything at all.

    the answer                                                              result                     by the rule
    ----------------------------------------------------------------------  -------------------------  -----------
    no content, no tool call, no refusal, ended of its own accord           empty                      empty
    content that begins with harmony's markup, or ends with it              harmony_leak               empty
    a call although none may be made, or of a tool that was not offered     unknown_tool               tool_calls
    no call although one must be made                                       tool_missing               tool_calls
    arguments that are no JSON                                              tool_arguments_not_json    tool_calls
    arguments that the tool's own schema does not take                      tool_arguments_mismatch    tool_calls
    content that is no JSON, where a JSON format was asked for              json_invalid               json
    content that the format's schema does not take                          json_mismatch              json

What is nobody's fault is no violation: an answer that the client's own `max_tokens` cuts off (`length`) or a filter ends is not judged
for its form; where the client sets `stop`, or has begun the answer itself, a part or all of it may be
missing; a refusal is an answer.
Reasoning alone is none. What cannot be judged for a bounded price (`policies.schema`) counts as not judged, and is passed on.

A reason never quotes: neither prompt nor answer, not even a tool's name. Of a schema it names the keyword.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from policies.schema import MAX_INSTANCE_BYTES, Fit, NotJudged, Schemas, Work


class JsonRule(StrEnum):
    """`HOLD`: as VALID, and a stream is held back until it can be judged."""

    VALID = "valid"
    HOLD = "hold"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class AcceptRules:
    """What a model's answers must be. `tool_calls`: they must be valid; `rejects_empty`: something must be said."""

    tool_calls: bool = True
    json: JsonRule = JsonRule.VALID
    rejects_empty: bool = True


ANYTHING = AcceptRules(tool_calls=False, json=JsonRule.ANY, rejects_empty=False)


class Result(StrEnum):
    """What a judgement comes to; also the metric's label."""

    OK = "ok"
    NOT_JUDGED = "not_judged"
    EMPTY = "empty"
    HARMONY_LEAK = "harmony_leak"
    UNKNOWN_TOOL = "unknown_tool"
    TOOL_MISSING = "tool_missing"
    TOOL_ARGUMENTS_NOT_JSON = "tool_arguments_not_json"
    TOOL_ARGUMENTS_MISMATCH = "tool_arguments_mismatch"
    JSON_INVALID = "json_invalid"
    JSON_MISMATCH = "json_mismatch"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A result, and why, in a sentence."""

    result: Result
    reason: str = ""

    @property
    def is_violation(self) -> bool:
        """Whether the answer is none."""
        return self.result not in (Result.OK, Result.NOT_JUDGED)


OK = Judgement(Result.OK)
NOT_JUDGED = Judgement(Result.NOT_JUDGED)


class Calling(StrEnum):
    """What `tool_choice` says."""

    MAY = "may"
    MUST = "must"
    MUST_NOT = "must_not"


class Format(StrEnum):
    """What the content must be."""

    TEXT = "text"
    OBJECT = "object"  # json_object
    SCHEMA = "schema"  # json_schema


@dataclass(frozen=True, slots=True)
class Asked:
    """What the client asked for, as far as answers are judged by it.

    `tools`: by name the JSON of their `parameters`, b"" where they have none; `has_other_tools`: some that are no functions. `schema`: of
    the content. `may_be_cut`: the client set `stop`, or has begun the answer itself, so that a part or all of it may be missing.
    """

    tools: Mapping[str, bytes]
    has_other_tools: bool = False
    calling: Calling = Calling.MAY
    format: Format = Format.TEXT
    schema: bytes = b""
    may_be_cut: bool = False


@dataclass(frozen=True, slots=True)
class ToolCall:
    """`arguments` is None where it is a call of another form, that is not judged."""

    name: str
    arguments: str | None


@dataclass(frozen=True, slots=True)
class Answered:
    """One choice of an answer. `content`: None where it is not text. `says_more`: a refusal, audio, parts: content of another kind."""

    content: str | None
    tool_calls: Sequence[ToolCall] = ()
    finish_reason: str | None = "stop"
    says_more: bool = False


# What gpt-oss's own markup looks like where its tokens are written out, and where only the words between them are (vLLM without a
# channel, and with a header that was cut off). Only at the very beginning and the very end: in between an answer may speak of it.
_BEGINS = re.compile(
    r"\s*(?:<\|(?:start|channel|message|constrain|call|return)\|>|to=functions\."
    r"|(?:assistant\s*)?(?:analysis|commentary|final)\s*(?:<\||to=)|assistant(?:analysis|commentary|final))"
)
_ENDS = ("<|return|>", "<|call|>", "<|end|>")
_OF_ITS_OWN_ACCORD = frozenset({"stop", "tool_calls", "function_call"})


def begins_as_harmony(content: str) -> bool:
    """Whether it is raw markup where an answer should be."""
    return _BEGINS.match(content) is not None


def is_empty(answered: Answered) -> bool:
    """Whether nothing was said although nothing kept the model from it."""
    says = answered.content or answered.tool_calls or answered.says_more
    return not says and answered.finish_reason in _OF_ITS_OWN_ACCORD


def judge_plain(answered: Answered, asked: Asked, rules: AcceptRules) -> Judgement:
    """The part that applies to every answer in a chat."""
    if not rules.rejects_empty:
        return OK
    if is_empty(answered) and not asked.may_be_cut:
        return Judgement(Result.EMPTY, "the model said nothing")
    content = answered.content
    if content and (begins_as_harmony(content) or (answered.finish_reason and content.endswith(_ENDS))):
        return Judgement(Result.HARMONY_LEAK, "the model's raw markup stands in the content")
    return OK


def judge(answered: Answered, asked: Asked, rules: AcceptRules, schemas: Schemas) -> Judgement:
    """The first violation there is; else NOT_JUDGED where a part could not be judged, else OK."""
    plain = judge_plain(answered, asked, rules)
    if plain.is_violation:
        return plain
    if answered.finish_reason not in _OF_ITS_OWN_ACCORD:
        return NOT_JUDGED
    work, parts = Work(), [OK]
    if rules.tool_calls and (asked.tools or asked.has_other_tools):
        parts += _tool_calls(answered, asked, schemas, work)
    if rules.json is not JsonRule.ANY and asked.format is not Format.TEXT and not answered.tool_calls:
        parts.append(_json(answered, asked, schemas, work))
    return next((part for part in parts if part.is_violation), NOT_JUDGED if NOT_JUDGED in parts else OK)


def _tool_calls(answered: Answered, asked: Asked, schemas: Schemas, work: Work) -> list[Judgement]:
    if not answered.tool_calls:
        is_all_cut = asked.may_be_cut and not answered.content
        if asked.calling is Calling.MUST and not (answered.says_more or is_all_cut):
            return [Judgement(Result.TOOL_MISSING, "the model called no tool although it had to")]
        return []
    if asked.calling is Calling.MUST_NOT:
        return [Judgement(Result.UNKNOWN_TOOL, "the model called a tool although none may be called")]
    return [_tool_call(call, asked, schemas, work) for call in answered.tool_calls]


def _tool_call(call: ToolCall, asked: Asked, schemas: Schemas, work: Work) -> Judgement:
    if call.arguments is None:
        return NOT_JUDGED
    parameters = asked.tools.get(call.name)
    if parameters is None:
        if asked.has_other_tools:
            return NOT_JUDGED
        return Judgement(Result.UNKNOWN_TOOL, "the model called a tool that was not offered")
    size_bytes = len(call.arguments)
    if size_bytes > MAX_INSTANCE_BYTES:
        return NOT_JUDGED
    try:
        arguments = _decoded(call.arguments)
    except NotJudged:
        return NOT_JUDGED
    except json.JSONDecodeError:
        return _malformed(asked, Result.TOOL_ARGUMENTS_NOT_JSON, "the arguments of a tool call are not valid JSON")
    if not isinstance(arguments, dict):
        return Judgement(Result.TOOL_ARGUMENTS_MISMATCH, "the arguments of a tool call are not a JSON object")
    if not parameters:
        return OK
    fit, keyword = schemas.fit(parameters, arguments, size_bytes, work)
    said = f"the arguments of a tool call do not satisfy the tool's schema ({keyword})"
    return _fitting(fit, Result.TOOL_ARGUMENTS_MISMATCH, said)


def _json(answered: Answered, asked: Asked, schemas: Schemas, work: Work) -> Judgement:
    if not answered.content:  # whether that will do is for `empty` to say
        return NOT_JUDGED if answered.says_more else OK
    size_bytes = len(answered.content)
    if size_bytes > MAX_INSTANCE_BYTES:
        return NOT_JUDGED
    try:
        value = _decoded(answered.content)
    except NotJudged:
        return NOT_JUDGED
    except json.JSONDecodeError:
        return _malformed(asked, Result.JSON_INVALID, "the content is not valid JSON")
    if asked.format is Format.OBJECT:
        return OK if isinstance(value, dict) else Judgement(Result.JSON_MISMATCH, "the content is not a JSON object")
    if not asked.schema:
        return OK
    fit, keyword = schemas.fit(asked.schema, value, size_bytes, work)
    return _fitting(fit, Result.JSON_MISMATCH, f"the content does not satisfy the schema asked for ({keyword})")


def _malformed(asked: Asked, violation: Result, reason: str) -> Judgement:
    return NOT_JUDGED if asked.may_be_cut else Judgement(violation, reason)


def _fitting(fit: Fit, violation: Result, reason: str) -> Judgement:
    if fit is Fit.MISFITS:
        return Judgement(violation, reason)
    return OK if fit is Fit.FITS else NOT_JUDGED


def _decoded(text: str) -> Any:
    """The value. Raises JSONDecodeError where it is none, NotJudged where it is one that nobody here can hold."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        pass
    # Stricter than JSON.parse, which takes half of a surrogate pair, and numbers of any size.
    try:
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError) as exc:
        raise NotJudged("a number, or a depth, beyond what can be held") from exc


def _no_constant(name: str) -> float:
    raise json.JSONDecodeError(f"{name} is no JSON", name, 0)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number too large")
    return number
