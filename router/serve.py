"""Runs the router on a configuration until it is told to stop: uvicorn with our own client side and our own way to stop, on uvloop.

How it stops
------------
0 s         SIGTERM: `/health/ready` is 503, every answer says `connection: close`; new connections are still taken and served,
            because whoever balances the load hears of it only now
1 s         the port is closed, and with it every idle connection
`drain_s`   calls that still run end: a stream with its error event, another with a 503; then the process exits with 0

SIGINT leaves out the first second: nobody balances the load of a terminal. A second signal of either kind goes to the end at once.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import uvicorn
import uvloop

from router.admin.listener import divided, own_listener
from router.app import Application, build_app
from router.config import Config, Server
from router.doors import Doors
from router.edge import KEEP_ALIVE_S, EdgeProtocol
from router.reload import Reload
from router.team import ALONE, Alone

log = logging.getLogger("crossfade")

BACKLOG = 4096  # connections the kernel keeps while the loop is busy; 2048 is uvicorn's default, 4096 Linux's own cap


LEAD_S = 1.0  # Kubernetes takes an endpoint out in less; whoever polls more slowly also counts refused connections
LAST_WORDS_S = 1.0  # to write the last event and take down the call: milliseconds, unless the client reads nothing
LOOK_EVERY_S = 0.05
ACCEPTED_S = 0.001  # some turns of the loop, after which a connection that was accepted in the last moment is known


class RouterServer(uvicorn.Server):
    """uvicorn's server, with a stop that is announced first, bounded, and ended by a second signal.

    `admin`: the side of the connections that come in on the admin API's own listener. `server`: that section of the configuration.
    """

    def __init__(self, config: uvicorn.Config, admin: uvicorn.Config, app: Application, server: Server):
        self._is_told_to_stop = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        super().__init__(config)
        self._admin = admin
        self._doors = app.doors
        self._reload: Reload = app.state.reload
        self._server = server
        self._drain_s = server.drain_s
        self._lead_s = 0.0

    @property
    def should_exit(self) -> bool:
        """Whether it is told to stop; uvicorn and handlers of signals set it."""
        return self._is_told_to_stop

    @should_exit.setter
    def should_exit(self, is_told: bool) -> None:
        self._is_told_to_stop = is_told
        if is_told and self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)

    async def main_loop(self) -> None:
        """Until it is told to stop; at once then, where uvicorn looks ten times a second."""
        self._loop = asyncio.get_running_loop()
        if not await self.on_tick(0):
            await self._stopping.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, on the admin API's own sockets too."""
        clients, admins = divided(self._server, sockets or ())
        await super().startup(clients if sockets is not None else None)
        self._admin.load()
        for each in admins if not self.should_exit else ():
            loop = asyncio.get_running_loop()
            self.servers.append(await loop.create_server(self._admin_connection, sock=each, backlog=BACKLOG))

    def _admin_connection(self) -> asyncio.Protocol:
        made: Any = self._admin.http_protocol_class
        connection: asyncio.Protocol = made(config=self._admin, server_state=self.server_state, app_state={})
        return connection

    def handle_hang_up(self, _sig: int, _frame: FrameType | None) -> None:
        """SIGHUP: look after the configuration file now."""
        self._reload.soon()

    def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
        """A signal to stop, the first or a further one."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self._lead_s = LEAD_S if sig == signal.SIGTERM else 0.0

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop as the page above says. `should_exit` set without a signal is a stop without the lead."""
        state, now_s = self.server_state, asyncio.get_running_loop().time
        ends_s = now_s() + self._drain_s
        self._doors.are_closing = True
        for connection in state.connections:
            if isinstance(connection, EdgeProtocol):
                connection.is_to_close()
        await self._wait(ends_s - self._drain_s + min(self._lead_s, self._drain_s), lambda: self.force_exit)
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        await asyncio.sleep(ACCEPTED_S)
        for connection in list(state.connections):
            connection.shutdown()
        await self._wait(ends_s, lambda: self.force_exit or not (state.connections or state.tasks))
        if state.tasks:
            log.warning("stopping: %d calls did not end in time", len(state.tasks))
        for task in list(state.tasks):
            task.cancel()
        await self._wait(now_s() + LAST_WORDS_S, lambda: not (state.connections or state.tasks))
        await self.lifespan.shutdown()

    @staticmethod
    async def _wait(until_s: float, is_over: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        while not is_over() and loop.time() < until_s:  # noqa: ASYNC110 (uvicorn keeps sets, not events)
            await asyncio.sleep(LOOK_EVERY_S)


def server_for(
    config: Config,
    env: Mapping[str, str],
    edge: type[EdgeProtocol] = EdgeProtocol,
    team: Alone = ALONE,
    file: Path | None = None,
) -> RouterServer:
    """The server of one configuration, not started yet; `edge` is the clients' side of its connections, `team` the other workers.

    `file`: where the configuration comes from, and where its successors will.
    """
    app = build_app(config, env, team, file)
    server = config.server
    admin_doors = Doors(app.doors.hosts, turned_away=app.doors.turned_away)
    return RouterServer(
        _settings(app, server, type(edge.__name__, (edge,), {"doors": app.doors}), "on"),
        _settings(app.admin, server, type(edge.__name__, (edge,), {"doors": admin_doors}), "off"),
        app,
        server,
    )


def _settings(app: Any, server: Server, edge: type[EdgeProtocol], lifespan: Literal["on", "off"]) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=server.host,
        port=server.port,
        http=edge,
        ws="none",
        lifespan=lifespan,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
    )


class CannotListen(Exception):
    """The address of the configuration cannot be had; the message is a sentence with the remedy."""


def bound_for(server: Server) -> list[socket.socket]:
    """All sockets that the configuration asks for, the admin API's own too. Raises CannotListen."""
    bound, own = listeners(server.host, server.port), own_listener(server)
    try:
        return [*bound, *(listeners(*own, "server.admin.port") if own is not None else ())]
    except CannotListen:
        for each in bound:
            each.close()
        raise


def listeners(host: str, port: int, key: str = "server.port") -> list[socket.socket]:
    """A socket bound to each address of `host`, before anything else is started; `key` is the port's. Raises CannotListen."""
    bound: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            bound.append(socket.socket(family, kind, protocol))
            bound[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # else `::` would take the IPv4 port too, and `localhost` would meet itself
                bound[-1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound[-1].bind(address)
    except OSError as exc:
        for each in bound:
            each.close()
        remedy = f"Stop the program that has the port, or set {key} to another."
        raise CannotListen(f"cannot listen on {host}:{port}: {exc.strerror}. {remedy}") from exc
    return bound


def run(config: Config, env: Mapping[str, str], bound: list[socket.socket], file: Path, team: Alone = ALONE) -> None:
    """Serve on the `bound` sockets until SIGTERM or SIGINT; running calls get `drain_s` to finish. Returns: that is no failure.

    `file`: where the configuration comes from; its changes are followed.
    """
    server = server_for(config, env, team=team, file=file)

    for sig in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sig, server.handle_exit)  # before uvicorn listens to them, and after
    # From a terminal it says that this was closed.
    signal.signal(signal.SIGHUP, server.handle_exit if os.isatty(0) else server.handle_hang_up)
    gc.collect()
    gc.freeze()  # what stands now stands to the end; no collection needs to walk through it again
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(server.serve(bound))
    for sig in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sig, signal.SIG_IGN)  # a second one must not make a failure of a stop that is all but over
