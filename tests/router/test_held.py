"""Responses that one replica holds: their ids lead to it and to nobody else, over restarts and processes."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.running import Router, running
from tests.upstream import END, STREAM_HEAD, Connection, Received, Upstream, answer, chunked

SAID = [{"id": "msg_1", "type": "message", "content": [{"type": "output_text", "text": "Hello"}]}]
NOT_FOUND = {
    "message": "Response with id '{}' not found.",
    "type": "invalid_request_error",
    "param": "response_id",
    "code": 404,
}


@dataclass
class Store:
    """A backend that holds what it has answered, as vLLM does."""

    name: str
    held: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[Received] = field(default_factory=list)
    has_no_delete: bool = False

    async def __call__(self, request: Received, connection: Connection) -> None:
        self.asked.append(request)
        path, _, query = request.path.partition("?")
        if path == "/v1/responses":
            await connection.write(*self._made(request.json))
            return
        own_id, _, rest = path.removeprefix("/v1/responses/").partition("/")
        if own_id not in self.held:
            error = {**NOT_FOUND, "message": f"Response with id '{own_id}' not found."}
            await connection.write(answer({"error": error}, "404 Not Found"))
        elif "stream=true" in query:
            await connection.write(STREAM_HEAD, *self._events(self.held[own_id], start=2), END)
        elif rest == "input_items":
            await connection.write(answer({"object": "list", "data": [{"id": "msg_1"}], "has_more": False, "x": 1}))
        elif rest == "cancel":
            error = {
                "message": f"Cannot cancel {own_id}.",
                "type": "invalid_request_error",
                "param": "response_id",
                "code": 400,
            }
            await connection.write(answer({"error": error}, "400 Bad Request"))
        elif request.method == "DELETE" and self.has_no_delete:
            await connection.write(answer({"detail": "Method Not Allowed"}, "405 Method Not Allowed"))
        elif request.method == "DELETE":
            del self.held[own_id]
            await connection.write(answer({"id": own_id, "object": "response", "deleted": True}))
        else:
            await connection.write(answer(self.held[own_id]))

    def _made(self, asked: dict[str, Any]) -> list[bytes]:
        before = asked.get("previous_response_id")
        if before is not None and before not in self.held:
            error = {**NOT_FOUND, "message": f"Response with id '{before}' not found."}
            return [answer({"error": error}, "404 Not Found")]
        own_id = f"resp_{self.name}{len(self.held):04x}"
        self.held[own_id] = {
            "id": own_id, "object": "response", "created_at": 1, "status": "completed", "model": asked["model"],
            "output": SAID, "previous_response_id": before, "background": bool(asked.get("background")),
        }  # fmt: skip
        if asked.get("stream"):
            return [STREAM_HEAD, *self._events(self.held[own_id]), END]
        return [answer(self.held[own_id])]

    def _events(self, response: dict[str, Any], start: int = 0) -> list[bytes]:
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": {**response, "status": "in_progress", "output": []}},
            {"type": "response.output_item.added", "item": {"id": "msg_1"}, "output_index": 0},
            {"type": "response.output_text.delta", "item_id": "msg_1", "delta": "x", "output_index": 0},
            {"type": "response.completed", "response": response},
        ]
        return [
            chunked(f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': n})}\n\n".encode())
            for n, event in enumerate(events)
        ][start:]


@dataclass
class Fleet:
    """Two backends, the first with two replicas; and how the router in front of them is started."""

    stores: dict[str, Store]
    up: dict[str, Upstream]
    env: dict[str, str]

    def config(self, split: str = "{a: 1.0}", backends: str = "") -> str:
        a = f"{{kind: vllm, urls: [{self.up['a1'].url}, {self.up['a2'].url}]}}"
        on = "{a: real-a, b: real-b}"
        return f"""
server: {{keys_env: null}}
backends:
  a: {a}
  b: {{kind: vllm, url: {self.up["b"].url}}}
{backends}
models:
  jane: {{on: {on}, split: {split}, retry: {{attempts_per_backend: 1}}}}
  mary: {{on: {on}, split: {{b: 1.0}}}}
