"""From a configuration to the live fleet and the door: the one place where both are known."""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network

import msgspec

from backends.asking import translations
from backends.canonical import Naming
from backends.dialects import DIALECTS
from backends.http import replica_at
from backends.leftovers import Leftovers
from backends.pool import origin_of
from policies.admission import BY_LABEL
from policies.budget import RetryBudget
from policies.choose import ModelRoute
from policies.cohort import Splitter, parse_stick_by
from policies.contract import ANYTHING, AcceptRules, JsonRule
from policies.ejection import EjectionRules, ReplicaHealth
from policies.resume import ResumeRules, Way
from policies.retry import RetryRules
from policies.rules import Condition
from policies.rules import Rule as RoutingRule
from policies.schema import Schemas
from router.admission import Admission, Keys, digest
from router.capabilities import Capabilities, Configured
from router.clients import Caller
from router.config import BackendConfig, ClientKeys, Config, ModelConfig, Rule, Server
from router.contracts import Contract
from router.fleet import AttemptLimits, Binding, Fleet, LiveBackend, LiveModel, LiveReplica, Terms
from router.gate import Gate
from router.limits import OWN, Limits

UNLIMITED = 1_000_000  # a backend without max_in_flight: the server's own limit holds first
FIRST_REVISION = 1


def build_fleet(config: Config, env: Mapping[str, str], rng: random.Random, limits: Limits = OWN) -> Fleet:
    """Everything behind the router, in its state before the first call."""
    backends = {
        name: build_backend(name, config, env, rng, limits)
        for name, backend in config.backends.items()
        if backend.kind in DIALECTS
    }
    schemas = Schemas()
    models = {name: build_model(name, config, backends, schemas) for name in config.models}
    return Fleet(backends, models, FIRST_REVISION, rng, config.server.pass_paths)


def build_admission(server: Server, env: Mapping[str, str], limits: Limits = OWN) -> Admission:
    """The door: keys from the environment, networks, the limit of concurrent calls."""
    gate = limits.gate("of the router", server.max_in_flight, server.queue_size, server.queue_wait_s)
    return Admission(build_keys(server, env, limits), build_networks(server), gate, server.max_body_bytes)


def build_keys(server: Server, env: Mapping[str, str], limits: Limits, before: Keys | None = None) -> Keys:
    """The clients' keys; groups that were the same `before` go on with what they have running and have begun."""
    known = set(_digests(env, server.keys_env))
    may_pin: set[bytes] = set()
    callers: dict[bytes, Caller] = {}
    kept = before.groups if before is not None else {}
    groups = {group: kept.get(group) or _caller(group, limits) for group in server.clients}
    for group, caller in groups.items():
        digests = _digests(env, group.key_env)
        known |= digests
        if group.may_pin:
            may_pin |= digests
        for each in digests:
            callers.setdefault(each, caller)  # a key of two groups belongs to the first
    return Keys(frozenset(known), frozenset(may_pin), callers, groups)


def build_networks(server: Server) -> tuple[IPv4Network | IPv6Network, ...]:
    """The networks whose clients need no key."""
    return tuple(ip_network(network, strict=False) for network in server.allow_from)


def build_route(name: str, model: ModelConfig) -> ModelRoute:
    """What policy needs to know of a model; `explain` builds the same without a fleet."""
    return ModelRoute(
        name=name,
        backends=tuple(model.on),
        splitter=Splitter(name, dict(model.split)),
        rules=tuple(_rule(rule) for rule in model.rules),
        fallback=tuple(model.fallback),
        stick_by=parse_stick_by(model.stick_by),
    )


def build_abilities(config: Config, model: str, backend: str) -> Capabilities:
    """What calls of `model` can have on `backend` before any server has been asked; `explain` knows no more."""
    on, kind, urls = config.models[model].on[backend], config.backends[backend].kind, config.backends[backend].urls
    return Capabilities(
        DIALECTS[kind].lacks, Configured({str(name): can for name, can in on.can.items()}, on.context_tokens), len(urls)
    )


def _digests(env: Mapping[str, str], name: str | None) -> set[bytes]:
    keys = env.get(name, "").split(",") if name else []
    return {digest(key.strip()) for key in keys if key.strip()}


def _caller(group: ClientKeys, limits: Limits) -> Caller:
    is_limited = group.max_in_flight is not None or group.calls_per_min is not None
    quota = limits.quota(group, time.monotonic()) if is_limited else None
    return Caller(BY_LABEL[group.priority], quota)


