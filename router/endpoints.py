"""The raw ASGI endpoints of `/v1`: admit, read, dispatch; whatever goes wrong is rendered here and nowhere else."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from backends.errors import BackendError
from policies.facts import CallFacts
from router.admission import Admission
from router.call import Call, HeaderView
from router.dispatch import dispatch
from router.edge import Client, edge_of
from router.faults import CallFailed, Fault, bad_call, overloaded, unknown_model
from router.fleet import Fleet
from router.gate import GateFull
from router.multipart import FormBody, read_form
from router.reading import BadCall, CallBody, read_body
from router.record import Recorder

log = logging.getLogger("crossfade")

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Endpoint = Callable[[Scope, Receive, Send], Awaitable[None]]

KINDS = {"/v1/chat/completions": "chat", "/v1/completions": "completions", "/v1/embeddings": "embeddings"}
_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


@dataclass(frozen=True, slots=True)
class CallEndpoint:
    """Everything that is answered by a backend: one object for one path."""

    path: str
    kind: str
    fleet: Fleet
    admission: Admission
    recorder: Recorder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI hands it over."""
        edge = edge_of(scope)
        headers = dict(scope["headers"])
        request_id = _request_id(headers)
        client = Client(edge, send)
        try:
            await self._serve(scope, headers, request_id, receive, client)
        except CallFailed as failed:
            if not edge.is_gone:
                lines = [(b"x-request-id", request_id), *failed.fault.all_headers()]
                await client.answer(failed.fault.status, lines, failed.fault.body())
        except asyncio.CancelledError:
            if not edge.is_gone:
                raise
        finally:
            client.leave()

    async def _serve(
        self, scope: Scope, headers: dict[bytes, bytes], request_id: bytes, receive: Receive, client: Client
    ) -> None:
        admission = self.admission
        if scope["method"] != "POST":
            raise CallFailed(_wrong_method("POST"))
        admission.check_key(headers, scope["client"])
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        body = await admission.read_body(headers, receive, client.edge)
        call = self._read(headers, body, request_id, started_s)
        try:
            await admission.gate.enter(call.deadline_s)
        except GateFull as exc:
            raise CallFailed(overloaded(exc.wait_s)) from exc
        result = "client_gone"
        try:
            await dispatch(call, client, self.fleet, self.recorder)
            result = "ok"
        except CallFailed as failed:
            result = failed.fault.code or "rejected"
            raise
        except BackendError:
            result = "stream_broken"
        finally:
            admission.gate.leave()
            self.recorder.close(call, call.trail[-1].backend if call.trail else "", result)

    def _read(self, headers: dict[bytes, bytes], body: bytes, request_id: bytes, started_s: float) -> Call:
        content_type = headers.get(b"content-type", b"application/json")
        try:
            read = _read_pass(body, content_type) if self.kind == "pass" else read_body(self.kind, body)
        except BadCall as error:
            raise CallFailed(bad_call(error)) from error
        model = self.fleet.models.get(read.model)
        if model is None:
            raise CallFailed(unknown_model(read.model))
        facts = CallFacts(
            model=read.model,
            kind=self.kind,
            headers=HeaderView(headers),
            stream=read.stream,
            tools=read.has_tools,
            prompt_bytes=read.size_bytes,
            user=read.user,
            messages=read.messages if model.reads_messages else b"",
            pin=self.admission.pin(headers, model.bindings),
        )
        total_s = self.admission.total_s(headers, model.total_s)
        return Call(
            facts=facts,
            path=self.path.encode(),
            body=read,
            content_type=content_type if self.kind == "pass" else b"application/json",
            request_id=request_id,
            started_s=started_s,
            deadline_s=started_s + total_s,
            wants_trail=headers.get(b"x-crossfade-explain") == b"1",
        )


def _read_pass(body: bytes, content_type: bytes) -> CallBody | FormBody:
    if content_type.startswith(b"multipart/form-data"):
        return read_form(body, content_type)
    return read_body("pass", body)


def _request_id(headers: dict[bytes, bytes]) -> bytes:
    """The client's own id if it is a sane one, else a new one."""
    given = headers.get(b"x-request-id", b"")
    return given if _SANE_ID.fullmatch(given) else secrets.token_hex(16).encode()


def _wrong_method(allowed: str) -> Fault:
    message = f"This path takes {allowed} only."
    return Fault(405, message, "invalid_request_error", "method_not_allowed", headers=((b"allow", allowed.encode()),))


@dataclass(frozen=True, slots=True)
class ModelsEndpoint:
    """`GET /v1/models`: the public models, whichever backend is alive; no backend's names or paths."""

    fleet: Fleet
    admission: Admission

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """One request, as ASGI hands it over."""
        headers = dict(scope["headers"])
        try:
            if scope["method"] not in ("GET", "HEAD"):
                raise CallFailed(_wrong_method("GET"))
            self.admission.check_key(headers, scope["client"])
        except CallFailed as failed:
            await answer(send, failed.fault.status, failed.fault.all_headers(), failed.fault.body())
            return
        entries = [{"id": name, "object": "model", "created": 0, "owned_by": "crossfade"} for name in self.fleet.models]
        body = msgspec.json.encode({"object": "list", "data": entries})
        await answer(send, 200, [(b"content-type", b"application/json"), (b"x-request-id", _request_id(headers))], body)


async def not_found(_scope: Scope, _receive: Receive, send: Send) -> None:
    """404 in OpenAI's shape, for every path that is not on the list."""
    fault = Fault(404, "There is nothing at this path.", "invalid_request_error", "not_found")
    await answer(send, fault.status, fault.all_headers(), fault.body())


async def answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """Send a whole answer through plain ASGI."""
    headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def endpoints(
    fleet: Fleet, admission: Admission, recorder: Recorder, pass_paths: tuple[str, ...]
) -> dict[str, Endpoint]:
    """The table of exact paths under `/v1`."""
    table: dict[str, Endpoint] = {"/v1/models": ModelsEndpoint(fleet, admission)}
    for path, kind in (*KINDS.items(), *((path, "pass") for path in pass_paths)):
        table[path] = CallEndpoint(path, kind, fleet, admission, recorder)
    return table
