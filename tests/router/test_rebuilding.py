"""A fleet takes a newer configuration: what stays the same object, what is new, and what is known of servers that stay."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from backends.dialects import Abilities
from backends.pool import Pool, origin_of
from policies.ejection import State
from router.building import build_fleet
from router.config import Config, loads
from router.fleet import Fleet, LiveReplica
from router.limits import OWN
from router.rebuilding import Done, Plan
from tests.running import config_for
from tests.upstream import Upstream, says

ALIVE: Sequence[str] = ("LiveBackend", "LiveModel", "LiveReplica", "ReplicaHealth", "Pool", "Gate", "Binding")
A, B, C = (f"http://127.0.0.1:{port}" for port in (1, 2, 3))
ENV = {"KEY": "k"}


@dataclass
class Site:
    """A fleet and the configuration that it is built from, or was rebuilt to last."""

    config: Config
    fleet: Fleet = field(init=False)

    def __post_init__(self) -> None:
        self.fleet = build_fleet(self.config, ENV, random.Random(1))

    def becomes(self, text: str) -> Done:
        """Rebuild it."""
        after = loads(text, ENV).config
        done = Plan(self.fleet, self.config, after, ENV, OWN).carry_out(100.0)
        self.config = after
        return done

    def replica(self, backend: str = "a", number: int = 0) -> LiveReplica:
        return self.fleet.backends[backend].replicas[number]


def site(text: str) -> Site:
    return Site(loads(text, ENV).config)


def text(a: str = f"url: {A}", model: str = "split: {a: 1.0}", server: str = "", on_a: str = "real-a") -> str:
    return config_for({"a": "URL_A", "b": B}, model, server).replace("url: URL_A", a).replace("a: real-a", f"a: {on_a}")


async def test_what_is_unchanged_stays_the_same_object() -> None:
    here = site(text())
    backends, models = dict(here.fleet.backends), dict(here.fleet.models)
    done = here.becomes(text(server="hosts: [llm.example.org]"))
    assert here.fleet.backends == backends and here.fleet.models == models
    assert not done.unmet


async def test_other_shares_are_the_routing_states_and_change_no_model() -> None:
    here = site(text())
    jane = here.fleet.models["jane"]
    here.becomes(text(model="split: {a: 0.5, b: 0.5}"))
    assert here.fleet.models["jane"] is jane and jane.split == {"a": 1.0}


async def test_other_timeouts_make_a_new_model_on_the_same_backends_and_with_the_same_budget() -> None:
    here = site(text())
    jane, a = here.fleet.models["jane"], here.fleet.backends["a"]
    here.becomes(text(model="split: {a: 1.0}\ntimeouts: {total_s: 7}"))
    new = here.fleet.models["jane"]
    assert new is not jane and new.total_s == 7 and new.budget is jane.budget
    assert here.fleet.backends["a"] is a and new.bindings["a"].backend is a


async def test_timeouts_of_a_backend_are_its_models_and_leave_it_alone() -> None:
    here = site(text())
    a = here.fleet.backends["a"]
    here.becomes(text(f"url: {A}, timeouts: {{connect_s: 9}}"))
    assert here.fleet.backends["a"] is a
    assert here.fleet.models["jane"].bindings["a"].limits.connect_s == 9


async def test_a_further_replica_leaves_those_that_stay_their_connections_and_health() -> None:
    here = site(text(f"urls: [{A}]"))
    old = here.replica()
    old.probed_at_s = 1.0
    old.health["jane"].keep_out(1.0, "it fell over")
    done = here.becomes(text(f"urls: [{C}, {A}]"))
    new, kept = here.fleet.backends["a"].replicas
    assert kept.server is old.server and kept.health["jane"] is old.health["jane"]
    assert kept.health["jane"].state is State.EJECTED and new.health["jane"].state is State.IN_ROTATION
    assert done.unmet == [new]
    assert here.fleet.models["jane"].unwell == 0  # counted with the shares, in the same step


async def test_another_key_is_another_server() -> None:
    here = site(text())
    old = here.replica()
    here.becomes(text(f"url: {A}, key_env: KEY"))
    assert here.replica().server is not old.server


async def test_a_backend_that_is_replaced_takes_no_more_calls_at_once_than_before() -> None:
    here = site(text(f"url: {A}, max_in_flight: 2"))
    old = here.fleet.backends["a"]
    assert old.gate.try_enter()
    here.becomes(text(f"url: {C}, max_in_flight: 1"))
    new = here.fleet.backends["a"]
    assert new is not old and new.gate.limit == 1
    assert not new.gate.try_enter(), "the call on the old one counts"
    old.fit(101.0)
    assert new.gate.limit == 1, "who leaves the old backend does not put its limit back"
    old.gate.leave()
    assert new.gate.try_enter()


async def test_a_longer_queue_holds_for_backends_that_stay() -> None:
    here = site(text(f"url: {A}, max_in_flight: 1", server="queue_size: 1"))
    gate = here.fleet.backends["a"].gate
    here.becomes(text(f"url: {A}, max_in_flight: 1", server="queue_size: 2"))
    assert here.fleet.backends["a"].gate is gate
    assert gate.try_enter()
    waiting = [asyncio.create_task(gate.enter(asyncio.get_running_loop().time() + 20)) for _ in range(2)]
    await asyncio.sleep(0)
    assert gate.waiting == 2
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_other_rules_of_ejection_go_on_from_where_a_replica_stands() -> None:
    here = site(text(model="split: {a: 1.0}\neject: {consecutive_failures: 5}"))
    health = here.replica().health["jane"]
    health.failed(1.0)
    here.becomes(text(model="split: {a: 1.0}\neject: {consecutive_failures: 2}"))
    assert here.replica().health["jane"] is health
    health.failed(2.0)
    assert health.state is State.EJECTED


async def test_another_name_on_a_backend_is_another_model_there() -> None:
    here = site(text())
    replica = here.replica()
    replica.probed_at_s = 1.0
    replica.health["jane"].hold_out(1.0, "not listed")
    replica.lacks["jane"] = "not listed"
    done = here.becomes(text(on_a="mended"))
    assert here.replica() is replica
    assert replica.health["jane"].state is State.IN_ROTATION and not replica.lacks
    assert done.unmet == [replica]


async def test_a_new_model_keeps_off_a_server_whose_last_probe_failed() -> None:
    here = site(text())
    here.replica().probed_at_s = 1.0
    here.replica().probe_said = "it is away"
    here.becomes(text() + "\n  kim: {on: {a: x, b: y}, split: {a: 1.0}}")
    assert here.replica().health["kim"].state is State.EJECTED
    assert here.replica("b").health["kim"].state is State.IN_ROTATION


async def test_what_servers_said_of_themselves_stays_known() -> None:
    here = site(text(f"urls: [{A}]"))
    here.fleet.models["jane"].bindings["a"].abilities.heard(0, Abilities({"images": True}, 4096))
    here.becomes(text(f"urls: [{C}, {A}]"))
    known = here.fleet.models["jane"].bindings["a"].abilities
    assert "images" not in known.lacks, "the server that stays is number 1 now"


async def test_calls_of_a_model_that_is_gone_charge_nobody() -> None:
    here = site(text() + "\n  kim: {on: {a: x}, split: {a: 1.0}}")
    kim = here.fleet.models["kim"]
    here.becomes(text())
    replica = here.replica()
    for _ in range(50):
        replica.health["kim"].failed(1.0)
    assert list(replica.health) == ["jane"] and replica.is_in_rotation
    assert here.fleet.backends["a"].pick("kim", 1.0, here.fleet.rng) is replica
    kim.count_unwell(1.0)
    assert kim.unwell == 0


async def test_a_pool_that_is_retired_keeps_nothing_that_is_given_back() -> None:
    async with Upstream(says("x")) as up:
        pool = Pool(origin_of(up.url))
        running, idle = await pool.connect(5), await pool.connect(5)
        pool.give(idle, asyncio.get_running_loop().time())
        pool.retire()
        assert not idle.is_idle
        pool.give(running, asyncio.get_running_loop().time())
        assert pool.idle == 0 and not running.is_idle


async def test_a_backend_that_cannot_be_built_changes_nothing() -> None:
    here = site(text())
    backends, models = dict(here.fleet.backends), dict(here.fleet.models)
    after = loads(text(f"url: {A.replace('http', 'https')}"), ENV).config
    gone = after.backends["a"].model_copy(update={"ca_file": "/nowhere/ca.pem"})  # since the file was validated
    with pytest.raises(FileNotFoundError):
        Plan(here.fleet, here.config, after.model_copy(update={"backends": {**after.backends, "a": gone}}), ENV, OWN)
    assert here.fleet.backends == backends and here.fleet.models == models


async def test_200_changes_leave_nothing_behind() -> None:
    here = site(text())
    texts = [text(f"url: {C}", "split: {b: 1.0}\nretry: {attempts_per_backend: 1}"), text()]
    changes = [f"{each}\n  m{number}: {{on: {{b: x}}, split: {{b: 1.0}}}}" for number in range(100) for each in texts]

    def alive() -> int:
        gc.collect()
        return sum(type(each).__name__ in ALIVE for each in gc.get_objects())

    for each in changes[:4]:
        here.becomes(each)
    before = alive()
    for each in changes:
        here.becomes(each)
    assert alive() <= before
    assert set(here.replica("b").health) == {"jane", "m99"}
