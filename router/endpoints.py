"""The raw ASGI endpoints of `/v1`: admit, read, dispatch; whatever goes wrong is rendered here and nowhere else."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass, field
from typing import Any

from backends.apis import FORMS
from backends.errors import BackendError
from policies.facts import CallFacts
from router.admission import Admission, repeats
from router.answer_headers import Header, call_headers
from router.call import Call, HeaderView
from router.client import Client
from router.dispatch import dispatch
from router.doors import Doors
from router.edge import turn_of
from router.faults import (
    OUT_OF_MEMORY_S,
    CallFailed,
    Fault,
    bad_call,
    crashed,
    overloaded,
    stopping,
    unknown_model,
    unsupported,
)
from router.fleet import Fleet
from router.gate import GateFull
from router.multipart import FormBody, read_form
from router.needs import needs_of
from router.owners import Owners, not_found, with_previous
from router.reading import BadCall, CallBody, read_body
from router.record import Recorder
from router.voices import ANTHROPIC, broken_event, error_body, error_event

log = logging.getLogger("crossfade")

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Endpoint = Callable[[Scope, Receive, Send], Awaitable[None]]

KINDS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
    "/v1/messages/count_tokens": "count_tokens",
    "/tokenize": "tokenize",
    "/v1/tokenize": "tokenize",  # clients whose base URL ends in /v1 can reach no other
}
BACKENDS_PATHS = {"/v1/tokenize": "/tokenize"}  # where it is another than the client's
_JSON = b"application/json"
_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


@dataclass(frozen=True, slots=True)
class BackendEndpoint(ABC):
    """Everything that is answered by a backend: from a request to its answer, whatever the call is."""

    kind: str
    fleet: Fleet
    admission: Admission
    recorder: Recorder
    owners: Owners

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI hands it over."""
        turn = turn_of(scope)
        headers = turn.headers
        answering = Answering(Client(turn), request_id_of(headers, self.fleet.rng), self.fleet.revision, self.kind)
        client = answering.client
        try:
            await self._serve(scope, headers, receive, answering)
        except CallFailed as failed:
            if answering.call is None:
                self.recorder.turned_away(failed.fault.result)
            await answering.fail(failed.fault)
        except BackendError:
            pass  # the stream has ended with an error event
        except asyncio.CancelledError:
            await answering.fail(stopping())  # unless the client left, the router is at the end of its drain
        except MemoryError:  # many large bodies at once: this one is given up, and with it the memory that it held
            log.error("call %s is given up: no memory left", answering.request_id.decode())
            await answering.fail(overloaded(OUT_OF_MEMORY_S))
        except Exception:  # the edge: a bug costs one call, and its client hears of it in the usual form
            log.exception("call %s failed inside the router", answering.request_id.decode())
            await answering.fail(crashed())
        finally:
            if client.held_bytes:
                self.admission.let_go(client)
            client.leave()

    @abstractmethod
    def check_method(self, scope: Scope) -> None:
        """Raises CallFailed (405, 404) where the path does not take this request."""

    @abstractmethod
    def read(self, scope: Scope, headers: dict[bytes, bytes], body: bytes, answering: Answering) -> Call:
        """The call that the request makes. Raises CallFailed where it makes none."""

    async def _serve(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, answering: Answering) -> None:
        admission = self.admission
        self.check_method(scope)
        if b"x-api-key" in headers and self.kind in ANTHROPIC:
            headers = _with_bearer(headers)
        caller = admission.check_key(headers, scope["client"])
        if self.kind == "pass" and _is_form_of_a_stranger(headers, answering.client.edge.doors):
            raise CallFailed(_STRANGER)
        started_s = answering.started_s = answering.client.edge.loop.time()
        body = await admission.read_body(headers, receive, answering.client)
        call = self.read(scope, headers, body, answering)
        call.priority = admission.priority(headers, caller)
        if repeats(headers):
            self.recorder.repeated(call)
        quota = caller.quota
        if quota is not None:
            quota.begin(started_s)
        answering.call = call
        result = "client_gone"
        try:
            if call.priority or not admission.gate.try_enter():
                await self._wait_for_room(call)
            try:
                await dispatch(call, answering.client, self.fleet, self.recorder)
            finally:
                admission.gate.leave()
            result = "ok"
        except CallFailed as failed:
            result = failed.fault.result
            raise
        except BackendError:
            result = "stream_broken"
            raise
        finally:
            if quota is not None:
                quota.end()
            self.recorder.close(call, call.trail[-1].backend if call.trail else "", result)

    async def _wait_for_room(self, call: Call) -> None:
        try:
            await self.admission.gate.enter(call.deadline_s, call.priority)
        except GateFull as exc:
            raise CallFailed(overloaded(exc.wait_s)) from exc


