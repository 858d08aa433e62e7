"""What preflight knows of a model on one backend before it judges: what the server says of itself, and what it made of each question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Check(StrEnum):
    """One question that every backend is asked, in this order."""

    GREEDY = "greedy"  # one message at temperature 0
    TURNS = "turns"
    TOOL_AUTO = "tool_auto"  # the same message with a tool beside it
    DEFAULTS = "defaults"  # the same message without sampling parameters
    N = "n"
    LOGPROBS = "logprobs"
    STOP = "stop"
    SEED = "seed"
    SEED_AGAIN = "seed_again"
    MAX_TOKENS = "max_tokens"
    EFFORT = "effort"
    TOOL_FORCED = "tool_forced"
    TOOL_SECOND_TURN = "tool_second_turn"
    TOOL_PARALLEL = "tool_parallel"
    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"
    STREAM = "stream"
    STREAM_USAGE = "stream_usage"
    STREAM_TOOL = "stream_tool"
    UNKNOWN_FIELD = "unknown_field"
    BAD_VALUE = "bad_value"
    BAD_TYPE = "bad_type"
    OVERFLOW = "overflow"


class Listed(StrEnum):
    """Whether the server has the model, by its own lists."""

    THERE = "there"
    NOT_LOADED = "not_loaded"
    MISSING = "missing"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Usage:
    """The counts of an answer; None: not said. `has_details`: whether it says what is cached, and what is reasoning."""

    prompt: int | None = None
    completion: int | None = None
    total: int | None = None
    has_details: bool = False


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool call. `fits`: its arguments are JSON, and what the tool's schema asks for."""

    name: str
    fits: bool
    has_our_id: bool  # of the form `call_…`


@dataclass(frozen=True, slots=True)
class Streamed:
    """How a stream came: pieces with content, events with `usage`, how often the role was said, whether `[DONE]` was."""

    pieces: int = 0
    usages: int = 0
    roles: int = 0
    is_done: bool = False


@dataclass(frozen=True, slots=True)
class Heard:
    """What the application would hear for one question: an answer (status 200), or an error with `status`, `code` and `words`.

    `form`: every key of the answer with its type, in order. `finish`: of each choice.
    """

    status: int = 200
    code: str | None = None
    words: str = ""
    text: str = ""
    has_reasoning: bool = False
    has_logprobs: bool = False
    finish: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    json_fits: bool | None = None  # of questions that ask for JSON
    usage: Usage | None = None
    form: tuple[str, ...] = ()
    stream: Streamed | None = None
    took_s: float = 0.0
    is_broken: bool = False  # a stream that ended with an error event; `code` is the event's
    is_passed_over: bool = False  # the router knows that the backend cannot, and would not have sent the call there

    @property
    def is_answer(self) -> bool:
        """Whether it is one, and no error."""
        return self.status == 200 and not self.is_broken


@dataclass(frozen=True, slots=True)
class Side:
    """All of one backend. `ails`: of each replica, "" where it is well; `name`: the model's name there; `said_name`: what answers call it.
    `listed_names`: the models that it lists.

    `is_other`: the servers of this kind name models reliably, and this one named another. `exact_tokens`: of the question GREEDY, from
    the server's tokenizer. `defaults`: its sampling defaults where it tells them. `heard`: what it was not asked is not in it.
    """

    backend: str
    kind: str
    name: str
    ails: tuple[str, ...] = ()
    listed: Listed = Listed.UNKNOWN
    listed_names: tuple[str, ...] = ()
    said_name: str | None = None
    is_other: bool = False
    context_tokens: int | None = None
    exact_tokens: int | None = None
    defaults: Mapping[str, float] = field(default_factory=dict)
    stop_word: str = ""  # where the question STOP had to stop
    heard: Mapping[Check, Heard] = field(default_factory=dict)

    @property
    def is_reachable(self) -> bool:
        """Whether a replica is well; else nothing was asked."""
        return any(not ail for ail in self.ails)


@dataclass(frozen=True, slots=True)
class Terms:
    """The public model, and the fields that its `sampling` fills in."""

    model: str
    sampling: frozenset[str] = frozenset()
    is_greedy: bool = False  # it sets temperature 0: then no other field of it matters
