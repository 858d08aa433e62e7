"""The admin API on its own listener: there it is alone, and on the clients' port there is nothing of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx
import pytest

from router.config import loads
from router.serve import CannotListen, bound_for
from tests.router.admin.operators import ENV, OPERATOR, error_of
from tests.running import config_for
from tests.serving import RunningRouter, free_port

KEY = {"authorization": f"Bearer {OPERATOR}"}


@pytest.fixture(params=[1, 2], ids=["one process", "two workers"])
def router(request: pytest.FixtureRequest) -> Iterator[tuple[RunningRouter, str]]:
    admin = free_port()
    config = config_for({"a": "http://127.0.0.1:9"}, server=f"admin: {{port: {admin}}}\nworkers: {request.param}")
    text = config.replace("  port: 8000\n", f"  port: {free_port()}\n")
    with RunningRouter(text, env=ENV, until="live") as running:
        yield running, f"http://127.0.0.1:{admin}"


def test_the_admin_api_is_on_its_own_port_only_and_nothing_else_is_there(router: tuple[RunningRouter, str]) -> None:
    clients, admin = router[0].url, router[1]
    status = httpx.get(f"{admin}/admin/api/status", headers=KEY)
    assert (status.status_code, list(status.json()["models"])) == (200, ["jane"])
    assert error_of(httpx.get(f"{clients}/admin/api/status", headers=KEY)) == (404, "not_found")
    for path in ("/v1/models", "/health/live", "/metrics", "/"):
        assert error_of(httpx.get(f"{admin}{path}", headers=KEY)) == (404, "not_found")
    assert httpx.get(f"{clients}/v1/models").status_code == 200
    drained = httpx.post(f"{admin}/admin/api/drain", json={"target": "a", "reason": "it moves"}, headers=KEY)
    assert drained.status_code == 200
    assert "admin API listens on" in router[0].log()


def test_a_port_that_somebody_else_has_is_named_by_its_key() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = f"admin: {{port: {taken.getsockname()[1]}}}"
        text = config_for({"a": "http://127.0.0.1:9"}, server=server).replace("port: 8000", f"port: {free_port()}")
        with pytest.raises(CannotListen, match=r"server\.admin\.port"):
            bound_for(loads(text, {}).config.server)
