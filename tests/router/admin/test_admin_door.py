"""Who gets to the admin API, and in which form: keys and roles, origins and hosts, JSON and nothing else."""

from __future__ import annotations

import json
import logging
from typing import Any

import httpx
import pytest

from router.admin.door import MOST_BYTES
from router.admission import digest
from tests.rawclient import connected, request
from tests.router.admin.operators import CLIENT, ENV, OPERATOR, VIEWER, Admin, administered, error_of

CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("models/jane/shift", {"shares": {"b": 1.0}}),
    ("models/jane/rollback", {}),
    ("models/jane/ramp", {"action": "pause"}),
    ("drain", {"target": "a"}),
    ("undrain", {"target": "a"}),
]
READS = ["status", "history", "config", "openapi.json"]


@pytest.mark.parametrize(
    "line",
    [
        None,
        "",
        "Bearer",
        f"Basic {OPERATOR}",
        OPERATOR,
        f"Bearer {OPERATOR}x",
        f"Bearer {OPERATOR[:-1]}",
        f"Bearer {OPERATOR.upper()}",
        "Bearer ' OR 1=1 --",
        "Bearer " + "x" * 10_000,
    ],
    ids=lambda line: str(line)[:30],
)
async def test_without_an_admin_key_nothing_is_shown_and_nothing_is_changed(admin: Admin, line: str | None) -> None:
    admin.key = None
    headers = {} if line is None else {"authorization": line}
    for path in (*READS, "nothing", ""):
        answer = await admin.get(path, **headers)
        assert error_of(answer)[0] in (401, 429)
        assert answer.status_code == 429 or answer.headers["www-authenticate"] == "Bearer"
    assert (await admin.shift(1.0, **headers)).status_code in (401, 429)
    admin.key = OPERATOR
    assert await admin.revision() == 1


async def test_a_key_counts_in_its_own_header_and_once_only(admin: Admin) -> None:
    admin.key = None
    assert (await admin.get(f"status?key={OPERATOR}")).status_code == 401
    assert (await admin.get("status", cookie=f"authorization=Bearer {OPERATOR}; key={OPERATOR}")).status_code == 401
    assert (await admin.get("status", x_api_key=OPERATOR)).status_code == 401
    key = ("authorization", f"Bearer {OPERATOR}")
    assert (await admin.router.client.get("/admin/api/status", headers=[key, key])).status_code == 401
    assert (await admin.router.client.get("/admin/api/status", headers=[key])).status_code == 200


async def test_a_viewer_sees_everything_and_changes_nothing(admin: Admin) -> None:
    admin.key = VIEWER
    for path in READS:
        assert (await admin.get(path)).status_code == 200
    for path, body in CHANGES:
        assert error_of(await admin.post(path, body)) == (403, "viewer_key")
    assert await admin.revision() == 1


async def test_a_key_of_clients_opens_nothing_and_a_network_that_needs_no_key_neither() -> None:
    server = 'admin: {viewer_key_env: VIEWER_KEY}\nallow_from: ["127.0.0.0/8"]'
    async with administered(server=server, env={**ENV, "CROSSFADE_KEYS": CLIENT}) as admin:
        for key, refused in ((CLIENT, (403, "not_an_admin_key")), (None, (401, "invalid_admin_key"))):
            admin.key = key
            assert error_of(await admin.get("status")) == refused
            for path, body in CHANGES:
                assert error_of(await admin.post(path, body)) == refused
        admin.key = OPERATOR
        assert (await admin.get("status")).json()["notices"] == [
            "server.allow_from lets every client in 127.0.0.0/8 in without a key"
        ]


async def test_an_admin_key_is_no_key_of_clients() -> None:
    async with administered(env={**ENV, "CROSSFADE_KEYS": CLIENT}) as admin:
        for key, status in ((OPERATOR, 401), (VIEWER, 401), (CLIENT, 200)):
            assert (await admin.router.chat(headers={"authorization": f"Bearer {key}"})).status_code == status


async def test_a_key_that_is_in_both_places_is_a_key_of_clients_alone() -> None:
    async with administered(env={**ENV, "CROSSFADE_KEYS": CLIENT}) as admin:
        router = admin.router
        router.parts.admin_keys._operator = digest(CLIENT)  # as when the kept key is given to clients
        assert error_of(await Admin(router, CLIENT).get("status")) == (403, "not_an_admin_key")


