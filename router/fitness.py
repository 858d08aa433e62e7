"""Whether a backend is fit to be given more of a model's calls: asked before a shift, by a running router and by the command line alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from backends.dialects import Presence
from policies.ejection import State
from router.fleet import Binding, Fleet, LiveReplica

PROBE_S = 5.0  # for the probe of a replica; a server that takes longer to say that it is well is not


async def unfit(fleet: Fleet, model: str, backends: Iterable[str]) -> str:
    """Why one of the backends should not be given calls of the model; "" where each has a replica that is well.

    Who is out of rotation is not asked again. Who is not known to be well, because nobody has asked yet, or nothing but its health probe
    speaks for it, is asked now.
    """
    for name in backends:
        binding = fleet.models[model].bindings.get(name)
        if binding is None:
            return f"{name} cannot be called by this version"
        if binding.backend.is_draining:
            return f"{name} is draining; undrain it first"
        said = await asyncio.gather(*(_unfit(replica, model, binding) for replica in binding.backend.open))
        if all(said):
            return f"{name} is not fit for calls of {model}: {'; '.join(dict.fromkeys(said))}"
    return ""


async def _unfit(replica: LiveReplica, model: str, binding: Binding) -> str:
    health = replica.health[model]
    if health.state is State.EJECTED and not health.is_due(asyncio.get_running_loop().time()):
        return f"{replica.url} is ejected ({replica.lacks.get(model) or health.reason})"
    if health.state is State.IN_ROTATION and replica.probed_at_s is not None and not replica.probe_said:
        return ""
    try:
        async with asyncio.timeout(PROBE_S):
            if await replica.server.probe():
                return f"{replica.url} does not answer its health probe"  # whose words may name addresses
            lists = await replica.server.lists()
    except TimeoutError:
        return f"{replica.url} does not answer its health probe within {PROBE_S:g} s"
    presence = replica.server.dialect.presence(lists, binding.plain_name)
    return f"{replica.url} does not list {binding.plain_name}" if presence is Presence.MISSING else ""
