"""Who may come in: keys, networks, and what a key may ask for."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest
import pytest_asyncio

from router.admission import Admission, Keys, digest
from router.faults import CallFailed
from router.gate import Gate
from tests.rawclient import chat_body, connected, request
from tests.running import Router, config_for, running
from tests.upstream import Upstream, says

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENV = {"KEYS": "one, two ,,", "TESTERS": os.fsdecode(b"three,caf\xe9")}
KEYED = "keys_env: KEYS\nclients: [{key_env: TESTERS, may_pin: true}]"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend() -> AsyncIterator[Upstream]:
    async with Upstream(says("x")) as a:
        yield a


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def router(backend: Upstream) -> AsyncIterator[Router]:
    async with running(config_for({"a": backend.url, "b": backend.url}, server=KEYED), ENV) as router:
        yield router


@pytest.mark.parametrize(
    "sent", ["Bearer one", "Bearer two", "bearer three", "BEARER  one", b"Bearer caf\xe9"], ids=repr
)
async def test_a_known_key_comes_in(router: Router, sent: str | bytes) -> None:
    lines = {b"authorization": sent.encode() if isinstance(sent, str) else sent, b"content-type": b"application/json"}
    response = await router.client.post("/v1/chat/completions", content=chat_body(), headers=lines)
    assert response.status_code == 200


WRONG = ["", "Bearer", "Bearer ", "Bearer x", "one", "Basic one", "Bearer One", "Bearer one,two", "Bearer one two",
         "Bearer " + "x" * 10_000, "Bearer ' OR 1=1 --", "Bearer ,"]  # fmt: skip


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models"])
@pytest.mark.parametrize("sent", [None, *WRONG], ids=lambda sent: repr(sent)[:24])
async def test_any_other_key_gets_the_same_401_and_its_body_is_not_read(
    router: Router, backend: Upstream, sent: str | None, path: str
) -> None:
    backend.received.clear()
    headers = [] if sent is None else [f"authorization: {sent}"]
    line = f"{'GET' if path.endswith('models') else 'POST'} {path} HTTP/1.1"
    async with connected(router.port) as client:
        await client.send(request(b"not json", *headers, "x-request-id: mine", line=line))
        got = await client.answer()
    error = {
        "message": "Incorrect API key provided.",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_api_key",
    }
    assert got.status == 401 and got.json == {"error": error}
    assert got.headers["www-authenticate"] == "Bearer" and got.headers["x-request-id"] == "mine"
    assert not backend.received


async def test_two_keys_in_two_headers_are_judged_by_the_last_alone(router: Router) -> None:
    async with connected(router.port) as client:
        await client.send(request(chat_body(), "authorization: Bearer one", "authorization: Bearer x"))
        assert (await client.answer()).status == 401


async def test_without_keys_configured_none_is_needed(backend: Upstream) -> None:
    async with running(config_for({"a": backend.url})) as router:
        assert (await router.chat()).status_code == 200
        assert (await router.client.get("/v1/models")).status_code == 200
        pinned = await router.chat(headers={"x-crossfade-backend": "a"})
    assert pinned.status_code == 403, "nobody has a key that may"


async def test_a_client_of_an_allowed_network_needs_no_key_and_may_not_pin(backend: Upstream) -> None:
    config = config_for({"a": backend.url}, server=KEYED + "\nallow_from: [127.0.0.0/8]")
    async with running(config, ENV) as router:
        assert (await router.chat()).status_code == 200
        assert (await router.chat(headers={"x-crossfade-backend": "a"})).status_code == 403


PINS: list[tuple[str, str, str, int, str | None]] = [
    ("a key that may, to a backend of the model", "three", "b", 200, None),
    ("a key that may, to nobody", "three", "c", 400, "unknown_backend"),
    ("a key that may, to nothing", "three", "", 400, "unknown_backend"),
    ("a key that may not", "one", "b", 403, "pin_not_allowed"),
]


@pytest.mark.parametrize(("key", "to", "status", "code"), [row[1:] for row in PINS], ids=[row[0] for row in PINS])
async def test_a_pin_is_for_keys_that_may(router: Router, key: str, to: str, status: int, code: str | None) -> None:
    response = await router.chat(headers={"authorization": f"Bearer {key}", "x-crossfade-backend": to})
    assert response.status_code == status
    if code is None:
        assert response.headers["x-crossfade-backend"] == to
    else:
        assert response.json()["error"]["code"] == code


async def test_a_pinned_call_is_answered_by_nobody_else(backend: Upstream) -> None:
    config = config_for({"a": "http://127.0.0.1:1", "b": backend.url}, server=KEYED)
    async with running(config, ENV) as router:
        response = await router.chat(headers={"authorization": "Bearer three", "x-crossfade-backend": "a"})
    assert response.status_code == 503 and response.headers["x-crossfade-backend"] == "a"


ADDRESSES: list[tuple[str, str, bool]] = [
    ("in the network", "10.1.2.3", True),
    ("in the network, written as IPv6", "::ffff:10.1.2.3", True),
    ("outside", "11.1.2.3", False),
    ("outside, written as IPv6", "::ffff:11.1.2.3", False),
    ("in the IPv6 network", "fd00::7", True),
    ("in the IPv6 network, with a zone", "fd00::7%eth0", True),
    ("outside the IPv6 network", "fe80::1", False),
]


@pytest.mark.parametrize(("address", "may"), [row[1:] for row in ADDRESSES], ids=[row[0] for row in ADDRESSES])
async def test_a_network_knows_its_clients_in_either_spelling(address: str, may: bool) -> None:
    networks = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    door = Admission(Keys(frozenset({digest("one")})), networks, Gate(1, 1, 1), 1)
    if may:
        door.check_key({}, (address, 1))
    else:
        with pytest.raises(CallFailed) as caught:
            door.check_key({}, (address, 1))
        assert caught.value.fault.status == 401


async def test_no_client_is_known_by_its_address_where_it_has_none() -> None:
    door = Admission(Keys(frozenset({digest("one")})), (ip_network("0.0.0.0/0"),), Gate(1, 1, 1), 1)
    with pytest.raises(CallFailed):
        door.check_key({}, None)
