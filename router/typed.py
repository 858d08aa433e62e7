"""From a backend's answer to the client for the APIs whose streams are events with names: whole answers, and streams event by event.

As for chat: events are held back until the first with content, and until then whatever goes wrong raises, so that the call may move;
from there on it is `StreamBroken`. No stream is resumed here: an item that broke off has an id and a place that no other engine knows.
"""

from __future__ import annotations

from backends.apis import Shown, read_whole
from backends.errors import BackendError, DeadlinePassed, ProtocolBroken, StreamBroken
from backends.events import TypedStream
from backends.exchange import Exchange
from backends.faults import fault_of_error
from backends.sse import SseDecoder
from router.client import Client
from router.contract_apis import TypedWatch
from router.relay import (
    EVENT_STREAM,
    MAX_ANSWER_BYTES,
    MAX_HELD_ANSWER_BYTES,
    MAX_HELD_BYTES,
    Relay,
    StreamLimits,
)


async def read_typed(reply: Exchange, form: str, shown: Shown) -> bytes:
    """A whole answer in the client's terms. Raises BackendError where it is none: the call may still move."""
    return read_whole(form, await reply.read(MAX_ANSWER_BYTES), shown)


class TypedRelay(Relay):
    """One stream of a response or a message on its way to the client."""

    __slots__ = ("_decoder", "_held", "_held_bytes", "_stream", "_watch", "has_content")

    def __init__(
        self,
        reply: Exchange,
        client: Client,
        stream: TypedStream,
        limits: StreamLimits,
        watch: TypedWatch | None = None,
    ):
        """`watch` may hold the stream back to its end."""
        super().__init__(reply, client, limits)
        self._stream = stream
        self._watch = watch
        self._decoder = SseDecoder()
        self._held: list[bytes] = []
        self._held_bytes = 0
        self.has_content = False

    async def until_content(self) -> None:
        """Hold events back until one has content. Raises BackendError where none comes: the call may still move."""
        reply = self._reply
        if not reply.headers.get("content-type", "").lower().startswith(EVENT_STREAM):
            raise fault_of_error(await reply.read(MAX_ANSWER_BYTES))
        await reply.pump(self._hold)
        if not self._stream.is_whole and (self._is_held or not self.has_content):
            raise ProtocolBroken(f"the stream ended without {'its last event' if self._is_held else 'any content'}")

    async def to_the_end(self) -> None:
        """Send on what was held, then everything that follows. Raises StreamBroken where the stream does not end as it should."""
        reply, client = self._reply, self._client
        reply.set_limit(self._next_limit_s(), self._late)
        client.read_from(self)
        try:
            client.write(b"".join(self._held))
            self._held.clear()
            if not self._stream.is_whole:
                await reply.pump(self._pass_on)
        except (StreamBroken, DeadlinePassed):
            raise
        except BackendError as error:
            raise StreamBroken(str(error), status=error.status) from error
        finally:
            client.read_from(None)
        if not self._stream.is_whole:
            raise StreamBroken("the stream ended without its last event")
        await self._framings_end()

    def _hold(self, data: bytes) -> bool:
        self._held_bytes += len(data)
        if self._held_bytes > MAX_HELD_BYTES and not self._is_held:
            raise ProtocolBroken(f"{MAX_HELD_BYTES} bytes of the stream hold no content")
        has_content = self._take(data, self._held)
        self.has_content = self.has_content or has_content
        return self._hold_on(has_content) if self._is_held else self.has_content or self._stream.is_whole

    @property
    def _is_held(self) -> bool:
        return self._watch is not None and self._watch.is_held

    def _hold_on(self, has_content: bool) -> bool:
        """Whether the hold is over: the answer has ended, or there is too much of it. Each content moves the limit on."""
        if has_content:
            self._reply.set_limit(self._next_limit_s(), self._late_while_held)
        if self._watch is not None and self._held_bytes > MAX_HELD_ANSWER_BYTES:
            self._watch.is_held = False
        return self._stream.is_whole or not self._is_held

    def _pass_on(self, data: bytes) -> bool:
        out: list[bytes] = []
        has_content = False
        try:
            has_content = self._take(data, out)
        finally:
            if has_content:
                self._reply.limit_s = self._next_limit_s()  # before the write, which may move it
            if out:
                self._client.write(out[0] if len(out) == 1 else b"".join(out))
        return self._stream.is_whole

    def _take(self, data: bytes, out: list[bytes]) -> bool:
        has_content = False
        for event in self._decoder.feed(data):
            says_something = self._stream.take(event, out)
            has_content = says_something or has_content
            if self._watch is not None:
                self._watch.see(event, has_content=says_something)
        return has_content
