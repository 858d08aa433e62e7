"""Overload in virtual time: how much is still served, who is turned away, how soon all is well again."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from policies.admission import KEPT_FREE_FOR_S, Priority, RefusalReason
from policies.line import Line
from tests.policies.virtual_time import Arrival, Seen, Simulation, steadily

WAIT_S = 10.0
SLOTS, SERVICE_S = 4, 0.05
CAPACITY_PER_S = SLOTS / SERVICE_S
I, B, S = Priority  # noqa: E741
Service = Callable[[random.Random], float]
SERVICES: dict[str, Service] = {
    "each takes as long as the other": lambda rng: 1.0,
    "half to one and a half": lambda rng: rng.uniform(0.5, 1.5),
    "exponential": lambda rng: rng.expovariate(1.0),
}


def play(calls: list[Arrival], slots: int = SLOTS, queue_size: int = 1024, wait_s: float = WAIT_S) -> Simulation:
    sim = Simulation(Line(slots, queue_size, wait_s), wait_s).play(calls)
    assert sim.most_inside <= slots
    assert (sim.line.inside, sim.line.waiting) == (0, 0), "everybody has left in the end"
    return sim


def overloaded(service: Service, mean_s: float, load: float, for_s: float, slots: int = SLOTS) -> list[Arrival]:
    """Calls at random instants, `load` times what the slots can do."""
    rng = random.Random(1)
    calls, at_s = [], 0.0
    while at_s < for_s:
        calls.append(Arrival(at_s, service(rng) * mean_s))
        at_s += rng.expovariate(slots / mean_s * load)
    return calls


@pytest.mark.parametrize("load", [1.2, 10.0], ids="load {}".format)
@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES.keys())
@pytest.mark.parametrize(
    ("slots", "mean_s", "for_s"), [(4, 0.05, 30), (4, 1.0, 400), (64, 5.0, 300)], ids=["4x50ms", "4x1s", "64x5s"]
)
def test_what_can_be_served_is_served_and_hardly_anybody_waits_in_vain(
    service: Service, load: float, slots: int, mean_s: float, for_s: float
) -> None:
    sim = play(overloaded(service, mean_s, load, for_s, slots), slots)
    assert len(sim.served(until_s=for_s)) >= 0.9 * for_s * slots / mean_s
    assert sim.expired_share() < 0.01
    assert max(each.waited_s for each in sim.seen) <= WAIT_S + 1e-6


def test_slots_that_are_slower_than_the_wait_let_nobody_wait_in_vain_for_hours() -> None:
    sim = play(overloaded(SERVICES["exponential"], 20.0, 10.0, 20_000))
    assert sim.reasons()[RefusalReason.EXPIRED] <= 5, "but the first, when nothing is known"
    assert len(sim.served(until_s=20_000)) >= 0.9 * 20_000 * SLOTS / 20.0


def test_after_thirty_seconds_of_tenfold_load_all_is_normal_within_five() -> None:
    burst = [Arrival(at_s, SERVICE_S) for at_s in steadily(10 * CAPACITY_PER_S, 10, 40)]
    calm = [Arrival(at_s, SERVICE_S) for at_s in (*steadily(20, 0, 10), *steadily(20, 40, 60))]
    sim = play(sorted([*burst, *calm], key=lambda call: call.at_s), queue_size=SLOTS)
    assert len(sim.served(since_s=10, until_s=40)) >= 0.8 * 30 * CAPACITY_PER_S
    waits = sorted(each.waited_s for each in sim.served(since_s=10, until_s=40))
    assert waits[int(0.99 * len(waits))] <= SERVICE_S + 1e-9, (
        "a queue of the slots' number: no call takes twice as long"
    )
    assert all(each.waited_s == 0 for each in sim.seen if each.refusal not in (None, RefusalReason.EXPIRED))
    after = [each for each in sim.seen if each.call.at_s >= 45]
    assert after and all(each.refusal is None and each.waited_s == 0 for each in after)


@pytest.mark.parametrize("wait_s", [1.0, 10.0], ids="waits of {} s".format)
def test_a_queue_that_stands_is_kept_short_so_that_all_is_normal_within_five_seconds_too(wait_s: float) -> None:
    burst = [Arrival(at_s, SERVICE_S) for at_s in steadily(10 * CAPACITY_PER_S, 0, 30)]
    after = [Arrival(at_s, SERVICE_S) for at_s in steadily(0.5 * CAPACITY_PER_S, 30, 60)]
    sim = play([*burst, *after], wait_s=wait_s)
    assert all(each.refusal is None for each in sim.seen if each.call.at_s > 30.5)
    assert all(each.waited_s < SERVICE_S for each in sim.seen if each.call.at_s > 35)
    late = [each.waited_s for each in sim.served() if 15 < each.call.at_s < 30]
    assert max(late) <= 0.2 * wait_s + SERVICE_S
    assert len(sim.served(until_s=30)) >= 0.95 * 30 * CAPACITY_PER_S


def test_a_burst_may_wait_as_long_as_it_takes_to_work_it_off() -> None:
    sim = play([Arrival(0.001 * i, SERVICE_S) for i in range(300)])
    assert sim.reasons() == {None: 300}
    assert max(each.waited_s for each in sim.seen) > 0.3 * WAIT_S


def test_who_is_refused_is_told_a_time_after_which_there_is_room() -> None:
    sim = play(overloaded(SERVICES["half to one and a half"], SERVICE_S, 10.0, 30))
    told = [each.told_s for each in sim.seen if each.refusal and each.call.at_s > 15]
    assert told and all(0.1 * WAIT_S < wait_s <= 0.2 * WAIT_S for wait_s in told)


def test_a_call_with_little_time_is_refused_where_others_may_wait() -> None:
    rushed = [Arrival(at_s, SERVICE_S, patience_s=0.2) for at_s in steadily(7, 10, 20)]
    crowd = [Arrival(at_s, SERVICE_S) for at_s in steadily(2 * CAPACITY_PER_S, 0, 20)]
    sim = play(sorted([*rushed, *crowd], key=lambda call: call.at_s))
    assert {each.refusal for each in sim.seen if each.call.patience_s < 1} == {RefusalReason.WAIT_TOO_LONG}


def outcomes(sim: Simulation, priority: Priority) -> list[Seen]:
    return [each for each in sim.seen if each.call.priority is priority]


@pytest.mark.parametrize("service_s", [0.05, 1.0, 60.0], ids="{} s each".format)
def test_a_flood_of_batch_calls_takes_no_room_from_the_few_that_people_wait_for(service_s: float) -> None:
    for_s = 600 * service_s if service_s > 1 else 60.0 + 120 * service_s
    flood = [Arrival(at_s, service_s, B) for at_s in steadily(10 * SLOTS / service_s, 0, for_s)]
    # A person who asks every now and then, and is answered before asking again.
    people_per_s = 0.5 / service_s if service_s > 1 else 1.0
    trickle = [Arrival(at_s, service_s / 4, I) for at_s in steadily(people_per_s, 0.01, for_s)]
    sim = play(sorted([*flood, *trickle], key=lambda call: call.at_s), queue_size=64)
    people = outcomes(sim, I)
    waits = sorted(each.waited_s for each in people if each.refusal is None)
    assert len(waits) >= 0.99 * len(people)
    is_kept = service_s > 1
    assert waits[int(0.9 * len(waits))] <= (0.0 if is_kept else service_s), "the next place is soon free, or one is"
    assert len(sim.served(until_s=for_s)) >= (0.7 if is_kept else 0.95) * for_s * SLOTS / service_s


def test_a_batch_alone_has_every_slot() -> None:
    sim = play([Arrival(0.0, 1.0, B) for _ in range(SLOTS)])
    assert sim.most_inside == SLOTS and all(each.waited_s == 0 for each in sim.seen)


KEPT: list[tuple[str, float, float, bool]] = [
    ("a better call waited long for the next -> kept", 2.0, 10.0, True),
    ("it waited hardly at all -> not kept", 0.4, 10.0, False),
    ("it was long ago -> not kept", 2.0, KEPT_FREE_FOR_S + 3, False),
]


@pytest.mark.parametrize(("waited_s", "now_s", "is_kept"), [row[1:] for row in KEPT], ids=[row[0] for row in KEPT])
def test_a_slot_is_kept_free_where_a_better_call_needed_it(waited_s: float, now_s: float, is_kept: bool) -> None:
    line: Line[str] = Line(2, 9, WAIT_S)
    line.inside = 2
    assert line.turns_away(I, 0.0, WAIT_S) is None
    line.stand("person", I, 0.0)
    line.inside -= 1
    assert line.next_in(waited_s) == "person"
    line.inside = 1
    assert line.has_room(B, now_s) is not is_kept
    assert line.has_room(I, now_s)


def test_with_all_classes_pressing_the_best_is_served_and_the_worst_is_shed_first() -> None:
    # 0.6 of the capacity each: the first class fits, the second has the rest, the third nothing.
    calls = [
        Arrival(at_s + 1e-4 * priority, SERVICE_S, priority)
        for priority in Priority
        for at_s in steadily(0.6 * CAPACITY_PER_S, 0, 60)
    ]
    sim = play(sorted(calls, key=lambda call: call.at_s), queue_size=16)
    share = {p: sum(each.refusal is None for each in outcomes(sim, p)) / len(outcomes(sim, p)) for p in Priority}
    assert share[I] == 1.0
    assert 0.3 < share[B] < 1.0
    assert share[S] < 0.05
    assert sim.reasons()[RefusalReason.DISPLACED] > 0


def stands(line: Line[str], *who: tuple[str, Priority]) -> list[str]:
    """Let them come to a full line; returns who was displaced."""
    displaced = []
    for name, priority in who:
        if line.turns_away(priority, 0.0, WAIT_S) is None and (gone := line.stand(name, priority, 0.0)):
            displaced.append(gone[0])
    return displaced


COMING = [("s1", S), ("b1", B), ("s2", S), ("b2", B), ("i1", I), ("i2", I), ("i3", I), ("i4", I), ("i5", I), ("b3", B)]


def test_a_full_queue_gives_the_place_of_the_last_of_the_worst_class_to_a_better_one() -> None:
    line: Line[str] = Line(1, 4, WAIT_S)
    assert line.try_enter()
    assert stands(line, *COMING) == ["s2", "s1", "b2", "b1"]
    left = []
    while line.waiting:
        line.inside -= 1
        left.append(line.next_in(0.0))
    assert left == ["i1", "i2", "i3", "i4"], "i5 and b3 found nobody of a worse class"


def test_a_pace_that_was_known_from_one_bad_moment_is_learned_anew_where_nobody_is_let_wait() -> None:
    calls = overloaded(SERVICES["each takes as long as the other"], 5.0, 2.0, 5000, slots=1)
    assert len(play(calls, slots=1).served(until_s=5000)) >= 0.85 * 5000 / 5.0
