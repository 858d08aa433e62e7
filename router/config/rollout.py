"""The keys `shadow` and `rollout` of a model: how it is compared, and the plan from baseline to candidate."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from router.config.parts import (
    NOT_BOOL,
    BackendName,
    Count,
    CountOrZero,
    PositiveShare,
    Seconds,
    SecondsOrZero,
    Section,
    Share,
    Webhook,
    invalid,
)


class Shadow(Section):
    """Copies of live calls, sent to another backend and compared, never shown."""

    to: BackendName = Field(description="The backend that gets the copies.")
    share: Share = Field(description="Share of the calls (0 to 1) that is copied.")
    tokens_per_hour: Count | None = Field(
        default=None,
        description="Tokens per hour that copies may cost; then none are sent until the hour is over. Unset: no limit.",
    )


Measure = Literal[
    "errors",
    "ttft_p50",
    "ttft_p95",
    "itl_mean",
    "itl_p95",
    "tokens_per_s",
    "invalid_json",
    "invalid_tool_calls",
    "tool_call_agreement",
    "refusals",
    "empty_answers",
    "truncated",
    "similarity",
    "clients_gone",
]


class Step(Section):
    """One step of a rollout: either shadow copies or a share of the calls."""

    shadow: PositiveShare | None = Field(
        default=None, description="Share of the calls that is copied to the candidate."
    )
    share: PositiveShare | None = Field(default=None, description="Share of the calls that the candidate answers.")
    min_pairs: CountOrZero = Field(default=100, description="Compared pairs before a shadow step can end.")
    min_calls: CountOrZero = Field(
        default=100, description="Calls assigned to the candidate before a share step can end."
    )
    min_s: SecondsOrZero = Field(default=300, description="Seconds that the step lasts at least.")

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        if (self.shadow is None) == (self.share is None):
            raise invalid("must have either shadow or share.", "Write {shadow: 0.2} or {share: 0.05}.")
        return self


class Bake(Section):
    """The watch after the candidate has all calls."""

    hold_back: Share = Field(default=0.0, description="Share of the calls that stays on the baseline for comparison.")
    min_calls: CountOrZero = Field(
        default=1000, description="Calls on the candidate before the rollout counts as done."
    )
    max_s: Seconds = Field(default=86_400, description="Seconds after which the rollout counts as done in any case.")


class Gate(Section):
    """One measure that the candidate must not be worse in."""

    margin: Annotated[float, Field(gt=0, le=10), NOT_BOOL] | None = Field(
        default=None,
        description="How much worse is tolerated: a difference of shares (0.02 is two points), or for times a ratio "
        "(0.1 is 10 %). Unset: the preset's.",
    )
    min_calls: CountOrZero | None = Field(
        default=None, description="Calls (or pairs) of the candidate before it can pass. Unset: the preset's."
    )
    action: Literal["rollback", "warn", "off"] | None = Field(
        default=None, description="What being worse does: end the rollout, only warn, or nothing. Unset: the preset's."
    )


class Gates(Section):
    """The measures that decide whether a rollout goes on; each is tested so that it may be looked at all the time."""

    preset: Literal["standard", "fast", "careful"] = Field(
        default="standard",
        description="Margins and numbers of calls: fast decides on fewer calls, careful halves the margins.",
    )
    tolerated_ratio: Annotated[float, Field(ge=1, le=10), NOT_BOOL] = Field(
        default=1.25, description="Bad events of the candidate per bad event of the baseline that are still tolerated."
    )
    false_rollback: Annotated[float, Field(gt=0, lt=0.5), NOT_BOOL] = Field(
        default=0.05, description="Largest probability, over the whole rollout, of going back without cause."
    )
    measures: dict[Measure, Gate] = Field(
        default_factory=dict,
        description="Settings of single measures. Shares of calls: errors, invalid_json, invalid_tool_calls, refusals, "
        "empty_answers, truncated, clients_gone, ttft_p95 and itl_p95 (over the baseline's 95 % quantile). "
        "Ratios: ttft_p50, itl_mean, tokens_per_s. In pairs: tool_call_agreement, similarity.",
    )


# Five steps, a decade from first to last, more calls where more is at stake.
_LADDER = (
    Step(share=0.05, min_calls=100),
    Step(share=0.1, min_calls=150),
    Step(share=0.25, min_calls=250),
    Step(share=0.5, min_calls=250),
    Step(share=1.0, min_calls=250),
)


class Rollout(Section):
    """The plan that takes a model from baseline to candidate in steps, with gates between them."""

    baseline: BackendName = Field(description="The backend that is being left.")
    candidate: BackendName = Field(description="The backend that is being moved to.")
    steps: tuple[Step, ...] = Field(
        default=_LADDER,
        min_length=1,
        description="Shadow steps first, then rising shares. Default: 0.05, 0.1, 0.25, 0.5, 1.0.",
    )
    bake: Bake = Field(default_factory=Bake, description="The watch after the candidate has all calls.")
    advance: Literal["manual", "auto"] = Field(
        default="manual",
        description="Who goes to the next step: an operator, or Crossfade by itself. Going back is always automatic.",
    )
    webhooks: tuple[Webhook, ...] = Field(
        default=(), repr=False, description="URLs that are told of each change of the rollout."
    )
    gates: Gates = Field(default_factory=Gates, description="The measures that decide whether the rollout goes on.")

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.baseline == self.candidate:
            raise invalid(f"names {self.baseline} as baseline and as candidate.", "Name two different backends.")
        shares = [step.share for step in self.steps]
        if None in shares[next((at for at, share in enumerate(shares) if share is not None), len(shares)) :]:
            raise invalid("has a shadow step after a share step.", "Put the shadow steps first in steps.")
        given = [share for share in shares if share is not None]
        if any(later <= earlier for earlier, later in pairwise(given)):
            listed = ", ".join(f"{share:g}" for share in given)
            raise invalid(f"has steps whose shares do not rise: {listed}.", "Order them from small to large.")
        return self
