"""What one router is made of, in one place: built by `router.app`, read by whatever looks at the whole or changes it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import Metric

from policies.revisions import Revision
from router.admin.keys import AdminKeys
from router.admission import Admission
from router.config import Config
from router.doors import Doors
from router.file_state import FileState
from router.fleet import Fleet
from router.journal.journal import Journal
from router.journal.sidecar import sidecar_for
from router.journal.store import Store
from router.metrics import Metrics, families
from router.operations import Operations
from router.owners import Owners
from router.record import Recorder
from router.routing import apply


@dataclass(slots=True)
class Parts:
    """One router. `config` is the configuration in effect; `env` holds the keys that it names."""

    config: Config
    env: Mapping[str, str]
    fleet: Fleet
    metrics: Metrics
    recorder: Recorder
    doors: Doors
    admission: Admission
    owners: Owners
    admin_keys: AdminKeys
    journal: Journal
    operations: Operations
    file: FileState = field(default_factory=FileState)

    def families(self) -> Iterable[Metric]:
        """All that is counted in this process."""
        return families(self.metrics, self.fleet, self.admission.gate)


def journal_of(config: Config, fleet: Fleet, env: Mapping[str, str]) -> Journal:
    """The journal of this configuration's store, not opened yet; what it learns is put in force in `fleet`."""

    def in_force(revision: Revision) -> None:
        apply(fleet, revision, asyncio.get_running_loop().time())

    return Journal(Store(config.store.url), in_force, sidecar=sidecar_for(config.store.url, env))


def operations_on(journal: Journal, fleet: Fleet) -> Operations:
    """The operations of a running router: what may be asked for follows its fleet."""
    return Operations(
        journal,
        served=lambda: {name: model.route.backends for name, model in fleet.models.items()},
        replicas=lambda: {name: [r.url for r in backend.replicas] for name, backend in fleet.backends.items()},
    )