async def test_wrong_keys_are_told_to_wait_and_the_right_one_never_is(
    admin: Admin, caplog: pytest.LogCaptureFixture
) -> None:
    admin.key = "wrong"
    answers = [await admin.get("status") for _ in range(20)]
    assert [answer.status_code for answer in answers] == [401] * 5 + [429] * 15
    assert error_of(answers[-1]) == (429, "too_many_wrong_keys")
    assert 0 < int(answers[-1].headers["retry-after"]) <= 60
    admin.key = OPERATOR
    assert (await admin.get("status")).status_code == 200
    admin.key = None
    assert (await admin.get("status")).status_code == 401, "who sends no key guesses none"
    assert [record.getMessage() for record in caplog.records if record.name == "crossfade.admin"] == [
        "more than 5 wrong admin keys came from 127.0.0.1 within a minute"
    ]


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "http://localhost:3000"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1"},
        {"origin": "file://"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
    ids=str,
)
async def test_pages_of_other_sites_reach_nothing_though_they_had_the_key(
    admin: Admin, headers: dict[str, str]
) -> None:
    for answer in (await admin.get("status", **headers), await admin.shift(1.0, **headers)):
        assert error_of(answer) == (403, "foreign_origin")
    assert await admin.revision() == 1


async def test_the_routers_own_pages_reach_it_by_its_address_and_by_the_names_of_the_configuration() -> None:
    async with administered(server=f"{'hosts: [ops.example.org]'}\nadmin: {{viewer_key_env: VIEWER_KEY}}") as admin:
        own = f"http://127.0.0.1:{admin.router.port}"
        for origin, host in (
            (own, own[7:]),
            ("https://ops.example.org", "ops.example.org"),
            ("https://ops.example.org", own[7:]),
        ):
            answer = await admin.get("status", origin=origin, host=host, sec_fetch_site="same-origin")
            assert answer.status_code == 200


async def test_a_name_that_was_bound_to_this_address_anew_reaches_nothing(admin: Admin) -> None:
    for answer in (await admin.get("status", host="evil.example"), await admin.get("status", host="evil.example:8000")):
        assert error_of(answer) == (421, "unknown_host")


