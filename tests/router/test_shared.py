"""Numbers in memory that several processes share: no limit is exceeded by as much as one, and a dead worker leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from router.shared import COUNTERS, Lock, NoMoreCounters, Part, Shared

# Each place that was taken must be covered by a token of the pipe: without one, somebody was let in beyond the limit.
TAKER = """
import os, sys
from router.shared import Part, Shared
memory, tokens, put_back, me, workers, limit = map(int, sys.argv[1:])
part = Part(Shared(memory, workers, me).counter("places"))
held = taken = beyond = 0
print("there", flush=True)
sys.stdin.readline()
for turn in range(10000):
    if part.takes(limit):
        taken += 1
        try:
            os.read(tokens, 1)
            held += 1
        except BlockingIOError:
            beyond += 1
            part.tell(held)
    if held and (turn % 3 or held > 2):
        os.write(put_back, b"t")
        held -= 1
        part.tell(held)
for _ in range(held):
    os.write(put_back, b"t")
part.tell(0)
print(taken, beyond)
"""


@pytest.mark.parametrize(
    "limit", [1, 4, 9], ids=["one place", "as many places as processes", "more than a lock is taken for"]
)
def test_processes_that_take_at_once_never_have_more_than_the_limit(limit: int) -> None:
    shared = Shared.made(4)
    tokens, put_back = os.pipe2(os.O_NONBLOCK)
    os.write(put_back, b"t" * limit)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", TAKER, *map(str, (shared.descriptor, tokens, put_back, me, 4, limit))],
            pass_fds=(shared.descriptor, tokens, put_back),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for me in range(4)
    ]
    for process in running:
        assert process.stdout is not None and process.stdout.readline() == "there\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("now\n")
        process.stdin.flush()
    said = [[int(word) for word in process.communicate(timeout=60)[0].split()] for process in running]
    assert [beyond for _, beyond in said] == [0, 0, 0, 0]
    assert sum(taken for taken, _ in said) > 100, "they did take"
    assert Shared(shared.descriptor, 4, 0).counter("places").total() == 0


def test_a_name_is_the_same_counter_for_everybody_and_another_name_another() -> None:
    shared = Shared.made(3)
    first, second = Shared(shared.descriptor, 3, 0), Shared(shared.descriptor, 3, 1)
    other, places = first.counter("other"), first.counter("places")
    again = second.counter("places")
    places.add(2)
    again.add(3)
    assert (places.total(), again.total(), other.total()) == (5, 5, 0)


def test_what_a_worker_had_is_taken_back_and_nobody_elses() -> None:
    shared = Shared.made(2)
    counters = [Shared(shared.descriptor, 2, me).counter("places") for me in range(2)]
    for counter in counters:
        counter.add(2)
        counter.shared.beat()
        counter.shared.serves()
        counter.stands_first(7 + counter.shared.me)
    shared.clear(0)
    assert counters[1].total() == 2
    assert counters[1].first_elsewhere(10) is None
    assert counters[0].first_elsewhere(10) == (8, 1)
    assert [shared.is_serving(me) for me in range(2)] == [False, True]


def test_who_waits_where_nobody_looks_after_it_is_passed_over() -> None:
    shared = Shared.made(3)
    counters = [Shared(shared.descriptor, 3, me).counter("places") for me in range(3)]
    counters[1].stands_first(5)
    counters[2].stands_first(9)
    counters[2].shared.beat()
    assert counters[0].first_elsewhere(10) == (9, 2), "worker 1 has never been at work on its queue"
    assert counters[0].first_elsewhere(-1) is None
    assert counters[0].anybody_waits()


def test_a_lock_that_somebody_keeps_is_not_waited_for_long() -> None:
    shared = Shared.made(2)
    counter = Shared(shared.descriptor, 2, 0).counter("places")
    keeper = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from router.shared import Shared\n"
            f"with Shared({shared.descriptor}, 2, 1).counter('places').lock:\n    print(1, flush=True); sys.stdin.read()",
        ],
        pass_fds=(shared.descriptor,),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert keeper.stdout is not None
    keeper.stdout.readline()
    began_s = time.monotonic()
    assert not counter.takes(1), "that needs the lock"
    assert time.monotonic() - began_s < 1
    assert counter.total() == 0
    keeper.kill()
    keeper.communicate()
    assert counter.takes(1), "the kernel took it from the dead"


def test_the_lock_is_let_go_after_use() -> None:
    shared = Shared.made(1)
    with Lock(shared.descriptor, 8) as has_it:
        assert has_it
    tried = "import fcntl, sys; fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 8)"
    subprocess.run([sys.executable, "-c", tried, str(shared.descriptor)], check=True, pass_fds=(shared.descriptor,))


def test_two_of_one_worker_have_their_own_parts_of_a_counter() -> None:
    counter = Shared(Shared.made(2).descriptor, 2, 0).counter("places")
    old, new = Part(counter), Part(counter)
    old.tell(3)
    new.tell(1)
    old.tell(0)
    assert (new.elsewhere(), counter.total()) == (0, 1)


def test_more_names_than_there_is_room_for_are_one_sentence() -> None:
    shared = Shared.made(1)
    for number in range(COUNTERS):
        start = 8 + number * 6
        shared.words[start] = number + 1
    with pytest.raises(NoMoreCounters, match="one more: there is no room"):
        shared.counter("one more")
