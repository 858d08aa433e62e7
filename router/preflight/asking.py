"""Asks one backend everything, through the dispatch, attempt and relay of the router's calls, with that backend alone behind the model.

So what is heard is what the application would hear: the request written for the backend, its answer in the one form, its error in
OpenAI's envelope. Contracts, retries, resumes and rules are off, because they would hide what the backend does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from backends.dialects import listed
from backends.errors import BackendError, DeadlinePassed
from backends.http import Limits
from backends.inquiry import exact_prompt_tokens, props, said_name
from policies.facts import CallFacts
from policies.preflight_facts import Check, Heard, Listed, Side
from router.building import build_fleet
from router.call import Call, HeaderView
from router.config import Config
from router.config.routing import Accept
from router.dispatch import dispatch
from router.faults import CallFailed, Fault, bad_call
from router.fleet import Fleet, LiveReplica
from router.metrics import Metrics
from router.monitor import Monitor
from router.needs import needs_of
from router.preflight.listener import Listener
from router.preflight.questions import GREETING, Body, question, stop_word_of
from router.preflight.reading import error_in, heard_stream, heard_whole
from router.reading import BadCall, read_body
from router.record import Recorder

MAX_WORDS = 200  # characters of an error
_WORST_FIRST = (Listed.MISSING, Listed.NOT_LOADED, Listed.UNKNOWN, Listed.THERE)
_PATH = b"/v1/chat/completions"
_JSON_ASKED = frozenset({Check.JSON_OBJECT, Check.JSON_SCHEMA})

Said = Callable[[str, Check | None], None]  # which backend is asked what now; None: what it tells of itself


def alone(config: Config, model: str, backend: str) -> Config:
    """The configuration with `backend` alone behind `model`, and nothing that would hide what it does."""
    settings = config.models[model]
    changed: dict[str, Any] = {
        "on": {backend: settings.on[backend]},
        "split": {backend: 1.0},
        "fallback": (backend,),
        "rules": (),
        "retry": settings.retry.model_copy(update={"attempts_per_backend": 1}),
        "resume": settings.resume.model_copy(update={"by": ()}),
        "hedge": None,
        "accept": Accept.model_validate({"tool_calls": "any", "json": "any", "empty": "allow"}),
        "shadow": None,
        "rollout": None,
    }
    only = {model: settings.model_copy(update=changed)}
    return config.model_copy(update={"models": only, "backends": {backend: config.backends[backend]}})


@dataclass(slots=True)
class Asking:
    """One backend's turn: build it in a running loop, `ask` once."""

    config: Config
    model: str
    backend: str
    env: Mapping[str, str]
    timeout_s: float
    said: Said
    _fleet: Fleet = field(init=False)
    _recorder: Recorder = field(init=False)

    async def ask(self) -> Side:
        """All that there is to know of it. Nothing that a backend does raises."""
        self._fleet = build_fleet(alone(self.config, self.model, self.backend), self.env, random.Random())
        self._recorder = Recorder(Metrics(), self._fleet.rng)
        try:
            self.said(self.backend, None)
            await Monitor(self._fleet).round()
            side = await self._introduced()
            for check in Check if side.is_reachable else ():
                body = question(check, self.model, side)
                if body is None:
                    continue
                self.said(self.backend, check)
                side = replace(side, heard={**side.heard, check: await self._hear(check, body)})
                if check is Check.GREEDY:
                    side = replace(side, stop_word=stop_word_of(side.heard[check].text))
            return side
        finally:
            for replica in self._replicas:
                replica.server.pool.close()

    @property
    def _replicas(self) -> list[LiveReplica]:
        return self._fleet.backends[self.backend].replicas

    # -- what it tells of itself -------------------------------------------------------------------

    async def _introduced(self) -> Side:
        binding = self._fleet.models[self.model].bindings[self.backend]
        name = binding.plain_name
        side = Side(self.backend, binding.backend.kind, name, ails=tuple(r.probe_said for r in self._replicas))
        well = [replica for replica in self._replicas if not replica.probe_said]
        if not well:
            return side
        server = well[0].server
        named = await self._named(well[0], name)
        lists = [await replica.server.lists() for replica in well]
        found = [Listed(server.dialect.presence(bodies, name).value) for bodies in lists]
        context, defaults = await props(server)
        known = binding.abilities.context()
        return replace(
            side,
            listed=next(worst for worst in _WORST_FIRST if worst in found),
            listed_names=tuple(_line(each) for each in _names(lists[0])),
            said_name=named,
            is_other=bool(named and binding.is_same is not None and not binding.is_same(name, named)),
            context_tokens=known[0] if known is not None else context,
            exact_tokens=await exact_prompt_tokens(server, name, GREETING),
            defaults=defaults,
        )

    async def _named(self, replica: LiveReplica, name: str) -> str | None:
        """What it calls the model in an answer, before the router puts the public name there."""
        try:
            named = await said_name(replica.server, name, GREETING, self._limits())
        except BackendError:
            return None  # the first question says what is wrong
        return replica.server.shown(named) if named else None

    def _limits(self) -> Limits:
        due_s = asyncio.get_running_loop().time() + self.timeout_s
        return Limits(self.timeout_s, due_s, lambda: DeadlinePassed("too slow"))

    # -- what it makes of a question ---------------------------------------------------------------

    async def _hear(self, check: Check, body: Body) -> Heard:
        started_s = asyncio.get_running_loop().time()
        listener = Listener()
        call: Call | None = None
        try:
            call = self._call(msgspec.json.encode(body), started_s)
            await dispatch(call, listener, self._fleet, self._recorder)  # until the call's deadline at the most
        except BadCall as error:
            heard = _refused(bad_call(error), None)
        except CallFailed as failed:
            heard = _refused(failed.fault, call)
        except BackendError:
            heard = _broken(listener.body, call)
        else:
            is_json = check in _JSON_ASKED
            heard = heard_stream(listener.body) if body.get("stream") else heard_whole(listener.body, is_json=is_json)
        return replace(heard, took_s=asyncio.get_running_loop().time() - started_s)

    def _call(self, raw: bytes, now_s: float) -> Call:
        """As the endpoint reads it. Raises BadCall."""
        body = read_body("chat", raw)
        facts = CallFacts(
            model=body.model,
            kind="chat",
            headers=HeaderView({}),
            stream=body.stream,
            tools=body.has_tools,
            prompt_bytes=body.size_bytes,
            user=body.user,
            messages=body.messages,
            needs=needs_of("chat", body),
        )
        return Call(
            facts=facts,
            path=_PATH,
            body=body,
            content_type=b"application/json",
            request_id=b"preflight-%08x" % self._fleet.rng.getrandbits(32),
            started_s=now_s,
            deadline_s=now_s + self.timeout_s,
        )


def _names(bodies: Sequence[bytes]) -> list[str]:
    """What a server lists; nothing where its dialect keeps no list."""
    return (listed(bodies[0]) or []) if bodies else []


def _refused(fault: Fault, call: Call | None) -> Heard:
    """The error as the application gets it; of one that is the router's summary, what happened stands in the trail."""
    said = call.trail[-1].said if fault.is_ours and call is not None and call.trail else ""
    is_passed_over = call is not None and not call.attempts
    return Heard(fault.status, fault.code, _line(said or fault.message), is_passed_over=is_passed_over)


def _broken(body: bytes, call: Call | None) -> Heard:
    said = call.trail[-1].said if call is not None and call.trail else ""
    return Heard(200, str(error_in(body).get("code")), _line(said), is_broken=True)


def _line(words: str) -> str:
    """One printable line of a server's words."""
    line = " ".join("".join(c if c.isprintable() else " " for c in words).split())
    return line if len(line) <= MAX_WORDS else f"{line[:MAX_WORDS]}…"
