"""A model's contract at work: what a call asked for is read once, its answers are judged before the commit where that can be, else after.

When an answer is judged
------------------------
* A whole answer: before the client sees anything of it.
* A stream that has ended before its first content is sent on: the same.
* A stream of a call with tools that begins with a tool call, and one that must be JSON where the contract says `hold`: it is held back
  until its end (`Watch.is_held`), and judged then. The price is that the first token comes with the last.
* Any other stream: at its end. What was sent stays; the violation is counted, and said in the log.

A plain call (no tools, no format) pays for a look at its first bytes and its last ones; only violations of it are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from backends.answers import Chunk, Ends, ToolCall, has_value
from backends.canonical_forms import called
from backends.transcript import Transcript
from policies import contract as policy
from policies.contract import (
    NOT_JUDGED,
    AcceptRules,
    Answered,
    Asked,
    Format,
    JsonRule,
    Judgement,
    Result,
    judge,
    judge_plain,
)
from policies.schema import MAX_INSTANCE_BYTES, Schemas
from router.contract_asked import Asking
from router.reading import CallBody

_NO_VALUE = msgspec.Raw()
_PLAIN = Asked({})
# Results that a part of the answer being elsewhere may explain: see `Asked.may_be_cut`.
_IF_WHOLE = frozenset({Result.EMPTY, Result.TOOL_ARGUMENTS_NOT_JSON, Result.JSON_INVALID})


class Contract:
    """What a model's answers must be; one object a model. Chat is read here, the other APIs' answers in `router.contract_apis`."""

    def __init__(self, rules: AcceptRules, schemas: Schemas):
        self._rules = rules
        self._schemas = schemas

    @staticmethod
    def is_beyond_doubt(text: bytes, body: CallBody) -> bool:
        """Whether a whole answer that is nothing but this raw text has nothing that would be judged; "" is no such answer."""
        if not text or text[0] in OPENINGS or text.endswith(TEXTS_END):
            return False
        return not body.has_tools and "response_format" not in body.fields

    def load(self) -> None:
        """Import what judging needs."""
        self._schemas.load()

    def watch(self, asking: Asking) -> Watch | None:
        """What assembles the stream that answers `asking`; None for a plain call, which has nothing to be assembled."""
        if not asking.is_special:
            return None
        return Watch(
            holds_all=self.holds_all(asking),
            holds_calls=self.holds_calls(asking),
            one_tool_only=asking.one_tool_only,
        )

    def holds_all(self, asking: Asking) -> bool:
        """Whether a stream is held back to its end whatever it says."""
        return self._rules.json is JsonRule.HOLD and asking.asked.format is not Format.TEXT

    def holds_calls(self, asking: Asking) -> bool:
        """Whether one is that begins with a tool call."""
        return self._rules.tool_calls and asking.has_tools

    def of_whole(self, asking: Asking, body: bytes) -> Judgement | None:
        """Of a whole answer in the form that clients get; None where there is nothing to say of a plain one."""
        is_special = asking.is_special
        if not is_special and not asking.has_many and not _is_suspect(body):
            return None
        answers = [_answered(choice) for choice in _WHOLE.decode(body).choices]
        found = [self._judge(asking, answered, is_special=is_special) for answered in answers]
        return self._told(_worst(found), is_special=is_special)

    def of(self, asking: Asking, answered: Answered) -> Judgement | None:
        """Of an answer that has been read; None where there is nothing to say of a plain call's."""
        is_special = asking.is_special
        return self._told(self._judge(asking, answered, is_special=is_special), is_special=is_special)

    def of_plain(self, answered: Answered) -> Judgement | None:
        """Of one of which only the text matters; None where there is nothing to say."""
        return self._told(judge_plain(answered, _PLAIN, self._rules), is_special=False)

    def before_commit(self, asking: Asking, stream: Stream) -> Judgement | None:
        """Of a stream of which nothing was sent yet; None where there is nothing to say, or not yet."""
        watch = stream.watch
        if watch is not None and watch.is_over_bound:
            return self._finally(watch, NOT_JUDGED)
        if watch is not None and stream.ends.are_all_seen:
            return self._finally(watch, self._of_stream(asking, stream, watch))
        if stream.transcript.is_silent or stream.transcript.has_edge(OPENINGS, _ENDING):
            return self._told(self._judge(asking, stream.plain(), is_special=False), is_special=False)
        return None

    def after_end(self, asking: Asking, stream: Stream) -> Judgement | None:
        """Of a stream that was sent; None where it has been judged before, or there is nothing to say."""
        watch = stream.watch
        if watch is not None:
            return None if watch.is_judged else self._finally(watch, self._of_stream(asking, stream, watch))
        transcript = stream.transcript
        if transcript.has_content and not transcript.has_edge(OPENINGS, _ENDING):
            return None
        return self._told(self._judge(asking, stream.plain(), is_special=False), is_special=False)

    def _of_stream(self, asking: Asking, stream: Stream, watch: Watch) -> Judgement:
        if watch.has_many:
            return NOT_JUDGED
        said = stream.transcript.said()
        if said.is_over_bound:
            return NOT_JUDGED
        answered = Answered(said.content, watch.tool_calls(), stream.ends.reason, says_more=watch.says_more)
        return self._judge(asking, answered, is_special=True)

    def _judge(self, asking: Asking, answered: Answered, *, is_special: bool) -> Judgement:
        found = self._by(answered, asking.asked, is_special=is_special)
        if found.result in _IF_WHOLE and asking.begins_the_answer():
            return self._by(answered, replace(asking.asked, may_be_cut=True), is_special=is_special)
        return found

    def _by(self, answered: Answered, asked: Asked, *, is_special: bool) -> Judgement:
        if is_special:
            return judge(answered, asked, self._rules, self._schemas)
        return judge_plain(answered, asked, self._rules)

    def _told(self, found: Judgement, *, is_special: bool) -> Judgement | None:
        return found if is_special or found.is_violation else None

    def _finally(self, watch: Watch, found: Judgement) -> Judgement:
        watch.is_judged = True
        return found


