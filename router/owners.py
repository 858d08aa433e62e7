"""Which replica holds a stored response: written into the response's id, so that it outlives the router and needs no shared memory.

Theory
------
A response that is stored lives in the memory of the one replica that made it; nobody else can go on from it, show it or cancel it.
The id that a client sees is the backend's own with twelve hex digits behind it:

    resp_871c54759ddb9de0                       the backend's
    resp_871c54759ddb9de0 5f1c07aa93be          the client's (in one word): owner XOR mask

`owner` is a keyed hash of (model, backend, replica's address), `mask` one of the backend's id. So the marks of two responses of one
replica have nothing in common, and nothing can be read out of them; whoever has the key takes the mask off and looks the owner up.
The key is the same in every process that reads the same configuration with the same admin key, and so are the marks.

What a mark says is checked against the fleet: one that leads to nobody (made up, altered, of a backend that is gone) is a 404.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import NoReturn

import msgspec

from backends.errors import BackendError, NotServed, ProtocolBroken, Rejected, RouteMissing
from backends.faults import MALFORMED, error_text
from backends.http import Limits, Outgoing, Replica
from policies.choose import Candidate, Choice, PassedOver, PassedOverReason, Reason
from policies.facts import Need
from router.faults import CallFailed, Fault
from router.fleet import LiveModel, LiveReplica
from router.reading import BadCall, CallBody, read_body
from router.relay import MAX_ANSWER_BYTES

_CODE_BYTES = 6  # a made-up id leads to one of a hundred owners once in 10^12 tries
_MARK_CHARS = 2 * _CODE_BYTES
_ID = re.compile(r"[A-Za-z0-9_-]{1,150}", re.ASCII)  # what may stand in a path as it is; engines' ids are 21 to 60 long
_GONE = re.compile(r"respons|previous", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Held:
    """A response and its owner: `id` is the backend's own, `shown` the client's."""

    model: str
    backend: str
    replica: LiveReplica
    id: str
    shown: str

    def choice(self, needs: frozenset[Need], lacks: frozenset[str]) -> Choice:
        """No other backend has it, whatever the owner's state; but one that lacks what the call needs would answer poorer."""
        if lacking := tuple(sorted(needs & lacks)):
            return Choice((), (PassedOver(self.backend, PassedOverReason.INCAPABLE, lacking),))
        return Choice((Candidate(self.backend, Reason.PINNED, "it holds the response"),))

    async def why_no_stream(self, broken: ProtocolBroken, server: Replica, limits: Limits) -> BackendError:
        """Why its stream broke off before any event: vLLM keeps events only of what is made in the background, and finds that out too late.

        So the owner is asked for the response itself, and `broken` stands where that does not tell.
        """
        asked = Outgoing(b"/v1/responses/" + self.id.encode(), (), method=b"GET")
        try:
            async with server.open(asked, limits) as reply:
                made = _MADE.decode(await reply.read(MAX_ANSWER_BYTES))
        except NotServed as error:
            return error
        except (BackendError, *MALFORMED):
            return broken
        if made.id != self.id or made.background:
            return broken
        return Rejected("the owner has kept no events of this response", status=400, body=_no_events(self.shown).body())

    def retell(self, error: BackendError, *, is_asked_for: bool) -> BackendError:
        """What the owner has answered, under the client's id. That it knows no such response (any more) is the call's own fault.

        `is_asked_for`: the call is for the response itself, and its path names nothing else that could be missing.
        """
        error.body = error.body.replace(self.id.encode(), self.shown.encode())
        if not isinstance(error, NotServed):
            return error
        if is_asked_for and isinstance(error, RouteMissing):
            return Rejected("the owner has no such route", status=404, body=_NO_ROUTE.body())
        text = error_text(error.body)
        says_so = text is not None and (text.param in _PARAMS or (text.param is None and _GONE.search(text.message)))
        if not (is_asked_for or says_so):
            return error
        param = "response_id" if is_asked_for else _PREVIOUS
        return Rejected("the owner has no such response", status=404, body=not_found(self.shown, param).body())


