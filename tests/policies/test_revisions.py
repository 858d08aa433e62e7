"""Changes of the routing state: what a shift, a rollback and a drain make of it, and what cannot be made."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.cohort import Splitter
from policies.differences import differences, moving
from policies.revisions import (
    Kind,
    ModelState,
    NotPossible,
    Revision,
    RoutingState,
    drained,
    filed,
    rolled_back,
    shifted,
    undrained,
)

BACKENDS = ("lmstudio", "vllm", "cloud")


def state_of(**splits: dict[str, float]) -> RoutingState:
    return RoutingState({name: ModelState(split) for name, split in splits.items()})


def split_after(before: Mapping[str, float], **shares: float) -> dict[str, float]:
    return shifted(state_of(jane=dict(before)), "jane", shares, BACKENDS).models["jane"].split


def test_backends_that_are_not_named_share_the_rest_in_proportion() -> None:
    assert split_after({"lmstudio": 0.95, "vllm": 0.05}, vllm=0.25) == pytest.approx({"lmstudio": 0.75, "vllm": 0.25})
    after = split_after({"lmstudio": 0.6, "vllm": 0.3, "cloud": 0.1}, cloud=0.4)
    assert after == pytest.approx({"lmstudio": 0.4, "vllm": 0.2, "cloud": 0.4})


def test_a_backend_without_a_share_so_far_gets_one() -> None:
    assert split_after({"lmstudio": 1.0}, vllm=0.01) == pytest.approx({"lmstudio": 0.99, "vllm": 0.01})


def test_a_share_of_less_than_nothing_at_all_is_nothing() -> None:
    assert str(split_after({"lmstudio": 0.5, "vllm": 0.5}, vllm=-0.0)["vllm"]) == "0.0"


def test_the_whole_share_leaves_the_others_nothing() -> None:
    assert split_after({"lmstudio": 0.75, "vllm": 0.25}, vllm=1.0) == {"lmstudio": 0.0, "vllm": 1.0}


def test_all_named_must_sum_to_one() -> None:
    assert split_after({"lmstudio": 1.0}, lmstudio=0.7, vllm=0.3) == {"lmstudio": 0.7, "vllm": 0.3}


@pytest.mark.parametrize(
    ("model", "shares", "said"),
    [
        ("joe", {"vllm": 0.5}, "there is no model joe; there are jane"),
        ("jane", {"nobody": 0.5}, "jane is not served by nobody; it is served by lmstudio, vllm, cloud"),
        ("jane", {"vllm": 1.5}, "the share of vllm is 1.5; a share is between 0 and 1"),
        ("jane", {"vllm": -0.1}, "the share of vllm is -0.1; a share is between 0 and 1"),
        ("jane", {"vllm": float("nan")}, "the share of vllm is nan; a share is between 0 and 1"),
        ("jane", {"vllm": 0.7, "lmstudio": 0.7}, "the shares sum to 1.4; they may sum to 1 at most"),
        (
            "jane",
            {"lmstudio": 0.5},
            "the shares sum to 0.5, and no other backend has a share to take the rest; name one",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence_and_changes_nothing(model: str, shares: dict[str, float], said: str) -> None:
    with pytest.raises(NotPossible) as told:
        shifted(state_of(jane={"lmstudio": 1.0}), model, shares, BACKENDS)
    assert str(told.value) == said


SHARES = st.dictionaries(st.sampled_from(BACKENDS), st.floats(0, 1), min_size=1)


@given(SHARES, st.sampled_from(BACKENDS), st.floats(0, 1))
def test_whatever_is_shifted_the_shares_sum_to_one_and_the_others_keep_their_ratios(
    weights: dict[str, float], name: str, share: float
) -> None:
    whole = sum(weights.values())
    if whole < 1e-6:
        return
    before = {each: weight / whole for each, weight in weights.items()}
    try:
        after = split_after(before, **{name: share})
    except NotPossible:
        assert share < 1 and not any(value > 0 for each, value in before.items() if each != name)
        return
    assert sum(after.values()) == pytest.approx(1) and after[name] == share
    others = [each for each in before if each != name and before[each] > 1e-6 and after[each] > 1e-6]
    ratios = [after[each] / before[each] for each in others]
    assert not ratios or max(ratios) == pytest.approx(min(ratios))


class Journal:
    """Revisions as a store would keep them."""

    def __init__(self, state: RoutingState):
        self.revisions = [Revision(1, 0.0, "file", "", Kind.START, state)]

    @property
    def state(self) -> RoutingState:
        return self.revisions[-1].state

    def add(self, kind: Kind, state: RoutingState, model: str = "", restores: int | None = None) -> None:
        if state == self.state:
            return  # a store keeps no revision that changes nothing
        self.revisions.append(Revision(len(self.revisions) + 1, 0.0, "ops", "", kind, state, model, restores))

    def shift(self, model: str, **shares: float) -> None:
        self.add(Kind.SHIFT, shifted(self.state, model, shares, BACKENDS), model)

    def rollback(self, model: str, to: int | None = None) -> int:
        state, restored = rolled_back(self.revisions, model, to)
        self.add(Kind.ROLLBACK, state, model, restored)
        return restored

    def share(self, model: str = "jane") -> float:
        return self.state.models[model].split.get("vllm", 0.0)


def test_a_rollback_goes_to_the_state_before_and_a_second_one_one_further_back() -> None:
    journal = Journal(state_of(jane={"lmstudio": 1.0}))
    for share in (0.1, 0.5):
        journal.shift("jane", vllm=share)
    assert [journal.rollback("jane"), journal.share()] == [2, 0.1]
    assert [journal.rollback("jane"), journal.share()] == [1, 0.0]
    with pytest.raises(NotPossible, match="no earlier state"):
        journal.rollback("jane")


def test_a_state_that_differs_in_nothing_but_shares_of_0_is_none_to_go_back_to() -> None:
    journal = Journal(state_of(jane={"lmstudio": 1.0}))
    for share in (0.0, 0.5):
        journal.shift("jane", vllm=share)
    assert [journal.rollback("jane"), journal.share()] == [2, 0.0]
    with pytest.raises(NotPossible, match="no earlier state"):
        journal.rollback("jane")


def test_after_a_new_shift_the_state_before_is_the_one_that_was_restored() -> None:
    journal = Journal(state_of(jane={"lmstudio": 1.0}))
    for share in (0.1, 0.5):
        journal.shift("jane", vllm=share)
    journal.rollback("jane")
    journal.rollback("jane")
    journal.shift("jane", vllm=0.2)
    journal.rollback("jane")
    assert journal.share() == 0.0
    with pytest.raises(NotPossible, match="no earlier state"):
        journal.rollback("jane")


def test_what_other_models_and_drains_do_does_not_count() -> None:
    journal = Journal(state_of(jane={"lmstudio": 1.0}, joe={"lmstudio": 1.0}))
    journal.shift("jane", vllm=0.1)
    journal.shift("joe", vllm=0.3)
    journal.add(Kind.DRAIN, drained(journal.state, "cloud"))
    journal.shift("jane", vllm=0.5)
    journal.shift("joe", vllm=0.4)
    journal.rollback("jane")
    assert (journal.share("jane"), journal.share("joe"), journal.state.draining) == (0.1, 0.4, ("cloud",))
    journal.rollback("jane")
    assert journal.share("jane") == 0.0


def test_a_rollback_to_a_number_takes_that_state_and_the_next_one_goes_on_from_there() -> None:
    journal = Journal(state_of(jane={"lmstudio": 1.0}))
    for share in (0.1, 0.25, 0.5):
        journal.shift("jane", vllm=share)
    assert journal.rollback("jane", to=3) == 3 and journal.share() == 0.25
    journal.rollback("jane")
    assert journal.share() == 0.1
    with pytest.raises(NotPossible, match="there is no revision 99; the last is 6"):
        journal.rollback("jane", to=99)


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=1, max_size=6))
def test_as_many_rollbacks_as_changes_lead_to_the_beginning(shares: list[float]) -> None:
    journal = Journal(state_of(jane={"lmstudio": 1.0}))
    seen = [0.0]
    for share in shares:
        journal.shift("jane", vllm=share)
        if share != seen[-1]:
            seen.append(share)
    for expected in reversed(seen[:-1]):
        journal.rollback("jane")
        assert journal.share() == expected
    with pytest.raises(NotPossible):
        journal.rollback("jane")


def test_a_drain_is_ended_by_its_name_and_neither_is_done_twice() -> None:
    state = drained(state_of(jane={"vllm": 1.0}), "vllm/http://127.0.0.1:1")
    with pytest.raises(NotPossible, match="draining already"):
        drained(state, "vllm/http://127.0.0.1:1")
    assert undrained(state, "vllm/http://127.0.0.1:1") == state_of(jane={"vllm": 1.0})
    with pytest.raises(NotPossible, match="not draining"):
        undrained(state, "vllm")


def test_a_difference_says_who_moves() -> None:
    before, after = state_of(jane={"lmstudio": 0.95, "vllm": 0.05}), state_of(jane={"lmstudio": 0.75, "vllm": 0.25})
    assert list(differences(before, after)) == [
        "jane: lmstudio 95 % -> 75 %, vllm 5 % -> 25 %; about 20 % of callers move, none back"
    ]
    assert list(differences(before, before)) == []


@given(SHARES, SHARES, st.integers(0, 1000))
def test_as_many_callers_are_said_to_move_as_do(one: dict[str, float], other: dict[str, float], seed: int) -> None:
    splits = []
    for weights in (one, other):
        whole = sum(weights.values())
        if whole < 0.01:
            return
        splits.append({name: round(weight / whole, 3) for name, weight in weights.items()})
    if any(not sum(split.values()) > 0 for split in splits):
        return
    before, after = (Splitter("jane", split) for split in splits)
    rng, callers = random.Random(seed), 400
    moved = sum(before.pick(f"{seed}-{n}", rng) != after.pick(f"{seed}-{n}", rng) for n in range(callers)) / callers
    whole_before, whole_after = (sum(split.values()) for split in splits)
    expected, _ = moving(
        {k: v / whole_before for k, v in splits[0].items()}, {k: v / whole_after for k, v in splits[1].items()}
    )
    assert moved == pytest.approx(expected, abs=0.13)  # five standard deviations of 400 draws


FILE = state_of(jane={"lmstudio": 0.95, "vllm": 0.05}, joe={"vllm": 1.0})
SERVED = {"jane": ("lmstudio", "vllm"), "joe": ("vllm",), "ann": ("vllm",)}


def test_a_file_that_says_what_it_said_before_leaves_what_commands_have_done() -> None:
    running = shifted(FILE, "jane", {"vllm": 0.5}, BACKENDS)
    assert filed(running, FILE, FILE, SERVED) == running


def test_a_file_that_changed_one_model_takes_it_and_leaves_the_other() -> None:
    running = shifted(FILE, "jane", {"vllm": 0.5}, BACKENDS)
    changed = state_of(jane={"lmstudio": 0.95, "vllm": 0.05}, joe={"vllm": 0.5, "cloud": 0.5})
    after = filed(running, FILE, changed, {**SERVED, "joe": ("vllm", "cloud")})
    assert (after.models["jane"], after.models["joe"]) == (running.models["jane"], changed.models["joe"])


def test_models_come_and_go_with_the_file_and_drains_stay() -> None:
    running = drained(FILE, "vllm")
    after = filed(running, FILE, state_of(jane={"lmstudio": 0.95, "vllm": 0.05}, ann={"vllm": 1.0}), SERVED)
    assert sorted(after.models) == ["ann", "jane"] and after.draining == ("vllm",)


def test_a_backend_that_serves_the_model_no_more_takes_its_share_with_it() -> None:
    running = shifted(FILE, "jane", {"cloud": 0.5}, BACKENDS)
    assert filed(running, FILE, FILE, SERVED).models["jane"] == FILE.models["jane"]


def test_without_an_earlier_file_the_file_is_what_counts() -> None:
    running = shifted(FILE, "jane", {"vllm": 0.5}, BACKENDS)
    assert filed(running, None, FILE, SERVED) == FILE


def test_a_rollback_to_a_revision_of_another_model_stands_where_the_model_was_then() -> None:
    first, second = shifted(FILE, "jane", {"vllm": 0.2}, BACKENDS), shifted(FILE, "jane", {"vllm": 0.3}, BACKENDS)
    joe = first.with_model("joe", ModelState({"cloud": 1.0}))
    states = [(FILE, ""), (first, "jane"), (joe, "joe"), (second.with_model("joe", joe.models["joe"]), "jane")]
    journal = [Revision(n, 0, "", "", Kind.SHIFT, state, model) for n, (state, model) in enumerate(states, start=1)]
    state, restores = rolled_back(journal, "jane", to=3)
    journal.append(Revision(5, 0, "", "", Kind.ROLLBACK, state, "jane", restores))
    assert rolled_back(journal, "jane")[0].models["jane"] == FILE.models["jane"]
