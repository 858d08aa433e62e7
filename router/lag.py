"""How late the event loop is: whoever reads latencies must know when it was the router itself that stood still.

What is late here is late for every call. The limits of backends do not run on meanwhile (`backends.exchange`), so nobody is blamed.
"""

from __future__ import annotations

import asyncio
import logging

LOOK_EVERY_S = 0.25
STALL_S = 0.1  # later than this is a stall; a garbage collection or a large body takes a tenth of it
TOLD_S = 1.0  # and later than this is worth a line in the log

log = logging.getLogger("crossfade")


class Lag:
    """`stalls` and the `stalled_s` seconds of them add up; `last_s` is how late the loop was at the last look."""

    def __init__(self) -> None:
        self.stalls = 0
        self.stalled_s = 0.0
        self.last_s = 0.0

    async def watch(self) -> None:
        """Look until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + LOOK_EVERY_S
            await asyncio.sleep(LOOK_EVERY_S)
            self.see(max(0.0, loop.time() - due_s))

    def see(self, late_s: float) -> None:
        """Take note of a look that came `late_s` too late."""
        self.last_s = late_s
        if late_s < STALL_S:
            return
        self.stalls += 1
        self.stalled_s += late_s
        if late_s >= TOLD_S:
            log.warning(
                "the router itself stood still for %.1f s: its machine or its process was stopped or overloaded", late_s
            )