async def test_no_answer_lets_another_origin_read_it(admin: Admin) -> None:
    client, key = admin.router.client, {"authorization": f"Bearer {OPERATOR}"}
    asks = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    answers = [
        await client.options(
            "/admin/api/models/jane/shift", headers={**asks, "access-control-request-headers": "authorization"}
        ),
        await client.options("/admin/api/status", headers={**asks, **key}),
        await client.options("/admin/api/status", headers=key),
        await client.get("/admin/api/status", headers={**key, "origin": "https://evil.example"}),
        await client.get("/admin/api/status", headers=key),
    ]
    assert [answer.status_code for answer in answers] == [403, 403, 405, 403, 200]
    for answer in answers:
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("content_type", "body", "refused"),
    [
        ("text/plain", b'{"target": "a", "reason": "x"}', (415, "unsupported_media_type")),
        ("application/x-www-form-urlencoded", b"target=a&reason=x", (415, "unsupported_media_type")),
        ("multipart/form-data; boundary=x", b"--x--", (415, "unsupported_media_type")),
        ("", b'{"target": "a", "reason": "x"}', (415, "unsupported_media_type")),
        ("application/json", b"", (400, "bad_request")),
        ("application/json", b"{", (400, "bad_request")),
        ("application/json", b'["a"]', (400, "bad_request")),
        ("application/json", b'{"target": "b", "target": "a", "reason": "x"}', (400, "bad_request")),
        ("application/json", b'{"target": NaN, "reason": "x"}', (400, "bad_request")),
        ("application/json", b'{"target": "\xff", "reason": "x"}', (400, "bad_request")),
        ("application/json", '\ufeff{"target": "a", "reason": "x"}'.encode(), (400, "bad_request")),
        ("application/json", b'{"target": ' + b"[" * 30_000 + b"]" * 30_000 + b"}", (400, "bad_request")),
        ("application/json", b'{"target": ' + b"9" * 9_000 + b', "reason": "x"}', (400, "bad_request")),
        ("application/json", b'{"target": "\\ud800", "reason": "x"}', (422, "invalid_field")),
        ("application/json", b'{"target": "a", "reason": "x", "\\ud800": 1}', (422, "invalid_field")),
        ("application/json", b'{"target": "a", "reason": "x", "<script>": 1}', (422, "invalid_field")),
        ("application/json", b'{"target": "' + b"a" * MOST_BYTES + b'"}', (413, "request_too_large")),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_is_no_json_of_a_known_form_is_refused(
    admin: Admin, content_type: str, body: bytes, refused: tuple[int, str]
) -> None:
    headers = {"authorization": f"Bearer {OPERATOR}", "content-type": content_type}
    answer = await admin.router.client.post("/admin/api/drain", content=body, headers=headers)
    assert error_of(answer) == refused
    assert await admin.revision() == 1


async def test_a_body_without_a_length_is_cut_off_where_it_is_too_long(admin: Admin) -> None:
    async def endless() -> object:
        for _ in range(100):
            yield b" " * 4096

    headers = {"authorization": f"Bearer {OPERATOR}", "content-type": "application/json"}
    answer = await admin.router.client.post("/admin/api/drain", content=endless(), headers=headers)  # type: ignore[arg-type]
    assert error_of(answer) == (413, "request_too_large")


async def test_a_body_that_says_that_it_is_too_long_is_not_waited_for(admin: Admin) -> None:
    lines = (f"authorization: Bearer {OPERATOR}", f"content-length: {MOST_BYTES + 1}")
    async with connected(admin.router.port) as client:
        await client.send(request(b"", *lines, line="POST /admin/api/drain HTTP/1.1", length=False))
        assert (await client.answer()).status == 413


async def test_who_leaves_in_mid_body_leaves_no_line_in_the_log_and_changes_nothing(
    admin: Admin, caplog: pytest.LogCaptureFixture
) -> None:
    body = b'{"target": "a", "reason": "x"}'
    lines = (f"authorization: Bearer {OPERATOR}", "content-length: 100")
    async with connected(admin.router.port) as client:
        await client.send(request(body, *lines, line="POST /admin/api/drain HTTP/1.1", length=False))
    for _ in range(3):
        assert await admin.revision() == 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_compressed_bodies_are_refused(admin: Admin) -> None:
    assert error_of(await admin.post("drain", {"target": "a"}, content_encoding="gzip")) == (
        415,
        "unsupported_media_type",
    )


@pytest.mark.parametrize(
    ("method", "path", "refused"),
    [
        ("GET", "nothing", (404, "not_found")),
        ("GET", "status/", (404, "not_found")),
        ("GET", "", (404, "not_found")),
        ("GET", "../api/statu", (404, "not_found")),
        ("DELETE", "status", (405, "method_not_allowed")),
        ("POST", "status", (405, "method_not_allowed")),
        ("GET", "drain", (405, "method_not_allowed")),
        ("GET", "models/jane/shift", (405, "method_not_allowed")),
        ("PUT", "models/jane/shift", (405, "method_not_allowed")),
        ("POST", "drain?force=1", (400, "invalid_field")),
        ("GET", "history?nothing=1", (400, "invalid_field")),
        ("GET", "history?limit=0", (400, "invalid_field")),
        ("GET", "history?limit=many", (400, "invalid_field")),
        ("GET", "history?model=joe", (404, "model_not_found")),
    ],
)
async def test_every_other_path_method_and_query_is_told_so(
    admin: Admin, method: str, path: str, refused: tuple[int, str]
) -> None:
    headers = {"authorization": f"Bearer {OPERATOR}"}
    answer = await admin.router.client.request(method, f"/admin/api/{path}", headers=headers, json={})
    assert error_of(answer) == refused
    if refused[0] == 405:
        assert answer.headers["allow"]


@pytest.mark.parametrize(
    "path",
    [
        "/admin",
        "/admin/api",
        "/Admin/api/status",
        "//admin/api/status",
        "/v1/../admin/api/status",
        "/v1/%2e%2e/admin/api/status",
        "/admin%2fapi%2fstatus",
        "/admin/./api/status",
        "/admin;x/api/status",
        "/admin\\api\\status",
        "/admin/api%00/status",
        "http://127.0.0.1/admin/api/status",
    ],
)
async def test_no_other_way_of_writing_a_path_leads_here(admin: Admin, path: str) -> None:
    head = f"GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {OPERATOR}\r\nconnection: close\r\n\r\n"
    async with connected(admin.router.port) as client:
        await client.send(head.encode())
        answer = await client.answer("GET")
    assert answer.status in (400, 404)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-crossfade-actor", "\xe9\x80"),
        ("x-crossfade-actor", "x" * 101),
        ("idempotency-key", "x" * 201),
        ("idempotency-key", "\xa0"),
        ("if-match", "7"),
        ("if-match", 'W/"1"'),
        ("if-match", '"1", "2"'),
        ("if-match", '"one"'),
    ],
)
async def test_headers_of_a_wrong_form_are_refused(admin: Admin, header: str, value: str) -> None:
    body = json.dumps({"target": "a", "reason": "x"})
    headers = [
        (b"authorization", f"Bearer {OPERATOR}".encode()),
        (b"content-type", b"application/json"),
        (header.encode(), value.encode("latin-1")),
    ]
    answer = await admin.router.client.post("/admin/api/drain", content=body, headers=httpx.Headers(headers))
    assert error_of(answer)[0] == 400
    assert answer.json()["error"]["param"] == header
    assert await admin.revision() == 1