class Stream(msgspec.Struct, frozen=True, gc=False):
    """What is known of a stream when it is judged; all three go on while it does."""

    transcript: Transcript
    watch: Watch | None
    ends: Ends

    def plain(self) -> Answered:
        """As the answer to a plain call, of which only the content matters."""
        said = self.transcript.said()
        return Answered(said.content, (), self.ends.reason, says_more=not said.is_plain)


class Watch:
    """Assembles what a transcript does not keep of one attempt's stream, and says whether it is held back.

    `is_over_bound`: held back for too long; it was let go.
    """

    __slots__ = (
        "_bytes", "_calls", "_has_begun", "_holds_all", "_holds_calls", "_one_tool_only", "has_many", "is_held", "is_judged",
        "is_over_bound", "says_more",
    )  # fmt: skip

    def __init__(self, *, holds_all: bool, holds_calls: bool, one_tool_only: bool):
        self._holds_all = holds_all
        self._holds_calls = holds_calls
        self._one_tool_only = one_tool_only
        self._calls: dict[int, _Assembled] = {}
        self._bytes = 0
        self._has_begun = False
        self.has_many = False  # choices, which are not told apart here
        self.says_more = False  # than text and tool calls
        self.is_held = False
        self.is_judged = False
        self.is_over_bound = False

    def see(self, chunk: Chunk) -> None:
        """Take note of an event that was read in full; what goes by its shape is text, and in the transcript."""
        is_call = False
        for choice in chunk.choices or ():
            self.has_many = self.has_many or choice.index > 0
            delta = choice.delta
            if delta is None:
                continue
            if delta.tool_calls:
                is_call = True
                self._add(delta.tool_calls)
            if (
                delta.refusal
                or isinstance(delta.content, list)
                or has_value(delta.function_call)
                or has_value(delta.audio)
            ):
                self.says_more = True
        if not self._has_begun and chunk.has_content:
            self._has_begun = True
            is_call = is_call and not any(
                choice.delta and (choice.delta.content or choice.delta.thought) for choice in chunk.choices or ()
            )
            self.is_held = self._holds_all or (self._holds_calls and is_call)
        if self.has_many:
            self.is_held = False  # what is not judged need not wait

    def let_go(self) -> None:
        """There is more than may be held back."""
        self.is_held = False
        self.is_over_bound = True

    def tool_calls(self) -> Sequence[policy.ToolCall]:
        """All calls, as far as they have come."""
        return [
            policy.ToolCall(call.name, None if call.is_other else "".join(call.pieces)) for call in self._calls.values()
        ]

    def _add(self, pieces: Sequence[ToolCall]) -> None:
        for place, piece in enumerate(pieces):
            index = place if piece.index is None else piece.index
            if index > 0 and self._one_tool_only:
                continue
            call = self._calls.setdefault(index, _Assembled())
            name, arguments = called(piece)
            call.name = call.name or name
            self._bytes += len(arguments)
            if has_value(piece.custom) or self._bytes > MAX_INSTANCE_BYTES:
                call.is_other = True  # not judged, so not kept
            else:
                call.pieces.append(arguments)


