"""Which replicas continue a partial message of which model: found out once, at the start or at the first break, and never by inference."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from backends.continuing import find_out
from backends.errors import BackendError
from policies.resume import NO_SKILL, Means, Skill, Way
from router.fleet import Binding, Fleet, LiveModel, LiveReplica
from router.outcomes import kind_of

log = logging.getLogger("crossfade.resume")

DECLARED = {"yes": Skill(Means.CHAT), "no": NO_SKILL}


async def learn(fleet: Fleet) -> None:
    """Ask every replica once for every model whose streams may move between at least two; those that do not answer are asked in need."""
    asking: list[Awaitable[Skill]] = []
    for model in fleet.models.values():
        places = [(binding, replica) for binding in model.bindings.values() for replica in binding.backend.replicas]
        if Way.CONTINUE in model.resume.by and len(places) > 1:
            asking += [skill_of(model, binding, replica) for binding, replica in places]
    try:
        await asyncio.gather(*asking)
    except Exception:  # nobody waits for this task
        log.exception("finding out who continues messages stumbled; those left are asked in need")


async def skill_of(model: LiveModel, binding: Binding, replica: LiveReplica) -> Skill:
    """What is known of the replica; asked where nothing is. `NO_SKILL` where it does not answer, which is not kept."""
    declared = DECLARED.get(binding.continues)
    if declared is not None:
        return declared
    known = replica.skills.get(model.name)
    if known is not None:
        return known
    asked = replica.skills_asked.get(model.name)
    if asked is None:  # a whole engine's streams may break at once, and all of them want to know
        asked = replica.skills_asked[model.name] = asyncio.create_task(_ask(model.name, binding, replica))
        asked.add_done_callback(lambda _: replica.skills_asked.pop(model.name))
    return await asyncio.shield(asked)


async def _ask(model: str, binding: Binding, replica: LiveReplica) -> Skill:
    try:
        found = await find_out(replica.server, binding.plain_name)
    except BackendError as error:
        log.info("%s does not say whether it continues messages of %s: %s", replica.url, model, kind_of(error).value)
        return NO_SKILL
    skill = replica.skills[model] = Skill(Means(found.by), found.keeps_reasoning, found.keeps_space)
    log.info("%s continues messages of %s: %s", replica.url, model, skill.means.value)
    return skill
