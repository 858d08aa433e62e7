"""Runs the router on a configuration until it is told to stop: uvicorn with our own client side, uvloop, a bounded drain."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Mapping

import uvicorn
import uvloop

from router.app import build_app
from router.config import Config
from router.edge import KEEP_ALIVE_S, EdgeProtocol

log = logging.getLogger("crossfade")

BACKLOG = 4096  # connections the kernel keeps while the loop is busy; 2048 is uvicorn's default, 4096 Linux's own cap


def set_up_logging(level: int = logging.INFO) -> None:
    """One line a record on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    for name in ("crossfade", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level if name == "crossfade" else logging.WARNING)
        logger.propagate = False


def server_for(config: Config, env: Mapping[str, str], edge: type[EdgeProtocol] = EdgeProtocol) -> uvicorn.Server:
    """The server of one configuration, not started yet; `edge` is the clients' side of its connections."""
    return uvicorn.Server(
        uvicorn.Config(
            build_app(config, env),
            host=config.server.host,
            port=config.server.port,
            http=edge,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=math.ceil(config.server.drain_s),
        )
    )


class CannotListen(Exception):
    """The address of the configuration cannot be had; the message is a sentence with the remedy."""


def listeners(host: str, port: int) -> list[socket.socket]:
    """A socket bound to each address of `host`, before anything else is started. Raises CannotListen."""
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
        remedy = "Stop the program that has the port, or set server.port to another."
        raise CannotListen(f"cannot listen on {host}:{port}: {exc.strerror}. {remedy}") from exc
    return bound


def _not_reloaded(*_: object) -> None:
    """What reloads most servers must not end this one together with its calls."""
    log.warning("SIGHUP: a configuration is read only at the start; restart to use a changed file")


def run(config: Config, env: Mapping[str, str], bound: list[socket.socket]) -> None:
    """Serve on the `bound` sockets until SIGTERM or SIGINT; running calls get `drain_s` to finish. Returns: that is no failure."""
    server = server_for(config, env)

    def stop(*_: object) -> None:
        server.should_exit = True

    for sig in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sig, stop)  # before uvicorn listens to them, and after: it raises anew what it has heard
    # From a terminal it says that this was closed.
    signal.signal(signal.SIGHUP, stop if os.isatty(0) else _not_reloaded)
    gc.collect()
    gc.freeze()  # what stands now stands to the end; no collection needs to walk through it again
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(server.serve(bound))
    for sig in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sig, signal.SIG_IGN)  # a second one must not make a failure of a stop that is all but over
