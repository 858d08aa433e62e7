"""How a call is put to one kind of server: its own names for fields, what it refuses in the form of others, and what the client left open.

A dialect's table says for the name of a field what is to be done where a call has it: a small pure function from the call's raw fields
to those that change. A `Translation` is built once for a model on a backend and a kind of call; a call without any of its names is
written as the client sent it, behind an opening that has been ready since the start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from backends.faults import MALFORMED

Fields = dict[str, msgspec.Raw]
Changes = Mapping[str, msgspec.Raw | None]  # None: the field is left out
Ask = Callable[[Fields], Changes]

MESSAGES = "messages"  # its function is asked only where a conversation has a turn that may have to change
_ALIKE = (
    {"max_tokens", "max_completion_tokens"},
    {"repeat_penalty", "repetition_penalty"},
)  # who sends one has said it
# Of the fields that an operator may pin, those that mean something only to a chat.
_ONLY_IN_CHATS = frozenset({
    "reasoning_effort", "include_reasoning", "chat_template_kwargs", "parallel_tool_calls", "verbosity", "modalities",
})  # fmt: skip
_STREAM_OPTIONS = "stream_options"


def raw(value: Any) -> msgspec.Raw:
    """A value as JSON."""
    return msgspec.Raw(msgspec.json.encode(value))


_COUNTED = raw({"include_usage": True})
USAGE_ASKED = bytes(_COUNTED)  # as SDKs write it


# -- what a dialect may ask for ------------------------------------------------------------------------


def renamed(theirs: str, ours: str) -> Ask:
    """The field `theirs` under the name `ours`; a call that has both means the one that this server knows."""

    def ask(fields: Fields) -> Changes:
        return {theirs: None} if _says(fields, ours) else {theirs: None, ours: fields[theirs]}

    return ask


_CLAMPED = {b'"none"': raw("low"), b'"minimal"': raw("low"), b'"xhigh"': raw("high"), b'"max"': raw("high")}


def effort_clamped(fields: Fields) -> Changes:
    """To the three levels that gpt-oss has; vLLM refuses all others (captured), LM Studio's versions differ."""
    nearest = _CLAMPED.get(bytes(fields["reasoning_effort"]))
    return {} if nearest is None else {"reasoning_effort": nearest}


_LIKELIEST = raw(1e-6)  # however many tokens share it, no mass is smaller than the first one's


def top_p_above_0(fields: Fields) -> Changes:
    """0, which means the likeliest token alone, as a mass so small that it holds no other: vLLM refuses the 0."""
    return {"top_p": _LIKELIEST} if _read(fields["top_p"], float) == 0 else {}


class _Form(msgspec.Struct):
    type: str = ""
    schema: msgspec.Raw = msgspec.Raw()


_ANY_OBJECT = raw({"type": "json_schema", "json_schema": {"name": "json_object", "schema": {"type": "object"}}})


def json_mode_by_schema(fields: Fields) -> Changes:
    """JSON mode as a schema, its own (in llama.cpp's form) or one for any object: LM Studio knows only schemas (its issue 189)."""
    form = _read(fields["response_format"], _Form)
    if form is None or form.type != "json_object":
        return {}
    if bytes(memoryview(form.schema)[:1]) != b"{":
        return {"response_format": _ANY_OBJECT}
    return {
        "response_format": raw({"type": "json_schema", "json_schema": {"name": "json_object", "schema": form.schema}})
    }


_ONE = raw(1)


def logprobs_of_one(fields: Fields) -> Changes:
    """Completions that ask for logprobs of none but the chosen tokens: llama-server takes that 0 for no logprobs at all (seen)."""
    return {"logprobs": _ONE} if bytes(fields["logprobs"]) == b"0" and "prompt" in fields else {}


class _Function(msgspec.Struct):
    name: str = ""


class _Named(msgspec.Struct):
    function: _Function


def named_tool_alone(fields: Fields) -> Changes:
    """A tool that is named as the only one that there is, of which one is required: LM Studio refuses names (its issue 670), and
    llama-server takes no notice of them (captured)."""
    named = _read(fields["tool_choice"], _Named)
    tools = _read(fields.get("tools"), list[msgspec.Raw])
    if named is None or tools is None:
        return {}
    wanted = [tool for tool in tools if (it := _read(tool, _Named)) is not None and it.function == named.function]
    return {"tool_choice": _REQUIRED, "tools": raw(wanted[:1])} if wanted else {}


_REQUIRED = raw("required")


class _Turn(msgspec.Struct):
    role: str = ""
    tool_calls: list[msgspec.Raw] | None = None


_SYSTEM, _NOTHING = raw("system"), raw("")
_THOUGHTS = ("reasoning", "reasoning_content")


def turns_for_lmstudio(fields: Fields) -> Changes:
    """A developer's turns as the system's. Of a turn with tool calls only these: a chat template there refuses the whole call where
    content or thoughts stand beside them (its issue 842)."""
    turns = _read(fields[MESSAGES], list[msgspec.Raw])
    changed = [_turn_for_lmstudio(turn) for turn in turns or ()]
    return {MESSAGES: raw(changed)} if turns != changed else {}


def _turn_for_lmstudio(turn: msgspec.Raw) -> msgspec.Raw:
    seen = _read(turn, _Turn)
    if seen is None or not (seen.role == "developer" or seen.tool_calls):
        return turn
    fields: Fields = msgspec.json.decode(turn, type=Fields)
    if seen.role == "developer":
        return raw(fields | {"role": _SYSTEM})
    kept = {name: value for name, value in fields.items() if name not in _THOUGHTS}
    if _says(kept, "content"):
        kept["content"] = _NOTHING
    return turn if kept == fields else raw(kept)


