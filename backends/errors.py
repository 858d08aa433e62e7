"""How an attempt on a backend can end badly: one type a cause, each saying who failed and whether the backend may have acted."""

from __future__ import annotations


class BackendError(Exception):
    """The base of everything that an attempt may raise.

    The message is in our words, because it is logged: what the backend said may quote a prompt or a key, and stays in `body`.
    `status` is the backend's HTTP status, None where it sent none; `body` is what it said, at most
    `backends.exchange.ERROR_BODY_BYTES` of it. Neither reaches a client unread: `router.faults` writes what clients see.
    """

    def __init__(
        self, message: str, *, status: int | None = None, body: bytes = b"", retry_after_s: float | None = None
    ):
        super().__init__(message)
        self.status = status
        self.body = body
        self.retry_after_s = retry_after_s


class ConnectFailed(BackendError):
    """Nothing was sent: the connection could not be made in time, or was gone before the request was written."""


class Refused(BackendError):
    """The backend is too busy (429, 503) and said so before doing any work; `retry_after_s` is its own estimate, if it gave one.

    `room_in_s` instead, where it was not asked: the router's own limit for it is reached, and when there should be room again.
    """

    def __init__(self, message: str, *, status: int | None = None, body: bytes = b"", retry_after_s: float | None = None,
                 room_in_s: float | None = None):  # fmt: skip
        super().__init__(message, status=status, body=body, retry_after_s=retry_after_s)
        self.room_in_s = room_in_s


class Rejected(BackendError):
    """The call's own fault (400, 413, 422 ...): any backend would say so. Passed on once, never counted against the backend."""


class Overflow(Rejected):
    """The prompt is longer than this backend's context; a backend with a larger context may still answer."""


class NotServed(BackendError):
    """The backend does not have this model or route now: a wrong name, an unloaded model, an old version."""


class RouteMissing(NotServed):
    """The backend says that it has no such path: not of this model but of this whole API, and for every call of it."""


class NeedMissing(BackendError):
    """The backend says that it was started without `need`, by its name in the configuration's `can`; another may have it.

    `of_this_call`: other calls with the same need it answers, so nothing is to be learned.
    """

    def __init__(
        self, message: str, need: str, *, status: int | None = None, body: bytes = b"", of_this_call: bool = False
    ):
        super().__init__(message, status=status, body=body)
        self.need = need
        self.of_this_call = of_this_call


class KeyRefused(BackendError):
    """The backend refuses the router's own key (401, 403): the operator's problem, never the client's."""


class FirstTokenTimeout(BackendError):
    """No content came in time. The backend may still be working on it; the connection is closed to stop it."""


class AnswerTimeout(BackendError):
    """A non-streamed answer was not whole in time. The backend may still be working on it; the connection is closed to stop it."""


class Failed(BackendError):
    """The backend answered with a 5xx, or with an error inside a 200, before any content."""


class ProtocolBroken(BackendError):
    """What came back is not an answer: bad framing, HTML, an empty stream, malformed JSON, a redirect."""


class NotAccepted(BackendError):
    """What came back is an answer, but none to what was asked: nothing at all, arguments that are no JSON, a schema not satisfied.

    The message says which, and quotes nothing: the client gets it.
    """


class StreamBroken(BackendError):
    """The stream ended, stalled or turned into an error after content had been sent on to the client.

    `is_stalled`: it stood still, so that the backend may be working on it still.
    """

    def __init__(self, message: str, *, status: int | None = None, is_stalled: bool = False):
        super().__init__(message, status=status)
        self.is_stalled = is_stalled


class Diverged(BackendError):
    """Asked again for a stream that broke elsewhere, the backend says something else than what the client has seen of it."""


class DeadlinePassed(BackendError):
    """The call's own deadline passed during the attempt; says nothing about the backend."""
