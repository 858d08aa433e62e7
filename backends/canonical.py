"""The one form in which clients get chat completions, completions and embeddings, whichever backend answers.

Rules
-----
What is not named here does not reach a client: fields are read by an allow-list and written anew in one order, so nothing names the
engine (`system_fingerprint`, `stop_reason`, `timings` …), and a field that an engine invents next year stays away too.

* `id`, `created` and `model` are the router's: alike in every event of a stream, also where another backend carries it on.
* A stream's events, for each choice: the role with an empty text, once; one for each piece of the answer; one with nothing but the
  `finish_reason`. What would say nothing is left out. Then `usage`, where the client asked for it, and `[DONE]`.
* `reasoning_content` is `reasoning`. A tool call's first piece is `{index, id, type, function: {name, arguments}}`, the others are
  `{index, function: {arguments}}`; ids begin with `call_`.
* `finish_reason` is one of OpenAI's: `tool_calls` where some were sent and nothing cut the answer off, `stop` for what is unknown.

A text event in this form differs from the engine's only around the text, so `ChunkShape` can learn the pair.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import UNSET, UnsetType

from backends.answers import Choice, Chunk, Delta, ToolCall, has_value, read_whole
from backends.canonical_forms import Answer, CallForm, FunctionForm, call_form, called, reason_of
from backends.canonical_whole import plain_form, whole_form
from backends.logprobs import chat_logprobs, completions_logprobs
from backends.usage import Usage, read_usage
from backends.whole_shape import WholeShape

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Naming(msgspec.Struct, frozen=True, gc=False):
    """A model's name on a backend, and the one that clients are shown. Built once a binding."""

    backends: str
    shown: str
    quoted: bytes = b""  # the latter as JSON
    shape: WholeShape = msgspec.field(default_factory=WholeShape)  # of the answers that this backend gives

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "quoted", msgspec.json.encode(self.shown))

    def begin(self, answer: Answer) -> Canonical:
        """What one attempt's answer goes through."""
        return Canonical(self, answer)


class _Delta(msgspec.Struct, gc=False):
    role: str | UnsetType = UNSET
    content: str | list[msgspec.Raw] | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    tool_calls: list[CallForm] | UnsetType = UNSET
    function_call: msgspec.Raw | UnsetType = UNSET
    refusal: str | UnsetType = UNSET
    annotations: msgspec.Raw | UnsetType = UNSET
    audio: msgspec.Raw | UnsetType = UNSET


class _ChatPiece(msgspec.Struct, gc=False):
    index: int
    delta: _Delta
    logprobs: msgspec.Raw | UnsetType = UNSET
    finish_reason: str | None = None


class _TextPiece(msgspec.Struct, gc=False):
    index: int
    text: str
    logprobs: msgspec.Raw | UnsetType = UNSET
    finish_reason: str | None = None


_ROLE = _Delta(role="assistant", content="")
_NOTHING = _Delta()


