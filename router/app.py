"""The application: FastAPI with the raw endpoints of `/v1` in front of its own routes. Everything is built once, here."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from router.admin.app import Admin
from router.admin.keys import AdminKeys
from router.admin.listener import PATHS, own_listener
from router.building import build_admission, build_fleet
from router.config import Config
from router.doors import Doors, Hosts, accepted_hosts
from router.endpoints import Endpoint, NothingHere
from router.journal.store import StoreFailed
from router.metrics import Metrics
from router.monitor import Monitor
from router.owners import Owners
from router.parts import Parts, journal_of, operations_on
from router.paths import Table, endpoints
from router.ramps import drive
from router.readiness import readiness
from router.record import Recorder
from router.reload import Reload
from router.routing import desired
from router.skills import learn
from router.team import ALONE, Alone


class Application(FastAPI):
    """FastAPI for everything but `/v1`; those paths are matched on the path as it was sent, before any other work.

    `parts`: what it is made of. `admin` is served on a listener of its own, if there is one. `doors` is what its connections ask first;
    the server puts it there.
    """

    def __init__(self, raw: Table, elsewhere: Endpoint, parts: Parts, **options: Any):
        super().__init__(docs_url=None, redoc_url=None, openapi_url=None, **options)
        self.parts = parts
        self.doors = parts.doors
        self.raw_endpoints: dict[bytes, Endpoint] = {}  # connections hold it: it is changed in place
        self.serve_at(raw)
        self._elsewhere = elsewhere
        self.admin = Admin(parts)
        self._admin_here = self.admin if own_listener(parts.config.server) is None else elsewhere

    def serve_at(self, raw: Table) -> None:
        """Serve these paths from now on."""
        self.raw_endpoints.clear()
        self.raw_endpoints.update({path.encode(): each for path, each in raw.exact.items()})
        self._below = [(prefix.encode(), endpoint) for prefix, endpoint in raw.below.items()]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One ASGI conversation."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        endpoint = self.raw_endpoints.get(scope["raw_path"]) or self._named(scope["raw_path"])
        if endpoint is not None:
            await endpoint(scope, receive, send)
        elif scope["raw_path"].startswith(PATHS):
            await self._admin_here(scope, receive, send)
        elif scope["raw_path"] in FASTAPI_PATHS and scope["method"] in ("GET", "HEAD"):
            await super().__call__(scope, receive, send)
        else:
            await self._elsewhere(scope, receive, send)

    def _named(self, path: bytes) -> Endpoint | None:
        return next((endpoint for prefix, endpoint in self._below if path.startswith(prefix)), None)


FASTAPI_PATHS = frozenset({b"/health/live", b"/health/ready", b"/metrics"})


def build_app(config: Config, env: Mapping[str, str], team: Alone = ALONE, file: Path | None = None) -> Application:
    """The whole router for one configuration; `env` holds the keys that the configuration names, `team` the other workers.

    `file`: where the configuration comes from; its changes are followed.
    """
    parts = _parts(config, env, team)
    monitor = Monitor(parts.fleet)
    reload = Reload(file, parts, team.limits, monitor)
    app = Application(
        _table(parts),
        NothingHere(parts.fleet, FASTAPI_PATHS),
        parts,
        title="Crossfade",
        lifespan=_lifespan(parts, team, monitor, reload),
    )

    def taken() -> None:
        app.serve_at(_table(parts))
        team.takes(parts.config)

    reload.on_taken = taken
    app.state.reload = reload
    _add_routes(app, parts, team)
    return app


def _table(parts: Parts) -> Table:
    return endpoints(parts.fleet, parts.admission, parts.recorder, parts.owners, parts.config.server.pass_paths)


def _parts(config: Config, env: Mapping[str, str], team: Alone) -> Parts:
    rng = random.Random()
    fleet = build_fleet(config, env, rng, team.limits)
    metrics = Metrics()
    recorder = Recorder(metrics, rng)
    journal = journal_of(config, fleet, env)
    return Parts(
        config=config,
        env=env,
        fleet=fleet,
        metrics=metrics,
        recorder=recorder,
        doors=Doors(Hosts(accepted_hosts(config.server)), Hosts(config.server.hosts), recorder.turned_away),
        admission=build_admission(config.server, env, team.limits),
        owners=Owners(env.get(config.server.admin.key_env, ""), fleet.models),
        admin_keys=AdminKeys(config, env),
        journal=journal,
        operations=operations_on(journal, fleet),
    )


def _lifespan(parts: Parts, team: Alone, monitor: Monitor, reload: Reload) -> Any:
    fleet, journal = parts.fleet, parts.journal

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        for model in fleet.models.values():
            if model.contract is not None:
                model.contract.load()  # while there is no call yet that would have to wait
        await parts.admin_keys.open(asyncio.get_running_loop().time())
        with suppress(StoreFailed):  # it is in the log, and the file counts until the store can be used
            await journal.file_changed(desired(parts.config), "the start of the router")
        tasks = (
            asyncio.create_task(monitor.run()),
            asyncio.create_task(learn(fleet)),  # nobody waits for it: what is not known yet is asked in need
            asyncio.create_task(parts.metrics.lag.watch()),
            asyncio.create_task(journal.run()),
            asyncio.create_task(drive(parts.operations, fleet)),
            asyncio.create_task(reload.run()),
        )
        try:
            async with team.joined(parts.families):
                yield
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await journal.close()
            for backend in fleet.backends.values():
                if backend.leftovers is not None:
                    await backend.leftovers.close()
                for replica in backend.replicas:
                    replica.server.pool.close()

    return lifespan


def _add_routes(app: Application, parts: Parts, team: Alone) -> None:
    @app.api_route("/health/live", methods=["GET", "HEAD"])
    async def live() -> dict[str, str]:
        return {"status": "ok"}

    @app.api_route("/health/ready", methods=["GET", "HEAD"])
    async def ready() -> JSONResponse:
        report = readiness(parts.fleet, parts.file.plain(), is_stopping=app.doors.are_closing)
        return JSONResponse(report.as_json(), status_code=200 if report.is_ready else 503)

    @app.api_route("/metrics", methods=["GET", "HEAD"])
    async def scrape() -> Response:
        text = await team.exposition(parts.families)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
