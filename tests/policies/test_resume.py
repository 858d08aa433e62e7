"""Where a broken stream goes on, in which way, who pays for it, and when it ends."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.budget import RetryBudget
from policies.outcome import OutcomeKind
from policies.resume import (
    NO_SKILL,
    Asked,
    Means,
    Place,
    Purse,
    ResumeReason,
    ResumeRules,
    ResumeStep,
    Sent,
    Skill,
    Way,
    next_resume,
)
from policies.retry import MIN_USEFUL_S

R = ResumeReason
CHAT, HARMONY = Skill(Means.CHAT), Skill(Means.HARMONY, keeps_reasoning=True)
BOTH = ResumeRules((Way.CONTINUE, Way.ALIGN), attempts_per_backend=2)
TALK = Asked("chat", max_tokens=100)
HALF = Sent("Once upon", "", tokens=2)
BROKEN = Place("broken", is_same=True, skill=CHAT, attempts=1, is_broken=True)
TALKER = Place("talker", is_same=True, skill=CHAT, attempts=0)
REFUSED = replace(TALKER, attempts=1, failed=OutcomeKind.REJECTED, refused=frozenset({Way.CONTINUE}))
ANEW = replace(REFUSED, failed=OutcomeKind.DIVERGED)
DOWN = replace(REFUSED, failed=OutcomeKind.CONNECT_FAILED)
PARROT = Place("parrot", is_same=True, skill=NO_SKILL, attempts=0)

OTHER = replace(PARROT, attempts=1, failed=OutcomeKind.DIVERGED, refused=frozenset({Way.ALIGN}))


def purse(*, budget: float = 3, remaining_s: float = 60.0) -> Purse:
    return Purse(remaining_s, RetryBudget(0, budget, 0.0), 0.0)


def decide(
    *places: Place, asked: Asked = TALK, sent: Sent = HALF, rules: ResumeRules = BOTH, purse: Purse | None = None
) -> ResumeStep:
    return next_resume(asked, sent, places, rules, purse or globals()["purse"]())


def went(step: ResumeStep) -> tuple[str | None, Way | None]:
    return step.backend, step.way


WAYS: list[tuple[str, Asked, Sent, Skill, Way]] = [
    ("text", TALK, HALF, CHAT, Way.CONTINUE),
    ("text, with tools offered", replace(TALK, has_tools=True), HALF, CHAT, Way.CONTINUE),
    ("text without a limit", replace(TALK, max_tokens=None), HALF, CHAT, Way.CONTINUE),
    ("text, and nobody continues", TALK, HALF, NO_SKILL, Way.ALIGN),
    ("a grammar", replace(TALK, is_structured=True), HALF, CHAT, Way.ALIGN),
    ("a message that the client continues itself", replace(TALK, is_open=True), HALF, CHAT, Way.ALIGN),
    ("as many tokens as were asked for", replace(TALK, max_tokens=2), HALF, CHAT, Way.ALIGN),
    ("only reasoning", TALK, Sent("", "hm", 1), Skill(Means.CHAT, keeps_reasoning=True), Way.ALIGN),
    ("reasoning that the template drops", TALK, Sent("Once", "hm", 2), CHAT, Way.ALIGN),
    ("reasoning that it keeps", TALK, Sent("Once", "hm", 2), Skill(Means.CHAT, keeps_reasoning=True), Way.CONTINUE),
    ("a space at the end", TALK, Sent("Once ", "", 1), CHAT, Way.CONTINUE),
    ("a space that the template trims", TALK, Sent("Once ", "", 1), Skill(Means.CHAT, keeps_space=False), Way.ALIGN),
    ("no space for it to trim", TALK, HALF, Skill(Means.CHAT, keeps_space=False), Way.CONTINUE),
    ("harmony", TALK, Sent("Once", "hm", 2), HARMONY, Way.CONTINUE),
    ("harmony, with tools offered", replace(TALK, has_tools=True), HALF, HARMONY, Way.ALIGN),
    ("harmony, and text that looks like its marks", TALK, Sent("<|end|>", "", 1), HARMONY, Way.ALIGN),
    ("harmony, and reasoning that does", TALK, Sent("Once", "<|end|>", 1), HARMONY, Way.ALIGN),
    ("a bare prompt", Asked("completions", max_tokens=100), HALF, NO_SKILL, Way.CONTINUE),
    ("a bare prompt without a limit", Asked("completions"), HALF, NO_SKILL, Way.ALIGN),
    ("several prompts", Asked("completions", max_tokens=100, is_one_prompt=False), HALF, NO_SKILL, Way.ALIGN),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "sent", "skill", "way"), [row[1:] for row in WAYS], ids=[row[0] for row in WAYS])
def test_the_way_follows_from_what_was_asked_sent_and_can_be_done(
    asked: Asked, sent: Sent, skill: Skill, way: Way
) -> None:
    place = replace(TALKER, skill=skill)
    assert decide(BROKEN, place, asked=asked, sent=sent) == ResumeStep(R.FURTHER_BACKEND, "talker", way)
    aligning = replace(BOTH, by=(Way.ALIGN,))
    assert went(decide(BROKEN, place, asked=asked, sent=sent, rules=aligning)) == ("talker", Way.ALIGN)
    only = decide(replace(place, may_continue=False), asked=asked, sent=sent)
    assert went(only) == ("talker", Way.ALIGN), "what may not is not"


NEVER: list[tuple[str, Asked, Sent, ResumeRules, Purse, ResumeReason]] = [
    ("several choices", replace(TALK, has_many_choices=True), HALF, BOTH, purse(), R.MANY_CHOICES),
    ("several choices, one ended", replace(TALK, has_many_choices=True), replace(HALF, is_finished=True), BOTH, purse(), R.MANY_CHOICES),
    ("logprobs", replace(TALK, has_logprobs=True), HALF, BOTH, purse(), R.LOGPROBS),
    ("a tool call begun", TALK, replace(HALF, is_plain=False), BOTH, purse(), R.TOOL_CALL),
    ("more than is kept", TALK, replace(HALF, is_over_bound=True), BOTH, purse(), R.TOO_LONG),
    ("switched off", TALK, HALF, replace(BOTH, by=()), purse(), R.OFF),
    ("too little time", TALK, HALF, BOTH, purse(remaining_s=MIN_USEFUL_S - 0.01), R.NO_TIME_LEFT),
]  # fmt: skip


@pytest.mark.parametrize("row", NEVER, ids=[row[0] for row in NEVER])
def test_what_can_never_be_right_ends(row: tuple[str, Asked, Sent, ResumeRules, Purse, ResumeReason]) -> None:
    _, asked, sent, rules, left, reason = row
    step = decide(BROKEN, TALKER, asked=asked, sent=sent, rules=rules, purse=left)
    assert step == ResumeStep(reason)
    assert not step.is_whole


@pytest.mark.parametrize("rules", [BOTH, replace(BOTH, by=())], ids=["on", "off"])
def test_an_answer_with_its_end_is_whole_whatever_else_it_is(rules: ResumeRules) -> None:
    sent = replace(HALF, is_finished=True, is_plain=False)
    assert decide(asked=replace(TALK, has_logprobs=True), sent=sent, rules=rules, purse=purse(remaining_s=0)).is_whole


ORDERS: list[tuple[str, tuple[Place, ...], tuple[str | None, Way | None]]] = [
    ("whoever continues is preferred to who could only be asked again", (BROKEN, PARROT, TALKER), ("talker", Way.CONTINUE)),
    ("a further backend, before the broken one", (BROKEN, TALKER), ("talker", Way.CONTINUE)),
    ("one that was not tried, in the worse way, before one that was", (replace(TALKER, attempts=1), PARROT), ("parrot", Way.ALIGN)),
    ("one that was tried, before the broken one", (BROKEN, replace(TALKER, attempts=1)), ("talker", Way.CONTINUE)),
    ("the broken one, where there is no other", (BROKEN,), ("broken", Way.CONTINUE)),
    ("the broken one, where no other has the same model", (BROKEN, replace(TALKER, is_same=False)), ("broken", Way.CONTINUE)),
    ("not one that stalled and has no other replica", (replace(BROKEN, may_be_at_it=True),), (None, None)),
    ("not one that has had its attempts", (replace(BROKEN, attempts=2),), (None, None)),
    ("not one that did not answer", (DOWN,), (None, None)),
    ("the other way where one was refused", (REFUSED,), ("talker", Way.ALIGN)),
    ("the other way where it began anew", (ANEW,), ("talker", Way.ALIGN)),
    ("nobody is asked again after one has diverged", (OTHER, replace(PARROT, backend="new")), (None, None)),
    ("who continues still may, after one has diverged", (OTHER, TALKER), ("talker", Way.CONTINUE)),
    ("nobody there", (), (None, None)),
]  # fmt: skip


@pytest.mark.parametrize(("places", "expected"), [row[1:] for row in ORDERS], ids=[row[0] for row in ORDERS])
def test_the_order_does_not_hang_on_that_of_unlike_candidates(
    places: tuple[Place, ...], expected: tuple[str | None, Way | None]
) -> None:
    for order in permutations(places):
        step = decide(*order)
        assert went(step) == expected
        assert expected[0] or step.reason is R.NO_BACKEND_LEFT


def test_alike_candidates_go_in_the_order_in_which_they_are_preferred() -> None:
    assert decide(BROKEN, TALKER, replace(TALKER, backend="later")).backend == "talker"


def test_the_first_attempt_on_a_further_backend_is_free_and_a_repeated_one_is_paid_for() -> None:
    nothing = purse(budget=0)
    assert decide(BROKEN, TALKER, purse=nothing) == ResumeStep(R.FURTHER_BACKEND, "talker", Way.CONTINUE)
    assert decide(BROKEN, purse=nothing) == ResumeStep(R.BUDGET_EMPTY)
    assert decide(BROKEN, PARROT, purse=nothing) == ResumeStep(R.FURTHER_BACKEND, "parrot", Way.ALIGN)
    one = Purse(60.0, RetryBudget(0, 0.1, 0.0), 0.0)
    assert [decide(BROKEN, purse=one).reason for _ in range(2)] == [R.SAME_BACKEND, R.BUDGET_EMPTY]


ENDS = [OutcomeKind.STREAM_BROKEN, OutcomeKind.REJECTED, OutcomeKind.DIVERGED, OutcomeKind.FAILED]


@given(
    backends=st.integers(1, 4),
    attempts_per_backend=st.integers(1, 3),
    ends=st.lists(st.sampled_from(ENDS), max_size=20),
)
def test_every_call_comes_to_an_end(backends: int, attempts_per_backend: int, ends: list[OutcomeKind]) -> None:
    rules = replace(BOTH, attempts_per_backend=attempts_per_backend)
    places = {str(name): replace(TALKER, backend=str(name)) for name in range(backends)}
    places["0"] = replace(places["0"], attempts=1, is_broken=True)
    paid = RetryBudget(0, 100, 0.0)
    steps = 0
    for end in [*ends, *[OutcomeKind.STREAM_BROKEN] * 20]:
        step = next_resume(TALK, HALF, list(places.values()), rules, Purse(60.0, paid, 0.0))
        if step.backend is None or step.way is None:
            break
        steps += 1
        place = places[step.backend]
        assert place.attempts < attempts_per_backend
        place = replace(place, attempts=place.attempts + 1)
        if end is OutcomeKind.STREAM_BROKEN:
            places = {name: replace(each, is_broken=False) for name, each in places.items()}
            place = replace(place, is_broken=True)
        else:
            place = replace(place, failed=end, refused=place.refused | {step.way})
        places[step.backend] = place
    else:
        raise AssertionError("it goes on and on")
    assert steps <= backends * attempts_per_backend - 1
