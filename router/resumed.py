"""The relay of a stream that goes on from another backend: what the client has already is swallowed, the rest is written as the first's."""

from __future__ import annotations

from collections.abc import Callable

from backends.answers import Chunk
from backends.canonical import Canonical
from backends.errors import Diverged
from backends.exchange import Exchange
from backends.merging import Merging
from backends.transcript import Transcript
from router.client import Client
from router.relay import StreamLimits, StreamRelay


class ResumedRelay(StreamRelay):
    """Until there is something new, nothing is sent and the stream may still go on elsewhere; then it is like any other.

    Text that is swallowed is content all the same: the time limit between two tokens holds for it.
    """

    __slots__ = ("_is_asked", "_merging", "_unsent")

    def __init__(
        self,
        reply: Exchange,
        client: Client,
        canonical: Canonical,
        limits: StreamLimits,
        *,
        merging: Merging,
        transcript: Transcript,
        is_asked: Callable[[str], bool],
    ):
        """`canonical` carries the stream on. `is_asked`: whether an answer that names this model is of the one that the stream is of."""
        super().__init__(reply, client, canonical, limits, transcript)
        self._merging = merging
        self._is_asked = is_asked
        self._unsent: list[Chunk] | None = []  # held back; the transcript is of what was sent

    async def to_the_end(self) -> None:
        for chunk in self._unsent or ():
            self._keep(chunk)
        self._unsent = None
        await super().to_the_end()

    def _take_chunk(self, chunk: Chunk, out: list[bytes]) -> bool:
        if chunk.model and not self._is_asked(chunk.model):
            raise Diverged("it answers as another model")
        merging = self._merging
        new = merging.take(chunk)
        self._ends.see(chunk)
        if merging.has_heard:
            self._held_bytes = 0
            self._reply.set_limit(self._next_limit_s(), self._late)
        self._canonical.put(new, out)
        if self._unsent is None:
            self._keep(new)
        else:
            self._unsent.append(new)
        return merging.has_new

    def _keep(self, chunk: Chunk) -> None:
        if self._transcript is not None:
            self._transcript.see(chunk)
