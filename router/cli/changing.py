"""One change, wherever it can be made: by the running router, or in its store while no router answers."""

from __future__ import annotations

from typing import Any

from router.cli.answers import note
from router.cli.offline import Act, Body, change_on_store
from router.cli.remote import Change, NotThere, Refused
from router.cli.target import Target


def changed(target: Target, change: Change, body: type[Body], act: Act) -> dict[str, Any]:
    """The document of the change, with `through`: router or store. `body` and `act`: what it is, for the store. Raises Refused."""
    try:
        return {**target.remote.change(change), "through": "router"}
    except NotThere as gone:
        config = target.its_config(gone)
        try:
            document = change_on_store(config, change, body, act)
        except Refused as exc:
            said = f"{gone.said}; in its store {target.store} nothing was changed: {exc}"
            raise Refused(said, exc.code) from exc
        effect = (
            "routers that share it follow at once" if target.is_shared else "it takes effect when the router starts"
        )
        done = "changed" if document["changed"] else "nothing was to be changed"
        note(f"{gone.said}; {done} in its store {target.store}: {effect}.")
        return {**document, "through": "store"}
