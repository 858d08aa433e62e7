"""The table of the paths under `/v1`, and those of them that name something: a model, or a response that a backend holds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec

from policies.facts import CallFacts
from router.admission import Admission
from router.call import Call, HeaderView, NoBody
from router.client import Client
from router.edge import turn_of
from router.endpoints import (
    KINDS,
    NOTHING,
    Answering,
    BackendEndpoint,
    CallEndpoint,
    Endpoint,
    Receive,
    Scope,
    Send,
    plain_headers,
    request_id_of,
    wrong_method,
)
from router.faults import CallFailed, Fault, unknown_model
from router.fleet import Fleet
from router.owners import Owners, not_found
from router.record import Recorder

MODELS, RESPONSES = "/v1/models", "/v1/responses"
_JSON = b"application/json"
# No part begins with a dot, as it is or encoded: a name is no way to another path.
_MODEL = re.compile(
    rb"/v1/models/(?=.{1,300}$)([A-Za-z0-9_][A-Za-z0-9._~:@+%-]*+(?:/[A-Za-z0-9_][A-Za-z0-9._~:@+%-]*+)*+)"
)
_RESPONSE = re.compile(rb"/v1/responses/([A-Za-z0-9_-]{1,200})(/cancel|/input_items)?")
# Of a query: what the API's own parameters can hold, and nothing that would make two readers see two paths.
_QUERY = re.compile(rb"[A-Za-z0-9._~:@+=&,%[\]-]{0,1000}")
_FLAGS = {"true": True, "1": True, "false": False, "0": False}
# By what follows the id: the methods, and the form of the answer to each.
HELD: dict[bytes, dict[str, str]] = {
    b"": {"GET": "held response", "DELETE": "deleted response"},
    b"/cancel": {"POST": "held response"},
    b"/input_items": {"GET": "input items"},
}


@dataclass(frozen=True, slots=True)
class HeldEndpoint(BackendEndpoint):
    """Below `/v1/responses/`: a response that one replica holds, shown, deleted or cancelled by that replica."""

    def check_method(self, scope: Scope) -> None:
        allowed = HELD[_named(scope)[1]]
        if scope["method"] not in allowed:
            raise CallFailed(wrong_method(", ".join(allowed)))

    def read(self, scope: Scope, headers: dict[bytes, bytes], _body: bytes, answering: Answering) -> Call:
        shown, rest = _named(scope)
        held = self.owners.find(shown)
        model = self.fleet.models[held.model]  # in step with the owners
        pin = self.admission.pin(headers, model.bindings)
        if pin is not None and pin != held.backend:
            raise CallFailed(not_found(shown))
        query = _query(scope)
        facts = CallFacts(
            model=held.model,
            kind=self.kind,
            headers=HeaderView(headers),
            stream=_asks_for_stream(query) and rest == b"" and scope["method"] == "GET",
            tools=False,
            prompt_bytes=0,
            user=None,
            messages=b"",
            pin=pin,
        )
        return Call(
            facts=facts,
            path=b"/v1/responses/%b%b%b" % (held.id.encode(), rest, b"?" + query if query else b""),
            body=NoBody(),
            content_type=_JSON,
            request_id=answering.request_id,
            revision=answering.revision,
            started_s=answering.started_s,
            deadline_s=answering.started_s + self.admission.total_s(headers, model.total_s),
            wants_trail=headers.get(b"x-crossfade-explain") == b"1",
            method=scope["method"].encode(),
            form=HELD[rest][scope["method"]],
            owners=self.owners,
            held=held,
        )


def _named(scope: Scope) -> tuple[str, bytes]:
    """The response's id, and what follows it."""
    named = _RESPONSE.fullmatch(scope["raw_path"])
    if named is None:
        raise CallFailed(NOTHING)
    return named[1].decode(), named[2] or b""


def _query(scope: Any) -> bytes:
    query: bytes = scope.get("query_string", b"")
    if _QUERY.fullmatch(query) is None:
        raise CallFailed(Fault(400, "The query of this path is not valid.", "invalid_request_error", "bad_request"))
    return query


def _asks_for_stream(query: bytes) -> bool:
    """Servers take further words for yes, encoded ones too, and of two the last: one that streams unasked would be taken for broken."""
    given = [value for name, value in parse_qsl(query.decode(), keep_blank_values=True) if name == "stream"]
    flag = _FLAGS.get(given[0].lower()) if len(given) == 1 else None
    if given and flag is None:
        raise CallFailed(Fault(400, "stream must be true or false.", "invalid_request_error", "bad_request", "stream"))
    return flag is True


@dataclass(frozen=True, slots=True)
class ModelsEndpoint:
    """`GET /v1/models` and `GET /v1/models/NAME`: the public models, whichever backend is alive; no backend's names or paths."""

    fleet: Fleet
    admission: Admission

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """One request, as ASGI hands it over."""
        turn = turn_of(scope)
        headers = turn.headers
        answering = Answering(Client(turn), request_id_of(headers, self.fleet.rng), self.fleet.revision)
        try:
            path = scope["raw_path"]
            named = _MODEL.fullmatch(path)
            if named is None and path != MODELS.encode():
                raise CallFailed(NOTHING)
            if scope["method"] not in ("GET", "HEAD"):
                raise CallFailed(wrong_method("GET"))
            self.admission.check_key(headers, scope["client"])
            body = msgspec.json.encode(self._listed() if named is None else self._shown(named[1]))
            lines = [(b"content-type", _JSON), *plain_headers(answering.request_id, self.fleet.revision)]
            await answering.client.answer(200, lines, body)
        except CallFailed as failed:
            await answering.fail(failed.fault)
        finally:
            answering.client.leave()

    def _listed(self) -> dict[str, object]:
        return {"object": "list", "data": [_entry(name) for name in self.fleet.models]}

    def _shown(self, sent: bytes) -> dict[str, object]:
        name = unquote(sent.decode(), errors="replace")
        if name not in self.fleet.models:
            raise CallFailed(unknown_model(name))
        return _entry(name)


def _entry(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "crossfade"}


@dataclass(frozen=True, slots=True)
class Table:
    """`exact`: whole paths, as they are sent. `below`: prefixes that end in a slash; whoever stands there judges the rest."""

    exact: dict[str, Endpoint]
    below: dict[str, Endpoint]


def endpoints(
    fleet: Fleet, admission: Admission, recorder: Recorder, owners: Owners, pass_paths: tuple[str, ...]
) -> Table:
    """Everything that is served under `/v1`, and `/tokenize`."""
    models = ModelsEndpoint(fleet, admission)
    exact: dict[str, Endpoint] = {MODELS: models}
    for path, kind in (*KINDS.items(), *((path, "pass") for path in pass_paths if path not in KINDS)):
        exact[path] = CallEndpoint(kind, fleet, admission, recorder, owners, path)
    held = HeldEndpoint("responses", fleet, admission, recorder, owners)
    return Table(exact, {f"{MODELS}/": models, f"{RESPONSES}/": held})
