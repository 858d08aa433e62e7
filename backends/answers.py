"""What an answer says, read as little as possible: one chunk of a stream, or one whole body, in the OpenAI family of APIs.

A chunk is decoded into a handful of typed fields (0.7 µs), never into a tree; what is passed on are the backend's own bytes.
"""

from __future__ import annotations

import re

import msgspec

from backends.errors import Failed, ProtocolBroken
from backends.faults import MALFORMED, fault_of_error

ABORT = "abort"  # vLLM's word for "the engine stopped working on this"; no value of OpenAI's, never an end

_NO_VALUE = msgspec.Raw()  # the default of a field of any type: `Raw | None` takes nothing but null


class Function(msgspec.Struct, gc=False):
    """What a tool call calls. Some servers give the arguments as an object; the API says a string."""

    name: str | None = None
    arguments: str | dict[str, msgspec.Raw] | None = None


class ToolCall(msgspec.Struct, gc=False):
    """A tool call, or in a stream a piece of one."""

    index: int | None = None
    id: str | int | None = None
    type: str | None = None
    function: Function | None = None
    custom: msgspec.Raw = _NO_VALUE


class Delta(msgspec.Struct, gc=False):
    """What a chunk of a chat stream adds."""

    content: str | list[msgspec.Raw] | None = None  # Mistral's API streams reasoning as a list of parts
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: msgspec.Raw = _NO_VALUE  # the form before tools
    annotations: msgspec.Raw = _NO_VALUE
    audio: msgspec.Raw = _NO_VALUE

    @property
    def thought(self) -> str | None:
        """The reasoning, under whichever name; some servers say the same under both."""
        return self.reasoning or self.reasoning_content


class Choice(msgspec.Struct, gc=False):
    """One of `n` answers, or in a stream what a chunk adds to it."""

    index: int = 0
    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: msgspec.Raw = _NO_VALUE


class Chunk(msgspec.Struct, gc=False):
    """One event of a stream of chat completions or completions."""

    model: str | None = None
    choices: list[Choice] | None = None
    usage: msgspec.Raw = _NO_VALUE
    error: msgspec.Raw = _NO_VALUE

    @property
    def has_content(self) -> bool:
        """Whether it carries text, reasoning or a piece of a tool call: what commits a call."""
        for choice in self.choices or ():
            delta = choice.delta
            if choice.text or (delta is not None and _says_something(delta)):
                return True
        return False

    @property
    def has_other_than_text(self) -> bool:
        """Whether it carries what can't be carried on in the middle: a piece of a tool call, a refusal, content in parts."""
        for choice in self.choices or ():
            delta = choice.delta
            if delta is not None and (
                delta.tool_calls or delta.refusal or isinstance(delta.content, list) or has_value(delta.function_call)
            ):
                return True
        return False

    @property
    def finish_reason(self) -> str | None:
        """Why a choice ended, if this chunk ends one."""
        for choice in self.choices or ():
            if choice.finish_reason:
                return choice.finish_reason
        return None


class Ends:
    """Which choices of a stream have ended: with `n > 1` each has a `finish_reason` of its own, and the first says nothing of the rest."""

    __slots__ = ("_begun", "_ended", "reason")

    def __init__(self) -> None:
        self._begun: set[int] = set()
        self._ended: set[int] = set()
        self.reason: str | None = None  # that was given last

    def see(self, chunk: Chunk) -> None:
        """Take note of the next chunk of the stream."""
        for choice in chunk.choices or ():
            self._begun.add(choice.index)
            if choice.finish_reason:
                self._ended.add(choice.index)
                self.reason = choice.finish_reason

    @property
    def are_all_seen(self) -> bool:
        """Whether every choice that has begun has ended, and one has."""
        return bool(self._ended) and self._ended == self._begun


def _says_something(delta: Delta) -> bool:
    return bool(
        delta.content
        or delta.reasoning
        or delta.reasoning_content
        or delta.tool_calls
        or has_value(delta.function_call)
        or delta.refusal
    )


class Message(msgspec.Struct, gc=False):
    """A whole message of a chat, nothing of it parsed that may be long."""

    content: msgspec.Raw = _NO_VALUE
    reasoning: msgspec.Raw = _NO_VALUE
    reasoning_content: msgspec.Raw = _NO_VALUE
    refusal: msgspec.Raw = _NO_VALUE
    annotations: msgspec.Raw = _NO_VALUE
    audio: msgspec.Raw = _NO_VALUE
    tool_calls: list[ToolCall] | None = None
    function_call: msgspec.Raw = _NO_VALUE


