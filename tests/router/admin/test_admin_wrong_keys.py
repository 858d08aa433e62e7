"""Wrong keys are counted by address, for a minute, in bounded memory."""

from __future__ import annotations

import pytest

from router.admin.wrong_keys import MOST, WINDOW_S, WrongKeys


def test_a_few_wrong_keys_a_minute_are_told_so_and_further_ones_to_wait_for_the_minutes_end() -> None:
    wrong = WrongKeys()
    assert [wrong.count("10.0.0.1", float(n)) for n in range(MOST)] == [(n + 1, 0.0) for n in range(MOST)]
    assert wrong.count("10.0.0.1", 20.0) == (MOST + 1, WINDOW_S - 20.0)
    assert wrong.count("10.0.0.2", 20.0) == (1, 0.0), "another address"
    assert wrong.count("10.0.0.1", WINDOW_S) == (1, 0.0), "the next minute"


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("10.0.0.1", "::ffff:10.0.0.1", True),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("", "a path of a socket", True),
    ],
)
def test_whoever_has_one_address_of_a_network_has_them_all(one: str, other: str, is_same: bool) -> None:
    wrong = WrongKeys(most=1)
    wrong.count(one, 0.0)
    assert (wrong.count(other, 0.0)[0] == 2) is is_same


def test_a_crowd_of_addresses_takes_bounded_memory_and_the_latest_are_remembered() -> None:
    wrong = WrongKeys(most=1, remembered=100)
    for n in range(10_000):
        wrong.count(f"10.0.{n // 250}.{n % 250}", 0.0)
    assert len(wrong._seen) == 100
    assert wrong.count("10.0.39.249", 0.0)[0] == 2
