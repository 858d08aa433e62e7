"""The application: FastAPI with the raw endpoints of `/v1` in front of its own routes. Everything is built once, here."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from router.building import build_admission, build_fleet
from router.config import Config
from router.doors import Doors, Hosts
from router.endpoints import Endpoint, NothingHere
from router.fleet import Fleet
from router.gate import Gate
from router.metrics import Metrics, exposition
from router.monitor import Monitor
from router.owners import Owners
from router.paths import Table, endpoints
from router.readiness import readiness
from router.record import Recorder
from router.skills import learn


class Application(FastAPI):
    """FastAPI for everything but `/v1`; those paths are matched on the path as it was sent, before any other work.

    `doors` is what its connections ask first; the server puts it there.
    """

    def __init__(self, raw: Table, elsewhere: Endpoint, doors: Doors, **options: Any):
        super().__init__(docs_url=None, redoc_url=None, openapi_url=None, **options)
        self.doors = doors
        self.raw_endpoints: Mapping[bytes, Endpoint] = {path.encode(): each for path, each in raw.exact.items()}
        self._below = [(prefix.encode(), endpoint) for prefix, endpoint in raw.below.items()]
        self._elsewhere = elsewhere

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One ASGI conversation."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        endpoint = self.raw_endpoints.get(scope["raw_path"]) or self._named(scope["raw_path"])
        if endpoint is not None:
            await endpoint(scope, receive, send)
        elif scope["raw_path"] in FASTAPI_PATHS and scope["method"] in ("GET", "HEAD"):
            await super().__call__(scope, receive, send)
        else:
            await self._elsewhere(scope, receive, send)

    def _named(self, path: bytes) -> Endpoint | None:
        return next((endpoint for prefix, endpoint in self._below if path.startswith(prefix)), None)


FASTAPI_PATHS = frozenset({b"/health/live", b"/health/ready", b"/metrics"})


def build_app(config: Config, env: Mapping[str, str]) -> Application:
    """The whole router for one configuration; `env` holds the keys that the configuration names."""
    rng = random.Random()
    fleet = build_fleet(config, env, rng)
    metrics = Metrics()
    recorder = Recorder(metrics, rng)
    doors = Doors(Hosts((*config.server.hosts, config.server.host)), recorder.turned_away)
    admission = build_admission(config.server, env)
    owners = Owners(env.get(config.server.admin.key_env, ""), fleet.models)
    raw = endpoints(fleet, admission, recorder, owners, config.server.pass_paths)
    app = Application(
        raw, NothingHere(fleet, FASTAPI_PATHS), doors, title="Crossfade", lifespan=_lifespan(fleet, metrics)
    )
    _add_routes(app, fleet, metrics, admission.gate)
    return app


def _lifespan(fleet: Fleet, metrics: Metrics) -> Any:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        for model in fleet.models.values():
            if model.contract is not None:
                model.contract.load()  # while there is no call yet that would have to wait
        tasks = (
            asyncio.create_task(Monitor(fleet).run()),
            asyncio.create_task(learn(fleet)),  # nobody waits for it: what is not known yet is asked in need
            asyncio.create_task(metrics.lag.watch()),
        )
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            for backend in fleet.backends.values():
                if backend.leftovers is not None:
                    await backend.leftovers.close()
                for replica in backend.replicas:
                    replica.server.pool.close()

    return lifespan


def _add_routes(app: Application, fleet: Fleet, metrics: Metrics, door: Gate) -> None:
    @app.api_route("/health/live", methods=["GET", "HEAD"])
    async def live() -> dict[str, str]:
        return {"status": "ok"}

    @app.api_route("/health/ready", methods=["GET", "HEAD"])
    async def ready() -> JSONResponse:
        report = readiness(fleet, is_stopping=app.doors.are_closing)
        return JSONResponse(report.as_json(), status_code=200 if report.is_ready else 503)

    @app.api_route("/metrics", methods=["GET", "HEAD"])
    async def scrape() -> Response:
        return Response(exposition(metrics, fleet, door), media_type="text/plain; version=0.0.4; charset=utf-8")