class WholeChoice(msgspec.Struct, gc=False):
    """One of the `n` answers of a whole one."""

    index: int = 0
    message: Message | None = None
    text: msgspec.Raw = _NO_VALUE
    logprobs: msgspec.Raw = _NO_VALUE
    finish_reason: str | None = None


class Embedding(msgspec.Struct, gc=False):
    """One vector: a list of numbers, or base64."""

    embedding: msgspec.Raw
    index: int | None = None


class Whole(msgspec.Struct, gc=False):
    """A whole answer of chat completions, completions or embeddings."""

    model: str | None = None
    choices: list[WholeChoice] | None = None
    data: list[Embedding] | None = None
    usage: msgspec.Raw = _NO_VALUE
    error: msgspec.Raw = _NO_VALUE


def has_value(value: msgspec.Raw) -> bool:
    """Whether a field of any type has a value other than null and the empty ones."""
    if not value:
        return False
    raw = memoryview(value)
    return len(raw) > 4 or bytes(raw) not in _EMPTY


def _is_there(value: msgspec.Raw) -> bool:
    return bool(value) and bytes(value) != b"null"


_EMPTY = (b"", b"null", b'""', b"[]", b"{}")
_CHUNK = msgspec.json.Decoder(Chunk | None)
_WHOLE = msgspec.json.Decoder(Whole)


def read_chunk(data: bytes) -> Chunk:
    """One event's data. Raises ProtocolBroken where it is not JSON of the right shape, the stream's own error where it is one."""
    try:
        chunk = _CHUNK.decode(data) or Chunk()  # llama-server opens a stream of several prompts with `null`
    except MALFORMED as exc:
        raise ProtocolBroken(f"a malformed event in the stream: {exc}") from exc
    if _is_there(chunk.error):
        raise fault_of_error(data)
    if chunk.finish_reason and any(choice.finish_reason == ABORT for choice in chunk.choices or ()):
        raise Failed("the engine aborted the answer")
    return chunk


def read_whole(kind: str, body: bytes) -> Whole:
    """A whole answer of one of the three kinds. Raises BackendError where the body is none."""
    try:
        whole = _WHOLE.decode(body)
        if not body.isascii():
            str(body, "utf-8")  # what is kept raw was not looked at
    except MALFORMED as exc:
        raise ProtocolBroken(f"the answer is not the JSON of a {kind} answer: {exc}") from exc
    if _is_there(whole.error):
        raise fault_of_error(body)
    if kind == "embeddings":
        if not whole.data:
            raise ProtocolBroken("the answer has no embeddings")
    elif not whole.choices:
        raise ProtocolBroken("the answer has no choices")
    elif any(choice.finish_reason == ABORT for choice in whole.choices):
        raise Failed("the engine aborted the answer")
    return whole


# The inside of a JSON string as engines write one, and as it is written again: letters of any language, and escapes of one letter.
_LETTERS = rb'(?:[^"\\\x00-\x1f\x7f]++|\\["\\bfnrt])++'
_TEXT = re.compile(rb'"(content|reasoning|reasoning_content|text)": ?"(' + _LETTERS + rb')"')
_ONE_EVENT = re.compile(rb"data:[^\r\n]*(?:\n\n|\r\n\r\n)")
_WHOLE_TEXT = re.compile(_LETTERS)
_PLAIN = bytes(set(range(0x20, 0x7F)) - set(b'"\\'))
_QUOTE = b'"'
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_MOST_FRAMES = (
    24  # lengths that chunks are known by; texts of one token are 1 to 20 bytes long, and each costs the stream 0.6 KB
)


