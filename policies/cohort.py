"""Which backend a caller belongs to under a split: stable for the caller, exact in the shares, gentle when shares change.

Theory
------
Weighted rendezvous hashing. For caller k and backend b a hash gives u(k, b), uniform in (0, 1), and the caller goes to the backend
with the smallest score -ln(u) / share. A score is an exponential variable of rate `share`, and of several of them each is the
smallest with a probability in proportion to its rate: the shares hold exactly, with no table of buckets and its rounding. The hash
is salted with the model: a caller who is early in one model's canary is not early in all of them.

Only the ratio of two shares decides between two backends, and from that follows all the rest: **a caller leaves b for c only if c's
share grew by a larger factor than b's.** Where one share is raised and the others shrink in proportion (what `shift` does), all the
others have the same, smaller factor, so callers only ever move to the raised one, and no more of them than it gained:

    {a: 0.95, b: 0.05}          -> {a: 0.75, b: 0.25}            20 % of all callers move from a to b, none back
    {a: 0.60, b: 0.30, c: 0.10} -> {a: 0.40, b: 0.20, c: 0.40}   20 % move from a to c, 10 % from b to c, nobody else
    and taken back               -> {a: 0.60, b: 0.30, c: 0.10}   the same 30 % return to where they were, nobody else moves

No scheme can promise "only from shrinking to growing shares" for every change among three or more backends, as long as the split
alone decides. Take P = {a: 1/2, b: 1/2}, Q = {a: 1/2, c: 1/2}, R = {b: 1/2, c: 1/2}. From P to Q the share of a stays, so its callers
A would have to stay; those of b, all the others, go to c. From P to R the share of b stays, so R has all the others on b. From Q to
R the share of c stays, so R has all the others on c. They can't be on both. What this scheme does from P to Q: the factors are
a 1, b 0, c infinite; a third of all callers moves from b to c, a sixth from b to a and a sixth from a to c: 2/3 where 1/2 would have
been enough. In the worst case it moves 2d / (1 + d) of the callers for a difference d between the splits, and no scheme does better.

Whoever cannot be recognised has no cohort; such calls are shared out by chance.

Source: Schindelhauer and Schomaker, "Weighted distributed hash tables" (SPAA 2005), the logarithmic method; the bound: Bavarian et al.,
"Optimality of correlated sampling strategies" (2020).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import msgspec

from policies.facts import CallFacts

# The top 52 of the hash's 64 bits: with one half added they are exact in a double, so u is never 0 and never 1.
_DROPPED_BITS = 12
_UNIT = 2.0**-52
# Callers come again: a race for two backends costs as much as 20 look-ups (measured). At most 2 MB for each split.
MOST_DRAWN = 8_192
MOST_KEY_CHARS = 128


@dataclass(frozen=True, slots=True)
class StickKey:
    """One way to recognise a caller, in the configuration's words: header:NAME, user or conversation. `header`: NAME in lower case."""

    text: str
    header: str | None = None


def parse_stick_by(entries: Sequence[str]) -> tuple[StickKey, ...]:
    """The ways to recognise a caller, in their order. Raises ValueError for one that does not exist."""
    return tuple(_stick_key(entry) for entry in entries)


def _stick_key(entry: str) -> StickKey:
    if entry in ("user", "conversation"):
        return StickKey(entry)
    header = entry.removeprefix("header:").strip().lower()
    if not entry.startswith("header:") or not header:
        raise ValueError(f"{entry!r} is no way to recognise a caller; write header:NAME, user or conversation")
    return StickKey(f"header:{header}", header)


def caller_key(stick_by: Sequence[StickKey], facts: CallFacts) -> tuple[str, str] | None:
    """The first of `stick_by` that the call has, as (which, value); an empty value is none. None where it has none of them."""
    for key in stick_by:
        if key.header is not None:
            value = facts.headers.get(key.header)
        elif key.text == "user":
            value = facts.user
        else:
            value = conversation_fingerprint(facts.messages)
        if value:
            return key.text, value
    return None


class _Message(msgspec.Struct, gc=False):
    role: str = ""
    content: msgspec.Raw = msgspec.Raw()


class _Part(msgspec.Struct, gc=False):
    text: str


