"""Shifts that take their time: small steps, one after the other, that can be paused and are gone back over together."""

from __future__ import annotations

import pytest

from policies.revisions import Kind, ModelState, NotPossible, Ramp, Revision, RoutingState, rolled_back, shifted
from policies.time_ramps import begun, due_s, gaining, paused, resumed, stepped, steps_of

BACKENDS = ("lmstudio", "vllm")
START = RoutingState({"jane": ModelState({"lmstudio": 1.0, "vllm": 0.0}), "joe": ModelState({"vllm": 1.0})})


def moving(over_s: float = 7200, vllm: float = 1.0) -> RoutingState:
    return begun(START, shifted(START, "jane", {"vllm": vllm}, BACKENDS), "jane", over_s, now_s=1000)


def vllm_of(state: RoutingState) -> float:
    return state.models["jane"].split["vllm"]


def test_a_ramp_begins_where_the_shares_are_and_ends_at_rest_at_the_target() -> None:
    state, shares = moving(), []
    assert vllm_of(state) == 0.0 and gaining(state.models["jane"]) == ("vllm",)
    while state.models["jane"].ramp is not None:
        state = stepped(state, "jane", 0)
        shares.append(vllm_of(state))
    assert len(shares) == 100 and shares[:2] == [0.01, 0.02] and shares[-1] == 1.0
    assert shares == sorted(shares)
    assert state == shifted(START, "jane", {"vllm": 1.0}, BACKENDS)


@pytest.mark.parametrize(("over_s", "steps"), [(0.5, 1), (2, 2), (30, 30), (100, 100), (7200, 100)])
def test_steps_are_at_least_a_second_apart_and_at_most_a_hundred(over_s: float, steps: int) -> None:
    assert steps_of(over_s) == steps


def test_a_step_is_due_so_long_after_the_last_one_and_none_is_while_the_ramp_is_paused() -> None:
    state = moving(7200)
    assert due_s(state.models["jane"]) == 1072
    late = stepped(state, "jane", 5000)
    assert (vllm_of(late), due_s(late.models["jane"])) == (0.01, 5072)
    still = paused(late, "jane")
    assert due_s(still.models["jane"]) is None and vllm_of(still) == 0.01
    on = resumed(still, "jane", 9000)
    assert due_s(on.models["jane"]) == 9072 and vllm_of(stepped(on, "jane", 9072)) == 0.02
    assert due_s(START.models["jane"]) is None


def test_a_step_by_a_clock_that_is_behind_lets_no_other_make_the_next_one_at_once() -> None:
    assert due_s(stepped(moving(7200), "jane", 10).models["jane"]) == 1000 + 72 + 72


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: moving(0), "a ramp takes some time; 0 s is none"),
        (lambda: moving(vllm=0.0), "jane has these shares already"),
        (lambda: stepped(START, "jane", 0), "jane is not moving"),
        (lambda: stepped(paused(moving(), "jane"), "jane", 0), "jane is not moving"),
        (lambda: paused(START, "jane"), "jane is not moving"),
        (lambda: paused(paused(moving(), "jane"), "jane"), "jane is not moving"),
        (lambda: resumed(moving(), "jane", 0), "jane has no ramp that was paused"),
        (lambda: resumed(START, "nobody", 0), "there is no model nobody; there are jane, joe"),
    ],
)
def test_what_cannot_be_is_one_sentence(change: object, said: str) -> None:
    assert callable(change)
    with pytest.raises(NotPossible) as told:
        change()
    assert str(told.value) == said


def journal_of(*states: tuple[RoutingState, Kind, int | None, int | None]) -> list[Revision]:
    return [
        Revision(number, 0, "ops", "", kind, state, "jane" if number > 1 else "", restores, part_of)
        for number, (state, kind, restores, part_of) in enumerate(states, start=1)
    ]


def test_a_rollback_goes_back_over_the_whole_ramp_wherever_it_is() -> None:
    states: list[tuple[RoutingState, Kind, int | None, int | None]]
    states = [(START, Kind.START, None, None), (moving(), Kind.SHIFT, None, None)]
    assert rolled_back(journal_of(*states), "jane") == (START, 1)
    for _ in range(3):
        states.append((stepped(states[-1][0], "jane", 0), Kind.RAMP, None, 2))
        assert rolled_back(journal_of(*states), "jane") == (START, 1)
    states.append((paused(states[-1][0], "jane"), Kind.RAMP, None, 2))
    assert rolled_back(journal_of(*states), "jane") == (START, 1)


def test_a_shift_in_the_middle_of_a_ramp_is_taken_back_to_where_the_ramp_was_and_it_moves_no_further() -> None:
    step = stepped(moving(), "jane", 0)
    shift = shifted(step, "jane", {"vllm": 0.5}, BACKENDS)
    journal = journal_of(
        (START, Kind.START, None, None),
        (moving(), Kind.SHIFT, None, None),
        (step, Kind.RAMP, None, 2),
        (shift, Kind.SHIFT, None, None),
    )
    state, restores = rolled_back(journal, "jane")
    assert (state.models["jane"], restores) == (ModelState({"lmstudio": 0.99, "vllm": 0.01}), 2)
    journal.append(Revision(5, 0, "ops", "", Kind.ROLLBACK, state, "jane", restores))
    assert rolled_back(journal, "jane") == (START, 1)


def test_a_rollback_to_a_step_of_a_ramp_stands_in_its_place() -> None:
    first, second = stepped(moving(), "jane", 0), stepped(stepped(moving(), "jane", 0), "jane", 0)
    journal = journal_of(
        (START, Kind.START, None, None),
        (moving(), Kind.SHIFT, None, None),
        (first, Kind.RAMP, None, 2),
        (second, Kind.RAMP, None, 2),
    )
    state, restores = rolled_back(journal, "jane", to=3)
    assert (vllm_of(state), restores, state.models["jane"].ramp) == (0.01, 3, None)
    journal.append(Revision(5, 0, "ops", "", Kind.ROLLBACK, state, "jane", restores))
    assert rolled_back(journal, "jane") == (START, 1)


def test_a_ramp_is_written_without_what_it_does_not_need() -> None:
    ramp = moving().models["jane"].ramp
    assert ramp == Ramp({"lmstudio": 1.0, "vllm": 0.0}, {"lmstudio": 0.0, "vllm": 1.0}, 7200, 1000)
