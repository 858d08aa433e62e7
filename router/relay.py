"""From a backend's answer to the client: a stream chunk by chunk, a whole answer at once, other bytes as they come.

Where a stream commits
----------------------
Events are held back until the first with content (text, reasoning, a piece of a tool call); until then anything that goes wrong
raises, and the call moves to another attempt with nothing said. With that event the head goes out, and from there on an error
means `StreamBroken`.

What a chunk costs: one callback from the socket, a comparison with the shape that the stream's chunks repeat, one write. What has
another shape is decoded (five fields, no tree). No task is woken, no timer is armed; the time limit is pushed forward by assigning
an instant.
"""

from __future__ import annotations

import asyncio
import contextlib
import math

import msgspec

from backends.answers import Chunk, ChunkShape, Ends, read_chunk
from backends.canonical import Canonical
from backends.errors import AnswerTimeout, BackendError, DeadlinePassed, ProtocolBroken, StreamBroken
from backends.exchange import Exchange
from backends.faults import fault_of_error
from backends.sse import Event, SseDecoder
from backends.transcript import MAX_KEPT_BYTES, Transcript
from router.client import Client
from router.contracts import Watch

MAX_ANSWER_BYTES = 67_108_864  # a whole answer: 64 MiB, far above the largest batch of embeddings that engines allow
MAX_HELD_BYTES = 1_048_576  # of events without content; engines send one, with the role
# Of an answer that is held back to be judged: 16,000 tokens in chunks of 250 bytes.
MAX_HELD_ANSWER_BYTES = 4_194_304
MAX_LESSONS = (
    8  # a stream goes from reasoning to content and back a few times; one whose shape never settles is read in full
)
DONE = b"[DONE]"
EVENT_STREAM = "text/event-stream"
AFTER_DONE_S = 1.0  # what ends the framing comes with [DONE] or right after it; a client need not wait longer for what says nothing


class StreamLimits(msgspec.Struct, frozen=True, gc=False):
    """`between_tokens_s` is a duration; `ends_s` this attempt's last instant, `deadline_s` the call's, which may be later."""

    between_tokens_s: float
    ends_s: float
    deadline_s: float


class Relay:
    """What stands between a backend and a client: while the client reads nothing, the backend waits and its clock stands still."""

    __slots__ = ("_between_tokens_s", "_client", "_ends_s", "_limits", "_loop", "_reply")

    def __init__(self, reply: Exchange, client: Client, limits: StreamLimits):
        self._reply = reply
        self._client = client
        self._limits = limits
        self._between_tokens_s, self._ends_s = limits.between_tokens_s, limits.ends_s  # read for every chunk
        self._loop = asyncio.get_running_loop()

    def pause_reading(self) -> None:
        """Hold the backend back; only the deadline goes on, also past what is left of the read that filled the client's buffer."""
        self._between_tokens_s = math.inf
        self._reply.limit_s = self._ends_s
        self._reply.pause_reading()

    def resume_reading(self) -> None:
        """Let it go on, with the time that it has between two tokens."""
        self._between_tokens_s = self._limits.between_tokens_s
        self._reply.set_limit(self._next_limit_s(), self._late)
        self._reply.resume_reading()

    def _next_limit_s(self) -> float:
        return min(self._loop.time() + self._between_tokens_s, self._ends_s)

    async def _framings_end(self) -> None:
        """Everything was said: whether the message ends well only decides over the connection's further use."""
        self._reply.set_limit(min(self._loop.time() + AFTER_DONE_S, self._ends_s), self._late)
        with contextlib.suppress(BackendError):
            await self._reply.pump(_drop)

    def _late(self) -> BackendError:
        """What went wrong when the limit has passed."""
        now_s = self._loop.time()
        if now_s >= self._limits.deadline_s:
            return DeadlinePassed("the call's deadline passed in mid-stream")
        if now_s >= self._limits.ends_s:
            return StreamBroken("the answer takes longer than its backend may")
        said = f"no content for {self._limits.between_tokens_s:g} s in mid-stream"
        return StreamBroken(said, is_stalled=True)

    def _late_while_held(self) -> BackendError:
        """Nothing was sent: the call may still move."""
        error = self._late()
        return AnswerTimeout(str(error)) if isinstance(error, StreamBroken) else error


