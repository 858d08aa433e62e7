"""How many wrong keys an address may send: further ones are told to wait.

A right key is never kept waiting: whoever shares an address with a stranger (a proxy, this machine) must be able to take a shift back
while that one guesses. So the limit keeps guessing slow to look at and cheap to refuse; that a key is not guessed is its length's doing.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address, ip_network

MOST = 5  # a person who tries the keys of the wrong file
WINDOW_S = 60.0
REMEMBERED = 4096  # addresses: a few hundred kilobytes, whoever comes


class WrongKeys:
    """Counts by address, in windows of a minute that begin with the first wrong key. Of too many addresses the oldest is forgotten."""

    def __init__(self, most: int = MOST, window_s: float = WINDOW_S, remembered: int = REMEMBERED):
        self._most = most
        self._window_s = window_s
        self._remembered = remembered
        self._seen: OrderedDict[str, tuple[int, float]] = OrderedDict()  # how many, and when the window ends

    def count(self, address: str, now_s: float) -> tuple[int, float]:
        """One more wrong key from there. Returns how many that makes, and for how long it is one too many, 0 where it is not."""
        whose = _network_of(address)
        number, ends_s = self._seen.get(whose, (0, 0.0))
        if now_s >= ends_s:
            self._seen.pop(whose, None)
            number, ends_s = 0, now_s + self._window_s
        self._seen[whose] = (number + 1, ends_s)
        if len(self._seen) > self._remembered:
            self._seen.popitem(last=False)
        return number + 1, ends_s - now_s if number >= self._most else 0.0


def _network_of(address: str) -> str:
    """Whoever has one address of IPv6 has the 2^64 beside it."""
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if not isinstance(ip, IPv6Address):
        return str(ip)
    return str(ip.ipv4_mapped or ip_network((ip, 64), strict=False))