class Canonical:
    """One attempt's answer on its way into the one form. `strayed` is the last model that it named and that is neither of ours.

    `text`: the raw text of a whole answer that has nothing but a text, and thoughts; b"" where it may have more.
    """

    __slots__ = (
        "_add_up",
        "_begun",
        "_calls",
        "_ended",
        "_functions",
        "_is_chat",
        "_naming",
        "answer",
        "head",
        "strayed",
        "text",
    )

    def __init__(self, naming: Naming, answer: Answer):
        self.answer = answer
        self.strayed = ""
        self.head = b""
        self.text = b""
        self._naming = naming

    def whole(self, kind: str, body: bytes) -> bytes:
        """A whole answer. Raises BackendError where the body is none."""
        naming = self._naming
        if kind == "chat" and (plain := naming.shape.read(body)) is not None:
            self.text = plain[0]
            return plain_form(plain, self.answer, naming.quoted)
        whole = read_whole(kind, body)
        self._hear(whole.model)
        self.answer.usage = read_usage(whole.usage)
        if kind == "chat" and not self.strayed:
            naming.shape.learn(body)
        return whole_form(kind, whole, self.answer, naming.quoted)

    def renamed(self, body: bytes, said: str | None) -> bytes:
        """A JSON object of any other kind, in which only the model, said to be `said`, is named anew."""
        if said is None or said == self._naming.shown:
            return body
        self._hear(said)
        fields = _OBJECT.decode(body)
        fields["model"] = msgspec.Raw(self._naming.quoted)
        return msgspec.json.encode(fields)

    def _hear(self, model: str | None) -> None:
        naming = self._naming
        if model is not None and model != naming.backends and model != naming.shown:
            self.strayed = model

    # -- streams -----------------------------------------------------------------------------------

    def begin_stream(self, kind: str) -> None:
        """Call before the first event of a stream that begins with this attempt."""
        self._is_chat = kind == "chat"
        self._begun: set[int] = set()  # choices whose role has been sent
        self._ended: set[int] = set()  # choices whose reason has been sent
        self._calls: dict[tuple[int, int], str] = {}  # tool calls that have begun, by choice and place: their names
        self._functions: set[int] = set()  # choices that called a function in the form before tools
        self._add_up: Callable[[Usage], Usage] | None = None
        self.head = b'data: {"id":"%b","object":"%b","created":%d,"model":%b,"choices":[' % (
            self.answer.id.encode(),
            b"chat.completion.chunk" if self._is_chat else b"text_completion",
            self.answer.created,
            self._naming.quoted,
        )

    def carry_on(self, kind: str, add_up: Callable[[Usage], Usage]) -> None:
        """Call instead where it has begun with another; `add_up` makes the usage of the rest that of the whole."""
        self.begin_stream(kind)
        self.head = self.answer.head
        self._begun.add(0)
        self._add_up = add_up

    def put(self, chunk: Chunk, out: list[bytes]) -> None:
        """Put the events that the client gets of this chunk into `out`: mostly one, at times none or two."""
        self._hear(chunk.model)
        if chunk.usage and (usage := read_usage(chunk.usage)) is not None:
            self.answer.usage = usage if self._add_up is None else self._add_up(usage)
        for choice in chunk.choices or ():
            if self._is_chat:
                self._put_chat(choice, out)
            else:
                self._put_text(choice, out)

    def ending(self) -> bytes:
        """The last events of the stream, also of one that ends before anybody has heard that it began."""
        return self.answer.ending(self.head)

    def _put_chat(self, choice: Choice, out: list[bytes]) -> None:
        index, said = choice.index, choice.delta
        if index not in self._begun:
            self._begun.add(index)
            out.append(self._event(_ChatPiece(index, _ROLE)))
        delta = _NOTHING if said is None else self._delta(index, said)
        logprobs = chat_logprobs(choice.logprobs) or UNSET if choice.logprobs else UNSET
        if delta is _NOTHING and logprobs is not UNSET:
            delta = _Delta(content="")  # vLLM tells those of a token without text too: in the form of any other's
        if delta is not _NOTHING:
            out.append(self._event(_ChatPiece(index, delta, logprobs)))
        if choice.finish_reason and self._is_first_end(index):
            out.append(self._event(_ChatPiece(index, _NOTHING, UNSET, self._reason(index, choice.finish_reason))))

    def _reason(self, choice: int, said: str) -> str:
        has_calls = any(begun == choice for begun, _ in self._calls)
        return reason_of(said, has_calls=has_calls, has_function=choice in self._functions)

    def _put_text(self, choice: Choice, out: list[bytes]) -> None:
        logprobs = completions_logprobs(choice.logprobs) or UNSET
        if choice.text or logprobs is not UNSET:
            out.append(self._event(_TextPiece(choice.index, choice.text or "", logprobs)))
        if choice.finish_reason and self._is_first_end(choice.index):
            out.append(self._event(_TextPiece(choice.index, "", UNSET, reason_of(choice.finish_reason))))

    def _is_first_end(self, choice: int) -> bool:
        """Some servers say it again beside the usage."""
        is_first = choice not in self._ended
        self._ended.add(choice)
        return is_first

    def _event(self, piece: _ChatPiece | _TextPiece) -> bytes:
        encoded = msgspec.json.encode(piece)
        if b"\n" in encoded:  # of a raw value, where it means what a space does; in a string none can stand
            encoded = encoded.replace(b"\n", b" ")
        return b"%b%b]}\n\n" % (self.head, encoded)

    def _delta(self, choice: int, said: Delta) -> _Delta:
        """What of it goes to the client; `_NOTHING` itself where nothing does."""
        delta = _Delta()
        if said.content:
            delta.content = said.content
        if thought := said.reasoning or said.reasoning_content:
            delta.reasoning = thought
        if said.tool_calls and (pieces := self._pieces(choice, said.tool_calls)):
            delta.tool_calls = pieces
        if said.refusal:
            delta.refusal = said.refusal
        if said.function_call and has_value(said.function_call):
            delta.function_call = said.function_call
            self._functions.add(choice)
        if said.annotations and has_value(said.annotations):
            delta.annotations = said.annotations
        if said.audio and has_value(said.audio):
            delta.audio = said.audio
        return _NOTHING if delta == _NOTHING else delta

    def _pieces(self, choice: int, calls: list[ToolCall]) -> list[CallForm]:
        pieces = []
        for place, call in enumerate(calls):
            index = place if call.index is None else call.index
            if index > 0 and self.answer.one_tool_only:
                continue
            known = self._calls.get((choice, index))
            piece = self._first_piece(choice, index, call) if known is None else _next_piece(index, call, known)
            if piece is not None:
                pieces.append(piece)
            if not known:
                self._calls[choice, index] = called(call)[0]
        return pieces

    def _first_piece(self, choice: int, index: int, call: ToolCall) -> CallForm:
        piece = call_form(call, self.answer.call_id(call.id, choice, index))
        piece.index = index
        return piece


def _next_piece(index: int, call: ToolCall, known: str) -> CallForm | None:
    """What a further piece adds to a call of this name. Some engines repeat the name in each, and clients would put it together."""
    if has_value(call.custom):
        return CallForm(index, custom=call.custom)
    name, arguments = called(call)
    is_new = bool(name) and not known
    if not arguments and not is_new:
        return None
    return CallForm(index, function=FunctionForm(name if is_new else UNSET, arguments))