def _drop(_data: bytes) -> None:
    """What follows the last event is nobody's."""


class StreamRelay(Relay):
    """One stream of chat completions or completions on its way to the client."""

    __slots__ = (
        "_canonical",
        "_decoder",
        "_ends",
        "_held",
        "_held_bytes",
        "_lessons",
        "_shape",
        "_transcript",
        "_watch",
        "first_s",
        "is_done",
    )

    def __init__(
        self,
        reply: Exchange,
        client: Client,
        canonical: Canonical,
        limits: StreamLimits,
        transcript: Transcript | None = None,
        watch: Watch | None = None,
    ):
        """`canonical` has begun the stream. `transcript` keeps it for the case that it breaks; `watch` may hold it back to its end."""
        super().__init__(reply, client, limits)
        self._canonical = canonical
        self._transcript = transcript
        self._watch = watch
        self._decoder = SseDecoder()
        self._ends = Ends()
        self._shape = ChunkShape(MAX_KEPT_BYTES)
        self._lessons = MAX_LESSONS
        self._held: list[bytes] = []
        self._held_bytes = 0
        self.first_s = 0.0
        self.is_done = False

    async def until_content(self) -> None:
        """Hold events back until one has content. Raises BackendError where none comes: the call may still move."""
        reply = self._reply
        if not reply.headers.get("content-type", "").lower().startswith(EVENT_STREAM):
            raise fault_of_error(await reply.read(MAX_ANSWER_BYTES))
        await reply.pump(self._hold)
        if self.first_s:
            return
        if not self._ends.are_all_seen:
            raise ProtocolBroken(f"the stream ended without {'a finish_reason' if self._is_held else 'any content'}")
        self.first_s = self._loop.time()  # the model had nothing to say, and said so

    async def to_the_end(self) -> None:
        """Send on what was held, then everything that follows. Raises StreamBroken where the stream does not end as it should."""
        reply, client = self._reply, self._client
        reply.set_limit(self._next_limit_s(), self._late)
        client.read_from(self)
        try:
            client.write(b"".join(self._held))
            self._held.clear()
            self._offer_tap()
            if not self.is_done:
                await reply.pump(self._pass_on)
        except BackendError as error:
            self._canonical.answer.is_said = self._ends.are_all_seen
            if isinstance(error, (StreamBroken, DeadlinePassed)):
                raise
            raise StreamBroken(str(error), status=error.status) from error
        finally:
            client.read_from(None)
        if not self._ends.are_all_seen:
            raise StreamBroken("the stream ended without a finish_reason")
        if self.is_done:
            await self._framings_end()
        else:
            client.write(self._canonical.ending())

    @property
    def ends(self) -> Ends:
        """Which of its choices have ended so far, and why."""
        return self._ends

    # -- sinks: called from the socket, they never wait; the limit is set before the write, which may move it ------------

    def _hold(self, data: bytes) -> bool:
        self._held_bytes += len(data)
        if self._held_bytes > MAX_HELD_BYTES and not self._is_held:
            raise ProtocolBroken(f"{MAX_HELD_BYTES} bytes of the stream hold no content")
        has_content = False
        is_whole = self._decoder.is_between_events
        for event in self._decoder.feed(data):
            has_content = self._take(event, self._held) or has_content
        if self._is_held:
            return self._hold_on(has_content)
        if has_content:
            self.first_s = self._loop.time()
            if is_whole and self._held:
                self._learn(data, self._held[-1])
        return has_content

    @property
    def _is_held(self) -> bool:
        return self._watch is not None and self._watch.is_held

    def _hold_on(self, has_content: bool) -> bool:
        """Whether the hold is over: the answer has ended, or there is too much of it. Each content moves the limit on."""
        is_too_much = self._held_bytes > MAX_HELD_ANSWER_BYTES
        if self._ends.are_all_seen or is_too_much:
            self.first_s = self._loop.time()
            if is_too_much and not self._ends.are_all_seen and self._watch is not None:
                self._watch.let_go()
            return True
        if has_content:
            self._reply.set_limit(self._next_limit_s(), self._late_while_held)
        return False

    def _pass_on(self, data: bytes) -> bool:
        out: list[bytes] = []
        has_content = False
        is_whole = self._decoder.is_between_events
        try:
            for event in self._decoder.feed(data):
                has_content = self._take(event, out) or has_content
        finally:
            if has_content:
                self._reply.limit_s = self._next_limit_s()
            if out:
                self._client.write(out[0] if len(out) == 1 else b"".join(out))
        if has_content and is_whole and out:
            self._learn(data, out[-1])
        self._offer_tap()
        return self.is_done

    def _learn(self, read: bytes, sent: bytes) -> None:
        """Take the shape of a text chunk that was read in full; `read` may hold more than that one event, and then teaches nothing."""
        if (
            not self._lessons
            or self._ends.are_all_seen
            or not self._decoder.is_between_events
            or not self._client.is_chunked
        ):
            return
        if read.count(b"data: ") == 1 and self._shape.learn(read, sent):
            self._lessons -= 1
            if self._transcript is not None:
                self._shape.kept = self._transcript.keep(self._shape.name)

    def _offer_tap(self) -> None:
        is_known = self._lessons < MAX_LESSONS and not self.is_done  # what follows [DONE] is nobody's
        self._reply.tap(self._tap if is_known and self._decoder.is_between_events else None)

    def _tap(self, read: bytes) -> int:
        """Offered each read of the socket once a shape is known; how much of it was known chunks, which are on their way then."""
        chunks, taken = self._shape.known(read), len(read)
        if not chunks:
            chunks, taken = self._shape.apply_all(read)
            if not chunks:
                return 0
        limit_s = self._loop.time() + self._between_tokens_s
        self._reply.limit_s = limit_s if limit_s < self._ends_s else self._ends_s
        self._client.write_framed(chunks)
        return taken

    def _take(self, event: Event, out: list[bytes]) -> bool:
        """Put one event into `out` in the form that clients get; whether it has content. What follows [DONE] is dropped."""
        if self.is_done:
            return False
        data = event.data
        if data == DONE:
            if not self._ends.are_all_seen:  # vLLM says so after an error too; no client may take it for an end
                raise ProtocolBroken("the stream said [DONE] without a finish_reason")
            self.is_done = True
            out.append(self._canonical.ending())
            return False
        if event.type == b"error":
            raise fault_of_error(data)
        return self._take_chunk(read_chunk(data), out)

    def _take_chunk(self, chunk: Chunk, out: list[bytes]) -> bool:
        self._ends.see(chunk)
        self._canonical.put(chunk, out)
        if self._transcript is not None:
            self._transcript.see(chunk)
        if self._watch is not None:
            self._watch.see(chunk)
        return chunk.has_content


