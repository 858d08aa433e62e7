"""The admin API as a FastAPI application of its own: its routes, its errors, its description at `/admin/api/openapi.json`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from policies.revisions import NotPossible, Revision
from router.admin.bodies import RampChange, Rollback, Shift, Target
from router.admin.changes import Asking, Changes
from router.admin.documents import Changed, History, concerning, revision_document
from router.admin.door import Door
from router.admin.faults import NOT_JSON, NOTHING, of_fields, refused
from router.admin.plain_config import plain_config
from router.admin.status import Status, status_of
from router.faults import CallFailed, Fault, crashed
from router.journal.journal import KeyReused, Overtaken
from router.journal.store import StoreFailed
from router.parts import Parts

PREFIX = "/admin/api"
Ask = Annotated[Asking, Depends()]


class ErrorBody(BaseModel):
    """What went wrong, in one sentence. `code` is what programs key on."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """OpenAI's envelope; of a conflict also the revisions that others made."""

    error: ErrorBody


class HistoryQuery(BaseModel):
    """Which revisions: of one model or all, the newest `limit`."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 50


class Admin:
    """The admin API as an ASGI application that is built when it is first asked for, beside the calls that run.

    Describing its bodies takes FastAPI 50 ms of a processor: no worker that is never asked spends them, and no start waits for them.
    """

    def __init__(self, parts: Parts):
        self._parts = parts
        self._built: asyncio.Future[FastAPI] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One ASGI conversation."""
        if self._built is None:
            self._built = asyncio.ensure_future(asyncio.to_thread(build_admin, self._parts))
        app = await asyncio.shield(self._built)
        await app(scope, receive, send)


def build_admin(parts: Parts) -> FastAPI:
    """The admin API of one router."""
    app = FastAPI(
        title="Crossfade admin API",
        summary="What operators look at and change while the router runs.",
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(HTTPBearer(auto_error=False, description="An operator's or a viewer's key."))],
        responses={status: {"model": Error} for status in (400, 401, 403, 404, 422, 429, 503)},
    )

    def is_clients(key: bytes) -> bool:  # asked of the admission of the moment, which a changed file may replace
        return parts.admission.knows(key)

    app.add_middleware(Door, doors=parts.doors, keys=parts.admin_keys, is_clients=is_clients, rng=parts.fleet.rng)
    app.include_router(_reading(parts))
    app.include_router(_changing(parts))
    _render_errors(app, parts)
    return app


def _reading(parts: Parts) -> APIRouter:
    router = APIRouter(prefix=PREFIX, tags=["look"])

    @router.get("/status")
    async def status(response: Response) -> Status:
        """Shares, ramps, drift, every replica with its reason, the store, the file. `ETag`: the revision in force."""
        await _catch_up(parts)
        now = status_of(parts)
        response.headers["etag"] = f'"{now.revision}"'
        return now

    @router.get("/history", response_model=History)
    async def history(query: Annotated[HistoryQuery, Query()]) -> Response:
        """The revisions, newest first, each with what it changed."""
        await _catch_up(parts)
        journal, model = parts.journal.revisions, query.model
        found = concerning(journal, model) if model is not None else journal
        if model is not None and not found:
            raise CallFailed(
                refused(404, "model_not_found", f"there never was a model {ascii(model)[1:-1][:60]}", "model")
            )
        newest = found[: -query.limit - 1 : -1]
        # Elsewhere: a thousand revisions of many models are a tenth of a second's work, and calls would wait for it.
        return Response(await asyncio.to_thread(_history, tuple(journal), newest, model), media_type="application/json")

    @router.get("/config")
    async def config() -> dict[str, Any]:
        """The running configuration, defaults filled in, without secrets."""
        return plain_config(parts.config)

    return router


def _history(journal: Sequence[Revision], newest: Sequence[Revision], model: str | None) -> bytes:
    return msgspec.json.encode(History([revision_document(journal, each, model) for each in newest]))


