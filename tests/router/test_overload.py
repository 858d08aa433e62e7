"""Ten times what a backend can do, over real sockets: it stays busy, nobody hangs, people go first, and afterwards all is as before.

How long and how much exactly is tested in virtual time (`tests/policies/test_line.py`) and measured by `python -m bench.overload`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tests.rawclient import Answer, chat_body, connected, request
from tests.running import Router, config_for, running
from tests.upstream import Connection, Received, Upstream, says

SLOTS, SERVICE_S = 4, 0.25  # so slow that the clients of this process leave it time
OVERLOAD_S = 3.0
EVERY_S = SERVICE_S / SLOTS / 10
PEOPLE_EVERY = 20  # of the calls that come, one in so many; half of what the slots can do


@dataclass
class Worker:
    """A backend that takes SERVICE_S for a call, and knows how busy it was."""

    inside: int = 0
    most: int = 0
    busy_s: float = 0.0
    since_s: float = 0.0

    def turn(self, by: int) -> None:
        now_s = asyncio.get_running_loop().time()
        self.busy_s += self.inside * (now_s - self.since_s)
        self.since_s = now_s
        self.inside += by
        self.most = max(self.most, self.inside)

    async def __call__(self, received: Received, connection: Connection) -> None:
        self.turn(1)
        try:
            await asyncio.sleep(SERVICE_S)
        finally:
            self.turn(-1)
        await says("x")(received, connection)


@dataclass
class Crowd:
    """Clients that come at their own pace, whatever becomes of those before them; answers by class."""

    port: int
    answers: dict[str, list[tuple[float, Answer]]] = field(default_factory=lambda: {"interactive": [], "batch": []})

    async def one(self, priority: str) -> None:
        began_s = asyncio.get_running_loop().time()
        async with connected(self.port) as client:
            await client.send(request(chat_body(), f"x-crossfade-priority: {priority}"))
            answer = await client.answer()
        self.answers[priority].append((asyncio.get_running_loop().time() - began_s, answer))

    async def come(self, for_s: float) -> None:
        loop = asyncio.get_running_loop()
        began_s, count, calls = loop.time(), 0, []
        while loop.time() < began_s + for_s:
            while count * EVERY_S < loop.time() - began_s:  # a late loop catches up
                priority = "batch" if count % PEOPLE_EVERY else "interactive"
                calls.append(asyncio.create_task(self.one(priority)))
                count += 1
            await asyncio.sleep(EVERY_S)
        await asyncio.gather(*calls)


async def test_ten_times_the_capacity_leaves_the_backend_busy_and_everybody_answered() -> None:
    worker = Worker()
    async with Upstream(worker) as a:
        config = config_for({"a": a.url}, server="queue_size: 16").replace(
            f"kind: vllm, url: {a.url}", f"kind: vllm, max_in_flight: {SLOTS}, url: {a.url}"
        )
        async with running(config) as router:
            loop = asyncio.get_running_loop()
            crowd = Crowd(router.port)
            worker.since_s = began_s = loop.time()
            await crowd.come(OVERLOAD_S)
            worker.turn(0)
            assert worker.most == SLOTS
            # The first calls need a moment to come, and the last ones leave slots behind.
            assert worker.busy_s >= 0.8 * SLOTS * (loop.time() - began_s - 2 * SERVICE_S)
            shows_order(crowd)
            await is_normal_again(router)
            metrics = (await router.client.get("/metrics")).text
    assert 'crossfade_inside{backend="a",queue="backend"} 0.0' in metrics
    assert 'crossfade_inside{backend="",queue="router"} 0.0' in metrics
    assert 'reason="expired"' not in metrics, "who waits is let in, or refused on arrival or for a better call"


def shows_order(crowd: Crowd) -> None:
    """People are served, and who is refused hears it at once, with the time after which to come back."""
    share = {
        who: sum(answer.status == 200 for _, answer in answers) / len(answers) for who, answers in crowd.answers.items()
    }
    assert share["interactive"] > 3 * share["batch"]
    batch = crowd.answers["batch"]
    assert {answer.status for _, answer in batch} == {200, 503}
    refused = [(took_s, answer) for took_s, answer in batch if answer.status == 503]
    assert all(1 <= int(answer.headers["retry-after"]) <= 60 for _, answer in refused)
    took = sorted(took_s for took_s, _ in refused)
    served = sorted(took_s for took_s, answer in batch if answer.status == 200)
    assert took[len(took) // 2] < served[0], "a refusal is quicker than any answer"


async def is_normal_again(router: Router) -> None:
    """As many calls as there are slots, at once, are all served."""
    for _ in range(2):
        answers = await asyncio.gather(*(router.chat() for _ in range(SLOTS)))
        assert {each.status_code for each in answers} == {200}