_NO_ROUTE = Fault(
    404, "The backend that holds this response cannot do this with it.", "invalid_request_error", "unsupported"
)


class _Made(msgspec.Struct):
    id: str
    background: bool | None = None


_MADE = msgspec.json.Decoder(_Made)


def _no_events(shown: str) -> Fault:
    message = f"Response with id '{shown}' was not made in the background, so it cannot be streamed again; ask for it without `stream`."
    return Fault(400, message, "invalid_request_error", "unsupported", "stream")


_PREVIOUS = "previous_response_id"
_PARAMS = frozenset({"response_id", _PREVIOUS})


class Owners:
    """Marks ids, and reads marks."""

    def __init__(self, secret: str, models: Mapping[str, LiveModel]):
        self._key = blake2b(secret.encode("utf-8", "surrogateescape"), digest_size=32, person=b"responses").digest()
        self.follow(models)

    def follow(self, models: Mapping[str, LiveModel]) -> None:
        """Look owners up among these from now on."""
        self._owners: dict[int, tuple[str, str, LiveReplica]] = {
            self._code(model.name, binding.backend.name, replica.url): (model.name, binding.backend.name, replica)
            for model in models.values()
            for binding in model.bindings.values()
            for replica in binding.backend.replicas
        }

    def mark(self, model: str, backend: str, replica: LiveReplica) -> Callable[[str], str]:
        """What makes of this owner's ids those that clients see."""
        return partial(self._marked, self._code(model, backend, replica.url))

    def find(self, shown: str, param: str = "response_id") -> Held:
        """The owner of a response, by the client's id in the field `param`. Raises CallFailed (404) where there is none."""
        own_id, mark = shown[:-_MARK_CHARS], shown[-_MARK_CHARS:]
        if _ID.fullmatch(own_id) and re.fullmatch(r"[0-9a-f]+", mark, re.ASCII):
            owner = self._owners.get(int(mark, 16) ^ self._mask(own_id))
            if owner is not None:
                return Held(*owner, own_id, shown)
        raise CallFailed(not_found(shown, param))

    def _marked(self, code: int, own_id: str) -> str:
        if not _ID.fullmatch(own_id):  # nobody could ask for it by its path; it stays as it is and leads nowhere
            return own_id
        return f"{own_id}{code ^ self._mask(own_id):0{_MARK_CHARS}x}"

    def _code(self, model: str, backend: str, url: str) -> int:
        return self._hash(b"owner", "\0".join((model, backend, url)))

    def _mask(self, own_id: str) -> int:
        return self._hash(b"mask", own_id)

    def _hash(self, person: bytes, text: str) -> int:
        digest = blake2b(text.encode(), digest_size=_CODE_BYTES, key=self._key, person=person)
        return int.from_bytes(digest.digest(), "big")


def not_found(shown: str, param: str = "response_id") -> Fault:
    """404 for a response that nobody holds, or nobody who is known; `param` says where the client named it."""
    name = shown if len(shown) <= 200 and shown.isprintable() else "…"
    message = f"Response with id '{name}' not found."
    return Fault(404, message, "invalid_request_error", "response_not_found", param)


def with_previous(body: CallBody, owners: Owners) -> tuple[CallBody, Held | None]:
    """A call for a response, with its predecessor's own id in the place of the client's, and who holds that.

    Raises BadCall where `previous_response_id` is no string, CallFailed (404) where it leads to nobody.
    """
    given = body.fields.get(_PREVIOUS)
    if given is None or bytes(given) == b"null":
        return body, None
    try:
        shown = msgspec.json.decode(given, type=str)
    except msgspec.DecodeError:
        _refuse()
    held = owners.find(shown, _PREVIOUS)
    fields = {**body.fields, _PREVIOUS: msgspec.Raw(msgspec.json.encode(held.id))}
    return read_body("responses", msgspec.json.encode(fields)), held


def _refuse() -> NoReturn:
    raise BadCall(f"{_PREVIOUS} must be a string", param=_PREVIOUS)