@dataclass(frozen=True, slots=True)
class CallEndpoint(BackendEndpoint):
    """A path that takes a call as its body: one object for one path."""

    path: str
    backends_path: bytes = field(init=False)
    form: str = field(init=False)

    def __post_init__(self) -> None:
        """What is alike for all its calls."""
        object.__setattr__(self, "backends_path", BACKENDS_PATHS.get(self.path, self.path).encode())
        object.__setattr__(self, "form", self.kind if self.kind in FORMS else "")

    def check_method(self, scope: Scope) -> None:
        if scope["method"] != "POST":
            raise CallFailed(wrong_method("POST"))

    def read(self, scope: Scope, headers: dict[bytes, bytes], body: bytes, answering: Answering) -> Call:
        content_type, held = headers.get(b"content-type", b""), None
        try:
            read = _read_by_type(self.kind, body, content_type)
            if self.kind == "responses" and isinstance(read, CallBody):
                read, held = with_previous(read, self.owners)
        except BadCall as error:
            raise CallFailed(bad_call(error)) from error
        model = self.fleet.models.get(read.model)
        if model is None:
            raise CallFailed(unknown_model(read.model))
        pin = self.admission.pin(headers, model.bindings)
        if held is not None and (held.backend not in model.bindings or pin not in (None, held.backend)):
            raise CallFailed(not_found(held.shown, "previous_response_id"))
        facts = CallFacts(
            model=read.model,
            kind=self.kind,
            headers=HeaderView(headers),
            stream=read.stream,
            tools=read.has_tools,
            prompt_bytes=read.size_bytes,
            user=read.user,
            messages=read.messages,
            pin=pin,
            needs=needs_of(self.kind, read),
            path=self.path if self.kind == "pass" else "",
        )
        total_s = self.admission.total_s(headers, model.total_s)
        return Call(
            facts=facts,
            path=self.backends_path,
            body=read,
            content_type=content_type if self.kind == "pass" else _JSON,
            request_id=answering.request_id,
            revision=answering.revision,
            started_s=answering.started_s,
            deadline_s=answering.started_s + total_s,
            wants_trail=headers.get(b"x-crossfade-explain") == b"1",
            form=self.form,
            owners=self.owners,
            held=held,
        )


@dataclass(slots=True)
class Answering:
    """One request's way to an answer; `call` once it has been read. `kind` says in which API's form it is told of an error."""

    client: Client
    request_id: bytes
    revision: int
    kind: str = ""
    started_s: float = 0.0
    call: Call | None = None

    async def fail(self, fault: Fault) -> None:
        """Tell the client what went wrong, in the form that is still open: an answer, an event, or breaking off."""
        client = self.client
        if client.edge.is_gone or client.cycle.response_complete:
            return
        if client.has_begun:
            await client.finish_broken(broken_event(None, self.kind))
            return
        if client.is_open:  # the status went out with the first ping
            await client.finish_broken(error_event(fault, self.kind))
            return
        if client.cycle.waiting_for_100_continue:  # now the body may follow or not, and nobody could tell which
            client.edge.hang_up_after(client.cycle)
        body = error_body(fault, self.kind)
        await client.answer(fault.status, [*fault.all_headers(), *self._headers()], body)

    def _headers(self) -> list[Header]:
        call = self.call
        if call is None:
            return plain_headers(self.request_id, self.revision)
        return call_headers(call, call.trail[-1].backend if call.trail else "")


def plain_headers(request_id: bytes, revision: int) -> list[Header]:
    """What stands on answers for which no backend was asked."""
    return [
        (b"x-request-id", request_id),
        (b"x-crossfade-attempts", b"0"),
        (b"x-crossfade-revision", b"%d" % revision),
    ]


def _read_by_type(kind: str, body: bytes, content_type: bytes) -> CallBody | FormBody:
    """The type decides who reads the body; a browser's cross-site form can send no JSON type, and so reaches no backend."""
    if content_type != _JSON:
        media_type = content_type.partition(b";")[0].strip().lower()
        if kind == "pass" and media_type == b"multipart/form-data":
            return read_form(body, content_type)
        if media_type != _JSON:
            raise CallFailed(unsupported("Send the body as JSON, with the header content-type: application/json."))
    return read_body(kind, body)


def _is_form_of_a_stranger(headers: dict[bytes, bytes], doors: Doors) -> bool:
    """A browser sends a page's form anywhere without asking (to CORS a multipart form is a simple request), but says whose page it is.

    With a key it is no stranger's: no page can send one without asking.
    """
    origin = headers.get(b"origin")
    if origin is None or b"authorization" in headers or headers.get(b"content-type", b"").startswith(_JSON):
        return False
    return doors.hosts.is_foreign(origin.decode("latin-1"))


_STRANGER = Fault(403, "Pages of other sites may not send forms here.", "invalid_request_error", "foreign_origin")


def request_id_of(headers: dict[bytes, bytes], rng: random.Random) -> bytes:
    """The client's own id if it is a sane one, else a new one: unlike all others, but no secret."""
    given = headers.get(b"x-request-id")
    if given is not None and _SANE_ID.fullmatch(given):
        return given
    return b"%032x" % rng.getrandbits(128)


def wrong_method(allowed: str) -> Fault:
    """405, for a path that takes other methods."""
    message = f"This path takes {allowed} only."
    return Fault(405, message, "invalid_request_error", "method_not_allowed", headers=((b"allow", allowed.encode()),))


def _with_bearer(headers: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Anthropic's SDKs send the key by a name of their own; where both are there, the bearer counts."""
    return {b"authorization": b"Bearer " + headers[b"x-api-key"], **headers}


NOTHING = Fault(404, "There is nothing at this path.", "invalid_request_error", "not_found")


@dataclass(frozen=True, slots=True)
class NothingHere:
    """404 in OpenAI's shape, for every path that is not on the list; 405 for the paths that are only read, `read_only`."""

    fleet: Fleet
    read_only: Container[bytes]

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """One request, as ASGI hands it over."""
        turn = turn_of(scope)
        answering = Answering(Client(turn), request_id_of(turn.headers, self.fleet.rng), self.fleet.revision)
        try:
            await answering.fail(wrong_method("GET") if scope["raw_path"] in self.read_only else NOTHING)
        finally:
            answering.client.leave()