_MESSAGES = msgspec.json.Decoder(list[_Message])
_CONTENT = msgspec.json.Decoder(str | list[msgspec.Raw] | None)
_PART = msgspec.json.Decoder(_Part)


def conversation_fingerprint(messages: bytes | msgspec.Raw) -> str | None:
    """32 hex digits that stay the same for every turn of one conversation: of its system prompts and its first user message.

    `messages` is the raw JSON of the field. A content that is a list of text parts counts as their text, so a client may change
    between the two forms. None where there is no user message with content, and for anything that is not a list of messages. Two
    conversations that begin with the same words are one caller; where that matters, a header or `user` must tell them apart.
    """
    if not messages:
        return None
    try:
        turns = _MESSAGES.decode(messages)
        return _fingerprint(turns)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _fingerprint(turns: Sequence[_Message]) -> str | None:
    digest = blake2b(digest_size=16)
    for turn in turns:
        if turn.role == "user":
            said = _said(turn.content)
            digest.update(b"user\0")
            digest.update(said)
            return digest.hexdigest() if said else None
        if turn.role in ("system", "developer"):
            said = _said(turn.content)
            digest.update(b"system\0%d\0" % len(said))
            digest.update(said)
    return None


def _said(content: msgspec.Raw) -> bytes:
    """What the content says; parts that are not text (an image) count as they are written."""
    decoded = _CONTENT.decode(content) if content else None
    if decoded is None:
        return b""
    if isinstance(decoded, str):
        return decoded.encode()
    return b"".join(_part(part) for part in decoded)


def _part(part: msgspec.Raw) -> bytes:
    try:
        return _PART.decode(part).text.encode()
    except msgspec.ValidationError:
        return bytes(part)


class Splitter:
    """The split of one model: from a caller's key to a backend."""

    __slots__ = ("_drawn", "_only", "_races", "_shares")

    def __init__(self, model: str, split: Mapping[str, float]):
        """`split` is backend to share, each >= 0; only their ratios matter. Raises ValueError where none is above 0."""
        if not all(share >= 0 and math.isfinite(share) for share in split.values()):
            raise ValueError(f"the split of {model} is {dict(split)}; shares must be between 0 and 1")
        shares = {backend: share for backend, share in sorted(split.items()) if share > 0}
        if not shares:
            raise ValueError(f"the split of {model} gives no backend a share above 0; shares must sum to 1")
        self._shares = shares
        self._drawn: dict[str, str] = {}  # a split never changes, so neither does what it has drawn
        self._only = next(iter(shares)) if len(shares) == 1 else None
        # NUL keeps the three parts apart: it occurs in no model's and no backend's name.
        # A hash that has its salt already is copied, never changed: a third cheaper than salting anew (measured).
        self._races = tuple(
            (backend, -1 / share, blake2b(f"{model}\0{backend}\0".encode(), digest_size=8))
            for backend, share in shares.items()
        )

    @property
    def backends(self) -> tuple[str, ...]:
        """The backends that have a share above 0."""
        return tuple(self._shares)

    @property
    def is_divided(self) -> bool:
        """Whether more than one backend has a share; if not, who the caller is does not matter."""
        return self._only is None

    def pick(self, key: str | None, rng: random.Random) -> str:
        """The backend of the caller with this key; without a key one by chance, in the shares."""
        if self._only is not None:
            return self._only
        if key is None:
            return rng.choices(tuple(self._shares), tuple(self._shares.values()))[0]
        drawn = self._drawn.get(key)
        if drawn is None:
            drawn = self._draw(key)
            if len(self._drawn) >= MOST_DRAWN:
                self._drawn.clear()
            if len(key) <= MOST_KEY_CHARS:
                self._drawn[key] = drawn
        return drawn

    def _draw(self, key: str) -> str:
        value = key.encode("utf-8", "surrogatepass")
        best, best_score = "", math.inf
        for backend, factor, salted in self._races:
            hashed = salted.copy()
            hashed.update(value)
            drawn = int.from_bytes(hashed.digest(), "big") >> _DROPPED_BITS
            score = math.log((drawn + 0.5) * _UNIT) * factor
            if score < best_score:
                best, best_score = backend, score
        return best
