"""A running router with an admin key, in front of two backends that are well."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.running import Router, config_for, running
from tests.upstream import Upstream, says

OPERATOR = "operator-0123456789-0123456789-0123456789"
VIEWER = "viewer-0123456789-0123456789-0123456789"
CLIENT = "client-0123456789-0123456789-0123456789"
ENV = {"CROSSFADE_ADMIN_KEY": OPERATOR, "VIEWER_KEY": VIEWER}
SPLIT = "split: {a: 0.95, b: 0.05}\nstick_by: [header:x-user-id]"
SERVER = "admin: {viewer_key_env: VIEWER_KEY}"
LINES = {"a": "from a", "b": "from b"}


class Admin:
    """An operator, or somebody else, in front of a running router."""

    def __init__(self, router: Router, key: str | None = OPERATOR):
        self.router = router
        self.key = key

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.router.client.get(f"/admin/api/{path}", headers=self._headers(headers))

    async def post(self, path: str, body: Mapping[str, Any], **headers: str) -> httpx.Response:
        """With a reason, unless the body has one; header names with _ for -."""
        return await self.router.client.post(
            f"/admin/api/{path}", json={"reason": "it looks well", **body}, headers=self._headers(headers)
        )

    async def shift(self, share: float, **headers: str) -> httpx.Response:
        return await self.post("models/jane/shift", {"shares": {"b": share}}, **headers)

    async def revision(self) -> int:
        number: int = (await self.get("status")).json()["revision"]
        return number

    def _headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return given if self.key is None else {"authorization": f"Bearer {self.key}", **given}


@asynccontextmanager
async def administered(
    model: str = SPLIT, server: str = SERVER, env: Mapping[str, str] = ENV, more: str = ""
) -> AsyncIterator[Admin]:
    """A router in front of the backends `a` and `b`; `more` is further YAML."""
    async with (
        Upstream(says("from a")) as a,
        Upstream(says("from b")) as b,
        running(config_for({"a": a.url, "b": b.url}, model, server) + more, env) as router,
    ):
        yield Admin(router)


def error_of(answer: httpx.Response, *beside: str) -> tuple[int, str]:
    """Status and code of a refusal, which has the one form and one sentence; `beside` the error stands nothing else."""
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert set(beside) <= set(document) <= {"error", "revisions"}
    error = document["error"]
    assert set(error) == {"message", "type", "code", "param"}
    assert error["message"] and "\n" not in error["message"]
    return answer.status_code, error["code"]
