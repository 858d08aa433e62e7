"""One call on its way: what was asked, until when, and the trail of what was tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from backends.asking import AS_IT_IS, Translation
from backends.canonical_forms import Answer
from backends.http1 import Pieces
from backends.transcript import Transcript
from backends.usage import Usage
from policies.admission import Priority
from policies.choose import Candidate
from policies.facts import CallFacts
from policies.outcome import OutcomeKind
from router.contract_asked import Asking
from router.multipart import FormBody
from router.owners import Held, Owners
from router.reading import CallBody


class AttemptNote(msgspec.Struct, frozen=True, gc=False):
    """One attempt, as it ended."""

    backend: str
    outcome: OutcomeKind
    said: str
    took_s: float
    replica: str = ""
    way: str = ""  # in which a stream that broke elsewhere was carried on here

    def __str__(self) -> str:
        words = f": {self.said}" if self.said else ""
        if self.way:
            return f"{self.backend} (resumed: {self.way}) {self.outcome.value} after {self.took_s:.3f} s{words}"
        return f"{self.backend} {self.outcome.value} after {self.took_s:.3f} s{words}"


class NoBody(msgspec.Struct, frozen=True):
    """Of a request that is all in its path."""

    @property
    def prompt(self) -> bytes:
        """Nothing for an engine to work on."""
        return b""

    def write(self, _model: bytes, _translation: Translation = AS_IT_IS) -> Pieces:
        """Nothing to send."""
        return ()


class Call(msgspec.Struct):
    """One request of a client. `deadline_s` and `started_s` are instants of the loop's clock.

    `form`: which of `backends.apis.FORMS` a whole answer has, "" for the APIs that are not there. `owners`: who marks the ids of
    stored responses; `held`: the stored response that the call is about, or goes on from.
    """

    facts: CallFacts
    path: bytes
    body: CallBody | FormBody | NoBody
    content_type: bytes
    request_id: bytes
    started_s: float
    deadline_s: float
    wants_trail: bool = False
    priority: Priority = Priority.INTERACTIVE
    attempts: int = 0
    first_s: float = 0.0
    choice: str = ""
    revision: int = 0  # the routing state under which its backend was chosen
    candidates: tuple[Candidate, ...] = ()
    trail: list[AttemptNote] = msgspec.field(default_factory=list)
    transcript: Transcript | None = None
    asking: Asking | None = None  # where its model's answers are judged, from the first one on
    method: bytes = b"POST"
    form: str = ""
    owners: Owners | None = None
    held: Held | None = None
    answer: Answer | None = None  # from the first attempt on

    @property
    def usage(self) -> Usage | None:
        """The tokens that the answer took, as far as its backend has said."""
        return None if self.answer is None else self.answer.usage


class HeaderView(Mapping[str, str]):
    """A call's headers by lower-case name, decoded only when somebody asks."""

    __slots__ = ("_raw",)

    def __init__(self, raw: dict[bytes, bytes]):
        self._raw = raw

    def __getitem__(self, name: str) -> str:
        return self._raw[name.encode("latin-1")].decode("latin-1")

    def get(self, name: str, default: Any = None) -> Any:
        """Without the exception that Mapping's own `get` catches: most rules ask for a header that a call does not have."""
        raw = self._raw.get(name.encode("latin-1"))
        return default if raw is None else raw.decode("latin-1")

    def __iter__(self):  # type: ignore[no-untyped-def]
        return (name.decode("latin-1") for name in self._raw)

    def __len__(self) -> int:
        return len(self._raw)