class _Assembled:
    __slots__ = ("is_other", "name", "pieces")

    def __init__(self) -> None:
        self.name = ""
        self.pieces: list[str] = []
        self.is_other = False


def _worst(found: Sequence[Judgement]) -> Judgement:
    """Of several choices: the first violation, else that something was not judged."""
    return next((each for each in found if each.is_violation), NOT_JUDGED if NOT_JUDGED in found else policy.OK)


# -- whole answers, as clients get them ------------------------------------------------------------


class _Function(msgspec.Struct, gc=False):
    name: str = ""
    arguments: str = ""


class _Call(msgspec.Struct, gc=False):
    function: _Function | None = None


class _Message(msgspec.Struct, gc=False):
    content: str | list[msgspec.Raw] | None = None
    refusal: msgspec.Raw = _NO_VALUE
    audio: msgspec.Raw = _NO_VALUE
    function_call: msgspec.Raw = _NO_VALUE
    tool_calls: list[_Call] = []


class _Choice(msgspec.Struct, gc=False):
    message: _Message
    finish_reason: str | None = None


class _Whole(msgspec.Struct, gc=False):
    choices: list[_Choice]


_WHOLE = msgspec.json.Decoder(_Whole)
_MESSAGE = b'"message":{"role":"assistant","content":'
_AFTER_MESSAGE = b'"},"logprobs":'
_EMPTY = (b"null", b'""', b"[")
OPENINGS = frozenset(b" \\\t<acft")  # what markup may begin with, inside a JSON string
_ENDING = b'>"'
TEXTS_END = b"|>"


def _answered(choice: _Choice) -> Answered:
    message = choice.message
    says_more = any(has_value(value) for value in (message.refusal, message.audio, message.function_call))
    text = message.content if isinstance(message.content, str) else None
    return Answered(
        text,
        [_call(call) for call in message.tool_calls],
        choice.finish_reason,
        says_more=says_more or bool(message.content and text is None),
    )


def _call(call: _Call) -> policy.ToolCall:
    function = call.function
    return policy.ToolCall("", None) if function is None else policy.ToolCall(function.name, function.arguments)


def _is_suspect(body: bytes) -> bool:
    """Whether an answer of one choice may be empty or markup: a look at the first bytes of its content, and at the last of its message."""
    start = body.find(_MESSAGE)
    if start < 0 or body.startswith(_EMPTY, start + len(_MESSAGE)):
        return True
    end = body.rfind(_AFTER_MESSAGE)
    return body[start + len(_MESSAGE) + 1] in OPENINGS or body[end - 2 : end] == TEXTS_END
