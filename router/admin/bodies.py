"""What may be asked of the admin API: the bodies of changes, each field of one type, no field beside them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictFloat, StrictInt

MOST_CHARS = 500  # of a reason: a few sentences
LONGEST_S = 31_536_000.0  # a year


def _is_said(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return _one_line(text.strip())


def _one_line(text: str) -> str:
    """Whatever is written down is shown in terminals and logs, and none of it may steer them."""
    if not text.isprintable():
        raise ValueError("must be one line of printable characters")
    return text


Line = Annotated[str, AfterValidator(_one_line)]
Reason = Annotated[
    str,
    AfterValidator(_is_said),
    Field(min_length=1, max_length=MOST_CHARS, description="Why; it is kept with the revision."),
]
Share = Annotated[StrictFloat, Field(allow_inf_nan=False, description="A fraction of the model's calls, 0 to 1.")]


class Body(BaseModel):
    """Fields that are not listed are refused, and nothing is turned into another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Shift(Body):
    """Backends that are not named share the rest in proportion to what they have."""

    shares: Annotated[dict[Line, Share], Field(min_length=1, max_length=100)]
    reason: Reason
    over_s: Annotated[
        float | None,
        Field(gt=0, le=LONGEST_S, allow_inf_nan=False, description="Move in small steps, so many seconds in all."),
    ] = None
    force: Annotated[bool, Field(description="Shift to a backend that is not well, too.")] = False


class Rollback(Body):
    """To the state before; a second one goes one further back."""

    reason: Reason
    to: Annotated[StrictInt | None, Field(ge=1, description="To the state of this revision instead.")] = None


class RampChange(Body):
    """Let a model's ramp stand still, or go on."""

    action: Literal["pause", "resume"]
    reason: Reason


class Target(Body):
    """A backend, or one replica of it as `backend/URL`."""

    target: Annotated[Line, Field(min_length=1, max_length=MOST_CHARS)]
    reason: Reason