class ChunkShape:
    """The form that a stream's text chunks repeat, learned from one that was read in full.

    Two chunks of a stream differ only in the text between two quotes: everything before it and everything after it are the same
    bytes. A chunk that begins and ends with those bytes, with nothing between them that ends the string or leaves an escape open,
    therefore is a text chunk of the same meaning, and is known to be one without being parsed: two comparisons and one scan of the
    text. Whatever does not fit (the first chunk, the last, escapes by number, tool calls, two events in a read) is read in full.

    `name` is the field that holds the text, in the client's form. What goes by shape is appended to `kept`, each text with a quote
    after it, until there are `kept_bytes` of it.
    """

    __slots__ = (
        "_fixed",
        "_frames",
        "_growth",
        "_head",
        "_kept_bytes",
        "_new_head",
        "_new_tail",
        "_start",
        "_tail",
        "kept",
        "name",
    )

    def __init__(self, kept_bytes: int = 0) -> None:
        self.kept: bytearray | None = None
        self.name = ""
        self._kept_bytes = kept_bytes
        self._head = self._new_head = b""
        self._tail = b""  # from the quote that closes the text
        self._new_tail = b""  # from behind it
        self._start = 0  # of the text, from the line break after a chunk's size
        self._fixed = 0  # how much longer a chunk is than its text with the quote
        self._growth = 0  # of a chunk through its new form
        # By the length of a read that is one chunk: where its text stands, with the quote; what comes before it and after it in the
        # read, and in its new form.
        self._frames: dict[int, tuple[slice, bytes, bytes, bytes, bytes]] = {}

    def learn(self, event: bytes, renamed: bytes) -> bool:
        """Remember the shape of one whole event with content, whose form for the client is `renamed`; whether there is one."""
        old, new = _TEXT.search(event), _TEXT.search(renamed)
        if (
            old is None
            or new is None
            or old[2] != new[2]
            or len(_TEXT.findall(event)) != 1
            or len(_TEXT.findall(renamed)) != 1
        ):
            return False
        if _ONE_EVENT.fullmatch(event) is None:
            return False
        growth = len(renamed) - len(event)
        self.name = new[1].decode()
        start, end = old.span(2)
        self._head, self._tail = event[:start], event[end:] + b"\r\n"
        self._start, self._fixed, self._growth = start + 2, len(event) - (end + 1 - start), growth
        self._frames = {}
        start, end = new.span(2)
        self._new_head, self._new_tail = b"\r\n" + renamed[:start], renamed[end + 1 :] + b"\r\n"
        return True

    def apply(self, read: bytes) -> tuple[bytes, int]:
        """The chunks (of HTTP's chunked coding) at the start of `read` that have the learned shape, in the client's form and framed
        again; and how many bytes of `read` they are.
        """
        known = self.known(read)
        return (known, len(read)) if known else self.apply_all(read)

    def known(self, read: bytes) -> bytes:
        """The new form of a read that is one chunk, as long as one before: what nearly all reads are; b"" for any other."""
        frame = self._frames.get(len(read))
        if frame is None:
            return b""
        place, head, tail, new_head, new_tail = frame
        text = read[place]
        if head + text + tail != read:
            return b""
        # What is stripped ends at the first byte that is not plain: for a text, at the quote behind it.
        if text.lstrip(_PLAIN) != _QUOTE and not (text.endswith(_QUOTE) and _is_text(text)):
            return b""
        kept = self.kept
        if kept is not None:
            kept += text
            if len(kept) > self._kept_bytes:
                self.kept = None
        return new_head + text + new_tail

    def apply_all(self, read: bytes) -> tuple[bytes, int]:
        """As `apply`, for a read that is not `known`."""
        out: list[bytes] = []
        position = 0
        while position < len(read):
            more, position = self._apply_one(read, position)
            if not more:
                break
            out.append(more)
        if len(out) == 1 and position == len(read):
            self._remember(read)
        return b"".join(out), position

    def _remember(self, read: bytes) -> None:
        """The next chunk as long as this one differs from it in its text alone, its size included."""
        line_end = read.index(b"\r\n")
        start, end = line_end + self._start, len(read) - len(self._tail) + 1
        size = int(read[:line_end], 16) + self._growth
        if len(self._frames) < _MOST_FRAMES and start + 1 < end:
            new_head = b"%x%b" % (size, self._new_head)
            self._frames[len(read)] = slice(start, end), read[:start], read[end:], new_head, self._new_tail

    def _apply_one(self, read: bytes, position: int) -> tuple[bytes, int]:
        line = _SIZE_LINE.match(read, position)
        if line is None:
            return b"", position
        head, size = line.end(), int(line[1], 16)
        start = head - 2 + self._start
        end = start + size - self._fixed
        # The tail is not there where the read stops before the chunk does.
        if start + 1 < end and read.startswith(self._head, head) and read.startswith(self._tail, end - 1):
            text = read[start:end]
            if _is_text(text):
                self._keep(text)
                framed = (b"%x" % (size + self._growth), self._new_head, text, self._new_tail)
                return b"".join(framed), end - 1 + len(self._tail)
        return b"", position

    def _keep(self, text: bytes) -> None:
        if self.kept is not None:
            self.kept += text
            if len(self.kept) > self._kept_bytes:
                self.kept = None


def _is_text(text: bytes) -> bool:
    """Whether it is the rest of a JSON string, up to the quote at its end."""
    return _WHOLE_TEXT.fullmatch(text, 0, len(text) - 1) is not None and (text.isascii() or _is_utf8(text))


def _is_utf8(text: bytes) -> bool:
    try:
        str(text, "utf-8")
    except UnicodeDecodeError:
        return False
    return True