def _says(fields: Fields, name: str) -> bool:
    """Whether the field is there; null says nothing."""
    return name in fields and bytes(fields[name]) != b"null"


def _read(value: msgspec.Raw | None, form: type[Any]) -> Any:
    """The value in this form; None where there is none, or it has another: that is the server's to judge."""
    if value is None:
        return None
    try:
        return msgspec.json.decode(value, type=form)
    except MALFORMED:
        return None


def _counted(fields: Fields) -> Changes:
    """A stream's tokens are always counted at its end, and only there: the router counts them, and shows them to those who asked."""
    given = fields[_STREAM_OPTIONS]
    if bytes(given) == USAGE_ASKED:
        return {}
    options = _read(given, Fields) or {}
    options.pop("continuous_usage_stats", None)  # vLLM's, on every chunk; nobody else has it
    return {_STREAM_OPTIONS: raw(options | {"include_usage": _TRUE})}


_TRUE = raw(True)


# -- one model on one backend --------------------------------------------------------------------------


def _by_own_names(asks: Mapping[str, Ask], fills: Fields) -> Fields:
    """The fields to fill in as this dialect takes them, each once under whatever name."""
    own = dict(fills)
    for name, ask in asks.items():
        if name in own:
            changes = ask(own)
            own = _changed(own, changes) | {each: value for each, value in changes.items() if value is not None}
    kept: Fields = {}
    for name, value in own.items():
        if kept.keys().isdisjoint(_same_as(name)):
            kept[name] = value
    return kept


def _same_as(name: str) -> frozenset[str]:
    """All names of what a field says."""
    return frozenset(next((names for names in _ALIKE if name in names), {name}))


def _changed(fields: Fields, changes: Changes) -> Fields:
    changed = {name: changes.get(name, value) for name, value in fields.items()}
    return {name: value for name, value in changed.items() if value is not None}


def _opening(added: Fields) -> bytes:
    return msgspec.json.encode(added)[:-1] + b"," if added else b""


class Translation:
    """What becomes of a call's fields on their way to one backend.

    `asks`: the dialect's table. `fills`: what the operator has set for calls that do not say it themselves; null says nothing.
    `is_counted`: whether its streams are asked for their usage.
    """

    __slots__ = ("_asks", "_fills", "_names", "_opening", "_stream_opening", "is_counted")

    def __init__(self, asks: Mapping[str, Ask], fills: Fields, *, is_counted: bool):
        self.is_counted = is_counted
        self._asks = dict(asks)
        self._fills = [(name, value, _same_as(name)) for name, value in _by_own_names(self._asks, fills).items()]
        said = {name for _, _, names in self._fills for name in names}
        self._names = frozenset(said | self._asks.keys() - {MESSAGES})
        added = {name: value for name, value, _ in self._fills}
        self._opening = _opening(added)
        self._stream_opening = _opening({_STREAM_OPTIONS: _COUNTED, **added}) if is_counted else self._opening

    def put(self, fields: Fields, *, is_streamed: bool, has_odd_turns: bool) -> tuple[bytes, Fields]:
        """What is written before the fields, `{` included (b"" for nothing), and the fields: the same object where none of them changes."""
        if not has_odd_turns and self._names.isdisjoint(fields):
            if not is_streamed or _STREAM_OPTIONS not in fields:
                return (self._stream_opening if is_streamed else self._opening), fields
            if bytes(fields[_STREAM_OPTIONS]) == USAGE_ASKED or not self.is_counted:
                return self._opening, fields
        changes = self._changes(fields, is_streamed, has_odd_turns)
        if not changes:
            return b"", fields
        added = {name: value for name, value in changes.items() if value is not None and name not in fields}
        if len(added) == len(changes):
            return _opening(added), fields
        return _opening(added), _changed(fields, changes)

    def whole(self, fields: Fields, *, is_streamed: bool, has_odd_turns: bool) -> Fields:
        """All fields that the backend is sent."""
        changes = self._changes(fields, is_streamed, has_odd_turns)
        added = {name: value for name, value in changes.items() if value is not None and name not in fields}
        return {**added, **_changed(fields, changes)}

    def _changes(self, fields: Fields, is_streamed: bool, has_odd_turns: bool) -> Changes:
        changes: dict[str, msgspec.Raw | None] = {}
        for name, ask in self._asks.items():
            if name in fields and (name != MESSAGES or has_odd_turns):
                changes.update(ask(fields))
        if is_streamed and self.is_counted:
            changes.update(_counted(fields) if _STREAM_OPTIONS in fields else {_STREAM_OPTIONS: _COUNTED})
        for name, value, names in self._fills:
            if not any(_says(fields, each) for each in names):
                changes.update({each: None for each in names if each in fields} | {name: value})
        return changes


AS_IT_IS = Translation({}, {}, is_counted=False)


def translations(asks: Mapping[str, Ask], sampling: Mapping[str, Any]) -> dict[str, Translation]:
    """By kind of call, for a dialect's table and the fields that a model's operator has set; other kinds are sent as they are."""
    in_chats = {name: raw(value) for name, value in sampling.items() if value is not None}
    in_prompts = {_for_prompts(name): value for name, value in in_chats.items() if name not in _ONLY_IN_CHATS}
    return {
        "chat": Translation(asks, in_chats, is_counted=True),
        "completions": Translation(asks, in_prompts, is_counted=True),
        "embeddings": Translation(asks, {}, is_counted=False),
    }


def _for_prompts(name: str) -> str:
    return "max_tokens" if name == "max_completion_tokens" else name
