"""The section `models`: for each public name its backends, their shares, and how calls are tried."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from router.config.backend import BackendTimeouts
from router.config.parts import (
    BackendName,
    Count,
    CountOrZero,
    Freeform,
    HeaderName,
    Ratio,
    Seconds,
    SecondsOrZero,
    SecondsRange,
    Section,
    Share,
    StickBy,
    Text,
    YesNoAuto,
    invalid,
)
from router.config.rollout import Rollout, Shadow

CallKind = Literal["chat", "completions", "embeddings", "responses", "messages", "count_tokens", "tokenize"]

# What a backend may be able to do or not: answer these APIs, and what calls ask for beside text.
Ability = Literal[
    "chat", "completions", "embeddings", "responses", "messages", "count_tokens", "tokenize",
    "n", "best_of", "logprobs", "echo", "suffix", "functions", "images", "audio", "video", "files", "tools",
    "custom_tools",
]  # fmt: skip

# What a call is, as opposed to how it is answered, and what a backend is chosen by: never filled in for the client.
_NOT_SAMPLING = frozenset({
    "model", "messages", "prompt", "input", "stream", "stream_options", "tools", "tool_choice", "continue_final_message",
    "add_generation_prompt", "n", "best_of", "logprobs", "top_logprobs", "prompt_logprobs",
})  # fmt: skip

# What OpenAI's API takes, and vLLM with it; what is beyond would be a 400 for every caller who leaves the field out.
_RANGES = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "max_tokens": (1, math.inf),
    "max_completion_tokens": (1, math.inf),
}


def _range(least: float, most: float) -> str:
    return f"from {least} to {most}" if math.isfinite(most) else f"of {least} or more"


class OnBackend(Section):
    """The model on one backend; only a name stands for {name: …}."""

    name: Text = Field(description="The model's name on this backend.")
    same_model: bool = Field(
        default=True,
        description="Whether it is the same model as on the others: only then a broken stream is resumed here.",
    )
    continues: YesNoAuto = Field(
        default="auto", description="Whether the backend continues a partial assistant message; auto finds out."
    )
    can: dict[Ability, bool] = Field(
        default_factory=dict,
        description="What the backend can (true) or cannot (false) do with the model; what is not named is found out.",
    )
    context_tokens: Count | None = Field(
        default=None, description="Tokens that a prompt and its answer may have together; unset: found out."
    )

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        full = handler.resolve_ref_schema(handler(core_schema))
        return {"anyOf": [{"type": "string", "minLength": 1}, full], "description": cls.__doc__}


class When(Section):
    """What a call must be for a rule to apply: all of it."""

    header: dict[HeaderName, str] = Field(default_factory=dict, description="Request headers and their exact values.")
    model: Text | None = Field(default=None, description="The model name that the client asked for.")
    tools: bool | None = Field(default=None, description="Whether the call offers tools.")
    stream: bool | None = Field(default=None, description="Whether the answer is streamed.")
    prompt_bytes_over: CountOrZero | None = Field(
        default=None, description="The request body is larger than this (bytes)."
    )
    prompt_bytes_under: Count | None = Field(default=None, description="The request body is smaller than this (bytes).")
    kind: CallKind | None = Field(default=None, description="Which endpoint was called.")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not any((self.header, self.model, self.kind)) and self._sizes_and_flags() == (None,) * 4:
            raise invalid(
                "names no condition, so it would apply to every call.", "Name one, or change the split instead."
            )
        over, under = self.prompt_bytes_over, self.prompt_bytes_under
        if over is not None and under is not None and under <= over + 1:
            raise invalid(f"asks for more than {over} and fewer than {under} bytes.", "No call can be both; widen it.")
        return self

    def _sizes_and_flags(self) -> tuple[object, ...]:
        return (self.tools, self.stream, self.prompt_bytes_over, self.prompt_bytes_under)


class Rule(Section):
    """Calls that go to one backend before the split is asked; the first rule that applies wins."""

    when: When = Field(description="What a call must be for the rule to apply.")
    use: BackendName = Field(description="The backend that gets these calls first.")


class Retry(Section):
    """How often, how soon and at what total cost a call is tried again."""

    attempts_per_backend: Count = Field(default=2, description="Tries on one backend, the first one included.")
    backoff_s: SecondsRange = Field(
        default=(0.1, 2.0), description="Shortest and longest pause between tries (seconds)."
    )
    retry_after_wait_s: SecondsOrZero = Field(
        default=1.0,
        description="The longest Retry-After (seconds), or queue at a full backend while another has room, that is waited for;"
        " else the call moves on.",
    )
    budget_ratio: Ratio = Field(
        default=0.2, description="Retries allowed per call: 0.2 adds at most a fifth to the load."
    )
    budget_min_per_s: Ratio = Field(default=3, description="Retries per second that are always allowed.")


class Timeouts(Section):
    """How long a call may take, part by part (seconds)."""

    connect_s: Seconds = Field(default=2, description="Seconds until the backend has accepted the connection.")
    first_token_s: Seconds = Field(default=60, description="Seconds until the first content of a streamed answer.")
    first_token_per_kib_s: SecondsOrZero = Field(
        default=0.2, description="Seconds added to first_token_s for each KiB of the request."
    )
    between_tokens_s: Seconds = Field(
        default=30, description="Seconds without content in a stream until it counts as broken."
    )
    answer_s: Seconds = Field(default=240, description="Seconds for a whole answer that is not streamed.")
    total_s: Seconds = Field(
        default=300, description="Seconds for the call with all its retries, fallbacks and resumes."
    )
    ping_after_s: Seconds | None = Field(
        default=None, description="Seconds of silence after which a stream's client is sent `: ping`; unset: never."
    )

    def overridden_by(self, backend: BackendTimeouts) -> Timeouts:
        """These timeouts with those that the backend sets in their place."""
        return self.model_copy(update=backend.model_dump(exclude_none=True))


class Eject(Section):
    """When a replica is taken out of rotation, and for how long."""

    consecutive_failures: Count = Field(default=5, description="Failures in a row that take a replica out of rotation.")
    failure_share: Share = Field(default=0.5, description="Share of failed calls within window_s that does the same.")
    window_s: Seconds = Field(default=30, description="Seconds that failure_share looks back.")
    for_s: SecondsRange = Field(default=(5, 300), description="Shortest and longest time out of rotation (seconds).")
    at_most_share: Share = Field(
        default=0.5,
        description="Largest share of a model's replicas, over all backends, that may be out at once; never the last.",
    )


class Hedge(Section):
    """A second attempt beside one that is slow; whichever has content first answers, the other is cancelled."""

    after_s: Seconds = Field(
        description="Seconds without content after which a further backend with room is asked as well: "
        "of streamed, interactive calls, paid for from the retry budget."
    )


class Resume(Section):
    """How a broken stream is carried on."""

    by: tuple[Literal["continue", "align"], ...] = Field(
        default=("continue", "align"),
        description="Ways to try, in order: continue the partial message, or ask again and align. Empty: never.",
    )


class Accept(Section):
    """What counts as an answer; what does not is tried elsewhere. See docs/http.md for the price of waiting, and what differs by API."""

    tool_calls: Literal["valid", "any"] = Field(
        default="valid",
        description="Whether tool calls must fit the tools offered. A stream that begins with one is held back to its end for that.",
    )
    json_: Literal["valid", "hold", "any"] = Field(
        default="valid",
        alias="json",
        description="Whether JSON answers must be valid. On streams it is only recorded; hold waits for the whole answer.",
    )
    empty: Literal["reject", "allow"] = Field(
        default="reject", description="Whether an answer without content, or of a model's raw markup, is refused."
    )


def _all_in_order(given: dict[str, Any]) -> tuple[str, ...]:
    return tuple(given.get("on", ()))


class ModelConfig(Section):
    """A public model name: where it is served, how its calls are shared out and tried."""

    on: dict[BackendName, OnBackend] = Field(
        min_length=1, description="Backends that serve it, and its name there (or a mapping, see below)."
    )
    split: dict[BackendName, Share] = Field(
        min_length=1, description="Share of the calls (0 to 1) that each backend gets. They sum to 1; not named: 0."
    )
    stick_by: tuple[StickBy, ...] = Field(
        default=("header:x-user-id", "user", "conversation"),
        description="What keeps a caller on one backend: the first of these that a call has. Empty: nothing does.",
    )
    rules: tuple[Rule, ...] = Field(
        default=(), description="Calls that go to a certain backend; the first that applies wins."
    )
    fallback: tuple[BackendName, ...] = Field(
        default_factory=_all_in_order,
        description="Order of the backends to try. The one chosen first is tried first. Default: all in `on`, in order.",
    )
    sampling: Freeform = Field(
        default_factory=dict,
        description="Request fields filled in where the client sends none, such as temperature; numbers as OpenAI's API takes them.",
    )
    retry: Retry = Field(default_factory=Retry, description="How calls are tried again.")
    timeouts: Timeouts = Field(default_factory=Timeouts, description="How long a call may take, part by part.")
    eject: Eject = Field(default_factory=Eject, description="When a replica is taken out of rotation.")
    hedge: Hedge | None = Field(default=None, description="A second attempt beside a slow one; unset: never.")
    resume: Resume = Field(default_factory=Resume, description="How a broken stream is carried on.")
    report_model: Literal["public", "backend"] = Field(
        default="public", description="The `model` of answers: the public name, or the answering backend's own."
    )
    accept: Accept = Field(default_factory=Accept, description="What counts as an answer.")
    shadow: Shadow | None = Field(
        default=None, description="Copies of calls sent to another backend and compared; unset: none."
    )
    rollout: Rollout | None = Field(default=None, description="The plan from baseline to candidate; unset: none.")

    @field_validator("sampling")
    @classmethod
    def _in_range(cls, given: dict[str, Any]) -> dict[str, Any]:
        for key, (least, most) in _RANGES.items():
            value = given.get(key)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (is_number and least <= value <= most):
                raise invalid(
                    f"sets {key} to what backends refuse, so every call that says nothing of it would fail.",
                    f"A number {_range(least, most)} is needed.",
                )
        return given

    @field_validator("sampling")
    @classmethod
    def _only_sampling(cls, given: dict[str, Any]) -> dict[str, Any]:
        for key in given:
            if key in _NOT_SAMPLING:
                raise invalid(f"sets {key}, which only the client can.", "Keep to fields such as temperature or top_p.")
        return given