class _Passed(msgspec.Struct, gc=False):
    model: str | None = None
    error: msgspec.Raw = msgspec.Raw()  # `Raw | None` would take nothing but null


_PASSED = msgspec.json.Decoder(_Passed)


async def read_passed(reply: Exchange, canonical: Canonical) -> bytes:
    """A whole JSON answer of any shape, with the client's name for the model where it names one. Raises what an error inside says."""
    body = await reply.read(MAX_ANSWER_BYTES)
    try:
        passed = _PASSED.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body  # a list, or a field of another type than elsewhere
    if passed.error and bytes(passed.error) != b"null":
        raise fault_of_error(body)
    return canonical.renamed(body, passed.model)


async def read_answer(reply: Exchange, kind: str, canonical: Canonical) -> bytes:
    """A whole JSON answer in the form that clients get. Raises BackendError where it is none: the call may still move."""
    body = reply.body_in_one(MAX_ANSWER_BYTES)
    return canonical.whole(kind, await reply.read(MAX_ANSWER_BYTES) if body is None else body)


class PassRelay(Relay):
    """Bytes as they come, for answers that are not interpreted."""

    __slots__ = ()

    async def to_the_end(self) -> None:
        """Send everything on. Raises StreamBroken where the answer stops short."""
        self._reply.set_limit(self._next_limit_s(), self._late)
        self._client.read_from(self)
        try:
            await self._reply.pump(self._pass_on)
        except BackendError as error:
            raise StreamBroken(str(error)) from error
        finally:
            self._client.read_from(None)

    def _pass_on(self, data: bytes) -> None:
        self._reply.limit_s = self._next_limit_s()
        self._client.write(data)

    def _late(self) -> BackendError:
        return AnswerTimeout("the answer stopped in the middle")