"""

    @asynccontextmanager
    async def router(self, config: str = "") -> AsyncIterator[Router]:
        async with running(config or self.config(), self.env) as router:
            yield router


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    stores = {name: Store(name) for name in ("a1", "a2", "b")}
    async with AsyncExitStack() as stack:
        up = {name: await stack.enter_async_context(Upstream(store)) for name, store in stores.items()}
        yield Fleet(stores, up, {"CROSSFADE_ADMIN_KEY": "the-admins-own-key"})


async def make(router: Router, **fields: object) -> httpx.Response:
    return await router.client.post("/v1/responses", json={"model": "jane", "input": "hi", **fields})


def id_in(response: httpx.Response) -> str:
    """The id of a response, whole or streamed."""
    assert response.status_code == 200, response.text
    found = re.search(r'"id": ?"(resp_\w+)"', response.text)
    assert found is not None
    return found[1]


def owner_of(fleet: Fleet, shown: str) -> str:
    return next(name for name, store in fleet.stores.items() if any(shown.startswith(own) for own in store.held))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_conversation_stays_with_the_replica_that_holds_it(fleet: Fleet, stream: bool) -> None:
    async with fleet.router() as router:
        shown = id_in(await make(router, stream=stream))
        owner = owner_of(fleet, shown)
        for _ in range(8):
            response = await make(router, stream=stream, previous_response_id=shown)
            assert f'"previous_response_id":"{shown}"' in response.text
            shown = id_in(response)
    assert len(fleet.stores[owner].held) == 9
    assert fleet.stores[owner].asked[-1].json["previous_response_id"] in fleet.stores[owner].held
    assert sum(len(store.held) for store in fleet.stores.values()) == 9


async def test_an_owner_that_would_answer_poorer_is_not_asked(fleet: Fleet) -> None:
    image = [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]}]
    async with fleet.router(fleet.config().replace("b: real-b", "b: {name: real-b, can: {images: true}}")) as router:
        assert (await make(router, input=image)).headers["x-crossfade-backend"] == "b"
        shown = id_in(await make(router))
        refused = await make(router, input=image, previous_response_id=shown)
        error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, "unsupported", "input")
    assert sum(len(store.asked) for store in fleet.stores.values()) == 2


async def test_without_a_predecessor_the_choice_is_free(fleet: Fleet) -> None:
    async with fleet.router(fleet.config("{a: 0.5, b: 0.5}")) as router:
        for _ in range(40):
            await make(router, store=False)
    assert all(store.held for store in fleet.stores.values())


async def test_the_same_id_leads_to_its_owner_after_a_restart_and_from_another_process(fleet: Fleet) -> None:
    async with fleet.router() as router, fleet.router() as other:
        shown = id_in(await make(router))
        assert (await other.client.get(f"/v1/responses/{shown}")).json()["id"] == shown
    async with fleet.router() as router:
        assert (await router.client.get(f"/v1/responses/{shown}")).json()["id"] == shown
        assert id_in(await make(router, previous_response_id=shown))


async def test_an_id_says_nothing_of_its_owner(fleet: Fleet) -> None:
    async with fleet.router() as router:
        ids = [id_in(await make(router)) for _ in range(20)]
    marks = [shown[-12:] for shown in ids]
    assert len(set(marks)) == 20 and all(re.fullmatch(r"resp_[0-9a-z]+", shown) for shown in ids)


async def test_another_admin_key_marks_otherwise(fleet: Fleet) -> None:
    async with fleet.router() as router:
        shown = id_in(await make(router))
    fleet.env = {"CROSSFADE_ADMIN_KEY": "another"}
    async with fleet.router() as router:
        assert (await router.client.get(f"/v1/responses/{shown}")).status_code == 404


async def test_a_response_is_shown_deleted_and_listed_by_its_owner_alone(fleet: Fleet) -> None:
    async with fleet.router() as router:
        made = await make(router)
        shown = id_in(made)
        owner = owner_of(fleet, shown)
        path = f"/v1/responses/{shown}"
        assert (await router.client.get(path)).json() == made.json()
        items = (await router.client.get(f"{path}/input_items?limit=2&order=asc")).json()
        assert items == {"object": "list", "data": [{"id": "msg_1"}], "has_more": False}
        assert (await router.client.delete(path)).json() == {"id": shown, "object": "response.deleted", "deleted": True}
        gone = await router.client.get(path)
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "response_not_found") and shown in gone.text
    own_id = shown[:-12]
    asked = [(each.method, each.path) for each in fleet.stores[owner].asked]
    assert asked[1:] == [
        ("GET", f"/v1/responses/{own_id}"),
        ("GET", f"/v1/responses/{own_id}/input_items?limit=2&order=asc"),
        ("DELETE", f"/v1/responses/{own_id}"),
        ("GET", f"/v1/responses/{own_id}"),
    ]
    assert all("content-length" not in each.headers for each in fleet.stores[owner].asked[1:])
    others = [store for name, store in fleet.stores.items() if name != owner]
    assert not any(store.asked for store in others)


async def test_what_the_owner_says_of_a_response_names_it_by_the_clients_id(fleet: Fleet) -> None:
    async with fleet.router() as router:
        shown = id_in(await make(router))
        response = await router.client.post(f"/v1/responses/{shown}/cancel")
    assert (response.status_code, response.json()["error"]["message"]) == (400, f"Cannot cancel {shown}.")


async def test_a_background_response_is_followed_as_a_stream(fleet: Fleet) -> None:
    async with fleet.router() as router:
        shown = id_in(await make(router, background=True))
        response = await router.client.get(f"/v1/responses/{shown}?stream=true&starting_after=1")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert '"sequence_number":2' in response.text and '"sequence_number":3' in response.text
    assert f'"id":"{shown}"' in response.text and response.text.count("event: ") == 2


async def test_that_the_owner_has_forgotten_a_response_is_no_failure_of_its(fleet: Fleet) -> None:
    async with fleet.router() as router:
        shown = id_in(await make(router))
        for store in fleet.stores.values():
            store.held.clear()
        for _ in range(8):  # more than an ejection takes
            told = (await make(router, previous_response_id=shown)).json()["error"]
            assert (told["code"], told["param"]) == ("response_not_found", "previous_response_id")
            assert shown in told["message"]
            assert (await router.client.get(f"/v1/responses/{shown}")).status_code == 404
        metrics = (await router.client.get("/metrics")).text
        ready = (await router.client.get("/health/ready")).json()
    assert 'outcome="not_served"' not in metrics and 'outcome="route_missing"' not in metrics
    assert 'outcome="rejected"' in metrics and "ejected" not in json.dumps(ready)


MADE_UP = ["resp_x", "resp_" + "0" * 28, "resp_1", "x" * 200, "r"]


@pytest.mark.parametrize("shown", MADE_UP)
async def test_an_id_that_leads_to_nobody_is_a_404_and_nobody_is_asked(fleet: Fleet, shown: str) -> None:
    async with fleet.router() as router:
        for response in (
            await router.client.get(f"/v1/responses/{shown}"),
            await router.client.delete(f"/v1/responses/{shown}"),
            await router.client.post(f"/v1/responses/{shown}/cancel"),
            await router.client.get(f"/v1/responses/{shown}/input_items"),
            await make(router, previous_response_id=shown),
        ):
            assert (response.status_code, response.json()["error"]["code"]) == (404, "response_not_found")
            assert shown in response.json()["error"]["message"]
    assert not any(store.asked for store in fleet.stores.values())


async def test_an_altered_id_leads_to_nobody(fleet: Fleet) -> None:
    async with fleet.router() as router:
        shown = id_in(await make(router))
        for place in (5, 8, len(shown) - 12, len(shown) - 1):
            altered = shown[:place] + ("1" if shown[place] == "0" else "0") + shown[place + 1 :]
            assert (await router.client.get(f"/v1/responses/{altered}")).status_code == 404
    assert sum(len(store.asked) for store in fleet.stores.values()) == 1


async def test_an_owner_that_is_gone_from_the_configuration_is_a_404(fleet: Fleet) -> None:
    async with fleet.router(fleet.config("{b: 1.0}")) as router:
        shown = id_in(await make(router))
    moved = fleet.config().replace(fleet.up["b"].url, "http://127.0.0.1:9")
    async with fleet.router(moved) as router:
        assert (await router.client.get(f"/v1/responses/{shown}")).status_code == 404


async def test_an_owner_that_is_down_is_a_503_for_its_responses_alone(fleet: Fleet) -> None:
    async with fleet.router(fleet.config("{b: 1.0}")) as router:
        shown = id_in(await make(router))
        await fleet.up["b"].stop()
        for response in (
            await make(router, previous_response_id=shown),
            await router.client.get(f"/v1/responses/{shown}"),
        ):
            assert (response.status_code, response.json()["error"]["code"]) == (503, "backend_unavailable")
        assert (await make(router)).headers["x-crossfade-backend"] == "a"


async def test_another_model_on_the_same_backend_may_go_on(fleet: Fleet) -> None:
    async with fleet.router(fleet.config("{b: 1.0}")) as router:
        shown = id_in(await make(router))
        response = await make(router, model="mary", previous_response_id=shown)
        assert response.json()["model"] == "mary" and response.json()["previous_response_id"] == shown
        assert (await router.client.get(f"/v1/responses/{id_in(response)}")).json()["model"] == "mary"


async def test_who_asks_for_another_backend_by_name_is_not_answered_by_the_owner(fleet: Fleet) -> None:
    server = "server: {clients: [{key_env: TESTERS, may_pin: true}]}"
    fleet.env |= {"TESTERS": "t"}
    async with fleet.router(fleet.config("{b: 1.0}").replace("server: {keys_env: null}", server)) as router:
        router.client.headers["authorization"] = "Bearer t"
        shown = id_in(await make(router))
        for name, status in (("a", 404), ("b", 200)):
            router.client.headers["x-crossfade-backend"] = name
            assert (await make(router, previous_response_id=shown)).status_code == status
            assert (await router.client.get(f"/v1/responses/{shown}")).status_code == status


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/v1/responses/resp_1", "GET, DELETE"),
        ("GET", "/v1/responses/resp_1/cancel", "POST"),
        ("POST", "/v1/responses/resp_1/input_items", "GET"),
        ("GET", "/v1/responses", "POST"),
    ],
)
async def test_another_method_is_a_405(fleet: Fleet, method: str, path: str, allow: str) -> None:
    async with fleet.router() as router:
        response = await router.client.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allow)


@pytest.mark.parametrize(
    "path",
    ["/v1/responses/", "/v1/responses/a/b", "/v1/responses/a%2Fb", "/v1/responses/a.b", "/v1/responses/..%2Fmodels",
     "/v1/responses/a/cancel/", "/v1/responses//cancel", "/v1/responses/" + "x" * 201],
)  # fmt: skip
async def test_what_cannot_be_an_id_is_nothing(fleet: Fleet, path: str) -> None:
    async with fleet.router() as router:
        response = await router.client.get(
            httpx.URL(f"http://127.0.0.1:{router.port}").copy_with(raw_path=path.encode())
        )
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


async def test_a_query_that_is_none_is_a_400(fleet: Fleet) -> None:
    async with fleet.router() as router:
        shown = id_in(await make(router))
        response = await router.client.get(f"/v1/responses/{shown}?a='")
    assert (response.status_code, response.json()["error"]["code"]) == (400, "bad_request")


@pytest.mark.parametrize("query", ["stream=yes", "stream=", "str%65am=on", "stream=false&stream=true"])
async def test_a_stream_that_only_some_readers_would_see_asked_for_is_a_400(fleet: Fleet, query: str) -> None:
    async with fleet.router() as router:
        shown = id_in(await make(router))
        response = await router.client.get(f"/v1/responses/{shown}?{query}")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "stream")


async def test_only_what_is_shown_can_be_streamed(fleet: Fleet) -> None:
    async with fleet.router() as router:
        shown = id_in(await make(router))
        items = await router.client.get(f"/v1/responses/{shown}/input_items?str%65am=true")
        deleted = await router.client.delete(f"/v1/responses/{shown}?str%65am=true")
    assert (items.status_code, deleted.json()["deleted"]) == (200, True)


async def test_keys_are_asked_for_here_too(fleet: Fleet) -> None:
    fleet.env["CROSSFADE_KEYS"] = "right"
    async with fleet.router(fleet.config().replace("server: {keys_env: null}\n", "")) as router:
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
            response = await router.client.request(method, f"/v1/responses/resp_1{path}")
            assert response.json()["error"]["code"] == "invalid_api_key"


async def test_what_an_owner_cannot_do_is_said_and_takes_nothing_else_from_it(fleet: Fleet) -> None:
    async with fleet.router(fleet.config("{b: 1.0}")) as router:
        shown = id_in(await make(router))
        fleet.stores["b"].has_no_delete = True
        response = await router.client.delete(f"/v1/responses/{shown}")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "unsupported")
        assert (await make(router, previous_response_id=shown)).headers["x-crossfade-backend"] == "b"
        assert (await make(router)).headers["x-crossfade-backend"] == "b", "responses are not taken to be missing"


@pytest.mark.parametrize("given", [5, [], {}])
async def test_a_predecessor_that_is_no_string_is_the_clients_to_mend(fleet: Fleet, given: object) -> None:
    async with fleet.router() as router:
        response = await make(router, previous_response_id=given)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "previous_response_id")
