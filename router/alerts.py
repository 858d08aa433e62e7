"""What the operator has to mend, said in the log at once and then no more than once a minute: a key, a model's name, an unloaded model."""

from __future__ import annotations

import logging

from policies.outcome import OutcomeKind

AGAIN_S = 60.0  # every call meets it again until somebody mends it; a line each would hide everything else

log = logging.getLogger("crossfade")

_REMEDIES = {
    OutcomeKind.KEY_REFUSED: (
        "backend %(backend)s refuses the router's key; the key that backends.%(backend)s.key_env names must be one that it knows"
    ),
    OutcomeKind.NOT_SERVED: (
        "backend %(backend)s does not serve model %(model)s; load it there, or mend its name under models.%(model)s.on"
    ),
    OutcomeKind.OTHER_MODEL: (
        "backend %(backend)s %(said)s to calls of model %(model)s; load the right model there, or mend its name under models.%(model)s.on"
    ),
}


class Alerts:
    """Remembers what was said when."""

    def __init__(self) -> None:
        self._said_at_s: dict[tuple[str, str, OutcomeKind], float] = {}

    def about(self, model: str, backend: str, kind: OutcomeKind, now_s: float, said: str = "") -> None:
        """An attempt ended with `kind`; says what to mend where that is the operator's to mend, and nothing else."""
        remedy = _REMEDIES.get(kind)
        if remedy is None:
            return
        last_s = self._said_at_s.get((model, backend, kind))
        if last_s is None or now_s - last_s >= AGAIN_S:
            self._said_at_s[model, backend, kind] = now_s
            log.error(remedy, {"backend": backend, "model": model, "said": said})