def _changing(parts: Parts) -> APIRouter:
    router = APIRouter(
        prefix=PREFIX,
        tags=["change"],
        responses={status: {"model": Error} for status in (409, 412, 413, 415)},
    )
    changes = Changes(parts)

    @router.post("/models/{model:path}/shift")
    async def shift(model: str, body: Shift, asking: Ask, response: Response) -> Changed:
        """Give backends these shares, at once or over a time."""
        return _tagged(response, await changes.shift(model, body, asking))

    @router.post("/models/{model:path}/rollback")
    async def rollback(model: str, body: Rollback, asking: Ask, response: Response) -> Changed:
        """Take the model back to the state before; again: one further back."""
        return _tagged(response, await changes.rollback(model, body, asking))

    @router.post("/models/{model:path}/ramp")
    async def ramp(model: str, body: RampChange, asking: Ask, response: Response) -> Changed:
        """Pause or resume the shift that takes its time."""
        return _tagged(response, await changes.ramp(model, body, asking))

    @router.post("/drain")
    async def drain(body: Target, asking: Ask, response: Response) -> Changed:
        """Send no new calls to a backend or replica; running ones finish."""
        return _tagged(response, await changes.drain(body, asking))

    @router.post("/undrain")
    async def undrain(body: Target, asking: Ask, response: Response) -> Changed:
        """Send it calls again."""
        return _tagged(response, await changes.undrain(body, asking))

    return router


def _tagged(response: Response, changed: Changed) -> Changed:
    response.headers["etag"] = f'"{changed.revision.number}"'
    return changed


async def _catch_up(parts: Parts) -> None:
    """So that a look after a change in another process is true. A store in trouble is shown, and not waited for."""
    if not parts.journal.trouble:
        with suppress(StoreFailed):
            await parts.journal.catch_up()


def _render_errors(app: FastAPI, parts: Parts) -> None:
    def overtaken(request: Request, error: Overtaken) -> JSONResponse:
        """What happened instead, in the sentence and as documents."""
        done = [revision_document(parts.journal.revisions, each) for each in error.revisions]
        said = "; ".join(change for each in done for change in each.changes)
        has_match = "if-match" in request.headers
        fault = refused(412 if has_match else 409, "overtaken", f"{error}{f' ({said})' if said else ''}")
        return _rendered(fault, {"revisions": msgspec.to_builtins(done)})

    app.add_exception_handler(CallFailed, lambda _request, error: _rendered(error.fault))
    app.add_exception_handler(NotPossible, lambda _request, error: _rendered(refused(422, "not_possible", str(error))))
    app.add_exception_handler(Overtaken, overtaken)  # type: ignore[arg-type]
    app.add_exception_handler(
        KeyReused,
        lambda _request, error: _rendered(refused(409, "idempotency_key_reused", str(error), "idempotency-key")),
    )
    app.add_exception_handler(
        StoreFailed,
        lambda _request, error: _rendered(Fault(503, f"{error}; nothing was changed", "server_error", "store_failed")),
    )
    app.add_exception_handler(
        RequestValidationError,
        lambda _request, error: _rendered(of_fields(error.errors())),
    )
    app.add_exception_handler(HTTPException, lambda _request, error: _rendered(_of_http(error)))
    app.add_exception_handler(Exception, lambda _request, _error: _rendered(crashed()))


def _of_http(error: HTTPException) -> Fault:
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        message = f"This path takes {allowed or 'another method'} only."
        headers = ((b"allow", allowed.encode()),) if allowed else ()
        return Fault(405, message, "invalid_request_error", "method_not_allowed", headers=headers)
    return NOTHING if error.status_code == 404 else NOT_JSON


def _rendered(fault: Fault, more: Mapping[str, Sequence[Any]] | None = None) -> JSONResponse:
    error = {"message": fault.message, "type": fault.type, "param": fault.param, "code": fault.code}
    headers = {name.decode(): value.decode() for name, value in fault.all_headers() if name != b"content-type"}
    return JSONResponse({"error": error, **(more or {})}, fault.status, headers)
