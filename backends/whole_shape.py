"""The form that an engine's whole answers repeat: one text, with its count of tokens, known again without being parsed.

An engine writes every plain answer in the same bytes, but for some values. The places of the values are learned from an answer that was
read in full; what fits the pattern is then an answer of the same meaning, and the text and the counts are what the pattern caught. All
else (tool calls, a refusal, several choices, probabilities, another model) differs in what is not a value, and is read in full.

    {"id":"1","choices":[{"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9}}
    {"id":?,"choices":[{"message":{"role":"assistant","content":TEXT},"finish_reason":REASON}],"usage":{"prompt_tokens":COUNT}}

One pass of a compiled pattern costs a third of decoding and writing the fields anew (measured: 1 KB, 2 µs).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

MOST_SHAPES = 4  # with reasoning and without it, cut off or not
MOST_BYTES = 16_384  # of an answer: past that, decoding costs less than a pattern that looks at each letter
_STRING = rb'(?:[^"\\\x00-\x1f\x7f]++|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*+'
_NUMBER = rb"-?[0-9]++(?:\.[0-9]++)?(?:[eE][-+]?[0-9]++)?"
_TOKEN = re.compile(rb'[{}\[\],:]|"(?:[^"\\]++|\\.)*+"|-?[0-9.eE+-]++|true|false|null', re.DOTALL)
_CATCHES = {
    "choices/message/content": ("text", rb'"(?P<text>' + _STRING.replace(b"*+", b"++") + rb')"'),
    "choices/message/reasoning": ("thought", rb'"(?P<thought>' + _STRING + rb')"'),
    "choices/finish_reason": ("reason", rb'"(?P<reason>stop|length)"'),
    "usage/prompt_tokens": ("prompt", rb"(?P<prompt>[0-9]{1,15})"),
    "usage/completion_tokens": ("answer", rb"(?P<answer>[0-9]{1,15})"),
    "usage/total_tokens": ("total", rb"(?P<total>[0-9]{1,15})"),
    "usage/prompt_tokens_details/cached_tokens": ("cached", rb"(?P<cached>[0-9]{1,15})"),
    "usage/completion_tokens_details/reasoning_tokens": ("reasoning", rb"(?P<reasoning>[0-9]{1,15})"),
}
_CATCHES["choices/message/reasoning_content"] = _CATCHES["choices/message/reasoning"]
_NAMES = ("text", "thought", "reason", "prompt", "answer", "total", "cached", "reasoning")
_NEEDED = frozenset({"text", "reason", "prompt", "answer", "total"})
# What means something as it stands, so that another value is another form; and where anything but nothing is no plain answer.
_FIXED = frozenset({"model", "object", "choices/index", "choices/message/role"})
_EMPTY = ("choices/message/", "choices/logprobs", "error")
_NO_CALLS = b"[choices/message/tool_calls"
_OPENINGS = (b"{", b"[")
_LITERALS = (b"null", b"true", b"false")


class WholeShape:
    """The forms of one model's answers on one backend, by which `model` they name."""

    __slots__ = ("_is_over", "_shapes")

    def __init__(self) -> None:
        self._shapes: list[re.Pattern[bytes]] = []
        self._is_over = False

    def read(self, body: bytes) -> tuple[bytes, ...] | None:
        """Of an answer that has a known form its raw text, raw thought, reason, and the five counts; b"" for what it does not have."""
        if len(body) > MOST_BYTES:
            return None
        for shape in self._shapes:
            found = shape.fullmatch(body)
            if found is not None:
                return found.group(*_NAMES) if body.isascii() or _is_utf8(body) else None
        return None

    def learn(self, body: bytes) -> None:
        """Take the form of an answer that was read in full, if it is a plain one."""
        if self._is_over or len(body) > MOST_BYTES:
            return
        pattern = _pattern(body)
        if pattern is not None:
            self._shapes.append(pattern)
            self._is_over = len(self._shapes) >= MOST_SHAPES


def _pattern(body: bytes) -> re.Pattern[bytes] | None:
    """The pattern of all answers like this one; None where it is not a plain one, or says something twice."""
    parts: list[bytes] = []
    caught: set[str] = set()
    position = 0
    for path, start, end in _values(body):
        token = body[start:end]
        hole = _hole(path, token)
        if hole is None:
            return None
        name = _CATCHES[path][0] if path in _CATCHES and hole is not token else ""
        if name in caught:
            return None
        caught |= {name} - {""}
        parts += re.escape(body[position:start]), re.escape(token) if hole is token else hole
        position = end
    if not caught >= _NEEDED:
        return None
    parts.append(re.escape(body[position:]))
    parts += (b"(?P<%b>)" % name.encode() for name in _NAMES if name not in caught)
    return re.compile(b"".join(parts))


def _hole(path: str, token: bytes) -> bytes | None:
    """What stands in the place of a value: the value itself where it must not differ, None where there is no plain answer."""
    if token in _OPENINGS:  # an empty list of tool calls says nothing; what is in one is judged where it comes
        return None if path.startswith(_EMPTY) and token + path.encode() != _NO_CALLS else token
    if path in _FIXED or token in _LITERALS:
        return token
    if path in _CATCHES:
        catch = _CATCHES[path][1]
        return catch if re.fullmatch(catch, token) else None
    if path.startswith(_EMPTY):
        return None
    return b'"%b"' % _STRING if token[:1] == b'"' else _NUMBER


def _values(body: bytes) -> Iterator[tuple[str, int, int]]:
    """The values of a JSON object, of lists and objects their opening: the names that lead to each, and where it begins and ends."""
    path: list[str] = []
    inside: list[bytes] = []
    is_name = False
    for token in _TOKEN.finditer(body):
        said = token[0]
        if said in _OPENINGS:
            yield "/".join(path), token.start(), token.end()
            inside.append(said)
            is_name = said == b"{"
            path += [""] if is_name else []
        elif said in (b"}", b"]"):
            if inside.pop() == b"{":
                path.pop()
        elif said == b",":
            is_name = inside[-1] == b"{"
        elif said == b":":
            is_name = False
        elif is_name:
            path[-1] = msgspec.json.decode(said)
        else:
            yield "/".join(path), token.start(), token.end()


def _is_utf8(body: bytes) -> bool:
    try:
        str(body, "utf-8")
    except UnicodeDecodeError:
        return False
    return True