def build_backend(name: str, config: Config, env: Mapping[str, str], rng: random.Random, limits: Limits) -> LiveBackend:
    """A backend whose servers nobody has met yet. Raises OSError and ValueError where its authority or key cannot be used."""
    backend = config.backends[name]
    key = env.get(backend.key_env, "") if backend.key_env else ""
    rules = ejection_rules(name, config)
    tls = _tls(backend)
    replicas = [
        LiveReplica(
            replica_at(origin_of(url, tls), DIALECTS[backend.kind], key),
            {model: ReplicaHealth(rule, rng) for model, rule in rules.items()},
        )
        for url in backend.urls
    ]
    slots = backend.max_in_flight
    queue = (config.server.queue_size, config.server.queue_wait_s)
    if slots:
        gate = limits.gate(f"of {name}", slots * len(replicas), *queue)
        live = limits.backend(name, backend.kind, replicas, gate, slots)
    else:
        live = LiveBackend(name, backend.kind, replicas, Gate(UNLIMITED, *queue))
    live.leftovers = Leftovers() if backend.on_client_gone == "drain" else None
    return live


def ejection_rules(backend: str, config: Config) -> dict[str, EjectionRules]:
    """By model that is served there."""
    return {name: _ejection(model) for name, model in config.models.items() if backend in model.on}


def _tls(backend: BackendConfig) -> ssl.SSLContext | None:
    if not any(url.startswith("https:") for url in backend.urls):
        return None
    context = ssl.create_default_context(cafile=backend.ca_file)
    if not backend.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _ejection(model: ModelConfig) -> EjectionRules:
    eject = model.eject
    return EjectionRules(eject.consecutive_failures, eject.failure_share, eject.window_s, eject.for_s)


def _contract(model: ModelConfig, schemas: Schemas) -> Contract | None:
    """What answers of the model must be; None where anything will do."""
    accept = model.accept
    rules = AcceptRules(accept.tool_calls == "valid", JsonRule(accept.json_), accept.empty == "reject")
    return None if rules == ANYTHING else Contract(rules, schemas)


def build_model(name: str, config: Config, backends: Mapping[str, LiveBackend], schemas: Schemas) -> LiveModel:
    """A model that has had no call yet, with the shares of the configuration."""
    model = config.models[name]
    retry = model.retry
    terms = Terms(
        retry=RetryRules(retry.attempts_per_backend, retry.backoff_s, retry.retry_after_wait_s),
        resume=ResumeRules(tuple(Way(way) for way in model.resume.by), retry.attempts_per_backend),
        total_s=model.timeouts.total_s,
        at_most_share=model.eject.at_most_share,
        hedge_after_s=model.hedge.after_s if model.hedge is not None else None,
        contract=_contract(model, schemas),
    )
    return LiveModel(
        build_route(name, model),
        dict(model.split),
        {on: _binding(name, config, backends[on]) for on in model.on if on in backends},
        terms=terms,
        budget=RetryBudget(retry.budget_ratio, retry.budget_min_per_s, time.monotonic()),
        revision=FIRST_REVISION,
    )


def _binding(name: str, config: Config, backend: LiveBackend) -> Binding:
    model = config.models[name]
    on_backend = model.on[backend.name]
    on = on_backend.name
    times = model.timeouts.overridden_by(config.backends[backend.name].timeouts)
    limits = AttemptLimits(
        times.connect_s,
        times.first_token_s,
        times.first_token_per_kib_s,
        times.between_tokens_s,
        times.answer_s,
        times.total_s,
        times.ping_after_s,
    )
    shown = on if model.report_model == "backend" else name
    return Binding(
        backend,
        msgspec.json.encode(on),
        Naming(on, shown),
        limits,
        on_backend.same_model,
        on_backend.continues,
        DIALECTS[backend.kind].is_same,
        build_abilities(config, name, backend.name),
        translations(DIALECTS[backend.kind].asks, model.sampling),
    )


def _rule(rule: Rule) -> RoutingRule:
    when = rule.when
    condition = Condition(
        header=tuple((name.lower(), value) for name, value in when.header.items()),
        model=when.model,
        tools=when.tools,
        stream=when.stream,
        kind=when.kind,
        prompt_bytes_over=when.prompt_bytes_over,
        prompt_bytes_under=when.prompt_bytes_under,
    )
    said = ", ".join(f"{key}: {value}" for key, value in when.model_dump(exclude_defaults=True).items())
    return RoutingRule(condition, rule.use, f"{said} -> {rule.use}")
