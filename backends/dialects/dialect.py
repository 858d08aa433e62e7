"""What differs between the kinds of servers, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from backends.asking import Ask
from backends.dialects.abilities import Abilities, says_nothing
from backends.dialects.lists import Presence, unknown

MEDIA = frozenset({"images", "audio", "video", "files"})  # what a prompt may hold beside text


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of server. `health_path` is asked with GET; 200 and `is_healthy(body)` mean that it can take calls.

    `list_paths` are asked with GET after its models; `presence(bodies, name)` says what the bodies mean for one (b"" where none came).
    `is_same(asked, said)`: whether an answer's `model` is the one asked for; None where servers of this kind name it as they like.
    `lacks`: the APIs (chat, tokenize …) that no server of this kind has as others have them, and what calls may need (n, logprobs,
    images …) that it drops without a word or takes for the client's mistake; what a server says of itself beats it. `about_paths` are
    asked with GET once in a server's life; `abilities(bodies, name, paths)` says what the bodies, those of `list_paths` before those of
    `about_paths`, mean for a model and for the further paths that clients may call. `asks`: by the name of a field, what a call that has
    it must be changed in, see `backends.asking`.
    """

    kind: str
    health_path: str
    is_healthy: Callable[[bytes], bool]
    list_paths: tuple[str, ...] = ()
    presence: Callable[[Sequence[bytes], str], Presence] = unknown
    is_same: Callable[[str, str], bool] | None = None
    lacks: frozenset[str] = frozenset()
    about_paths: tuple[str, ...] = ()
    abilities: Callable[[Sequence[bytes], str, Sequence[str]], Abilities] = says_nothing
    asks: Mapping[str, Ask] = field(default_factory=dict)
