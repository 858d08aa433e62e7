"""The rules for requests that hold whichever backend answers: what is refused, and what is taken out because it would mean nothing.

Backends differ on each of these (`max_tokens: 0` is a 400 here and one token there), so the answer must not depend on where a call goes.
A rule is looked up only for a field that is there: it says whether the field is sent on, or raises BadCall.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from backends.asking import USAGE_ASKED
from backends.faults import MALFORMED
from router.bad_call import BadCall
from router.offers import check_offer

Fields = dict[str, msgspec.Raw]
Rule = Callable[[Fields, str], bool]

MAX_STOP_STRINGS = 4  # OpenAI's and vLLM's limit; LM Studio and llama-server take more
EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})  # what vLLM knows; it refuses others

# What steers the server and not the answer: no client of a shared engine may set it. Some name other hosts (`kv_transfer_params`),
# others load models (`draft_model`), jump the queue (`priority`) or tie up a slot (`id_slot`), or add to answers what no other has.
STEERING = frozenset({
    # vLLM
    "priority", "request_id", "session_id", "cache_salt", "kv_transfer_params", "ec_transfer_params", "vllm_xargs", "stream_interval",
    "return_token_ids", "return_token_offsets", "return_prompt_text", "return_mm_kwargs", "routed_experts_prompt_start",
    # LM Studio
    "ttl", "draft_model",
    # llama-server
    "id_slot", "cache_prompt", "n_cache_reuse", "n_keep", "n_discard", "t_max_prompt_ms", "t_max_predict_ms", "lora", "response_fields",
    "return_progress", "return_tokens", "timings_per_token", "verbose", "__verbose",
    "speculative.n_max", "speculative.n_min", "speculative.p_min",
})  # fmt: skip


def canonical(kind: str, fields: Fields) -> Fields:
    """The fields as they are sent on, whoever gets them: the same object where nothing is taken out. Raises BadCall."""
    rules = _RULES.get(kind, _STEERED)
    if rules.keys().isdisjoint(fields):
        return fields
    dropped = [name for name in fields if name in rules and not rules[name](fields, name)]
    return {name: value for name, value in fields.items() if name not in dropped} if dropped else fields


# -- messages ------------------------------------------------------------------------------------------


class _PlainTurn(msgspec.Struct, gc=False):
    """A message that every backend takes as it is."""

    role: Literal["system", "user", "assistant", "tool", "function"]
    tool_calls: None = None
    content: msgspec.Raw = msgspec.Raw()


class _Turn(msgspec.Struct, gc=False):
    role: Literal["system", "user", "assistant", "tool", "function", "developer"]
    content: msgspec.Raw = msgspec.Raw()


class _AnyTurn(msgspec.Struct):
    role: Any = None


_PLAIN_TURNS = msgspec.json.Decoder(list[_PlainTurn])
_TURNS = msgspec.json.Decoder(list[_Turn])
_PIECES = msgspec.json.Decoder(list[msgspec.Raw])
_ANY_TURN = msgspec.json.Decoder(_AnyTurn)
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
# How a message begins that its writer has put the role first in, and a user's text behind it; with what stands before the first one, and
# before one that follows another message.
_PLAIN_TURNS_OPEN = (b'{"role":"user","content":"', b'{"role":"system","co', b'{"role":"assistant",')
LEAD_BYTES = 2
PLAIN_OPENINGS = (
    *(lead + opening for opening in _PLAIN_TURNS_OPEN for lead in (b":[", b"},")),
    b'":{"include_usage":tru',
)
PLAIN_END = b"}]"  # of the last message, and the list


def has_odd_turns(messages: msgspec.Raw) -> bool:
    """Whether a conversation has a turn that a dialect may have to change: of a developer, or with tool calls. Raises BadCall."""
    try:
        _check_users(_PLAIN_TURNS.decode(messages))
        return False
    except MALFORMED:
        pass
    try:
        _check_users(_TURNS.decode(messages))
    except MALFORMED as exc:
        raise _bad_turn(messages) from exc
    return True


def _check_users(turns: Sequence[_PlainTurn | _Turn]) -> None:
    """llama-server answers a user's null as if it were a text (seen); OpenAI refuses it."""
    for index, turn in enumerate(turns):
        if turn.role == "user" and bytes(memoryview(turn.content)[:4]) == b"null":
            place = f"messages[{index}].content"
            raise BadCall(f"{place} must be a string or a list of parts", param=place)


def _bad_turn(messages: msgspec.Raw) -> BadCall:
    names = f"{', '.join(_ROLES[:-1])} or {_ROLES[-1]}"
    for index, message in enumerate(_PIECES.decode(messages)):
        place = f"messages[{index}]"
        try:
            role = _ANY_TURN.decode(message).role
        except MALFORMED:
            return BadCall(f"{place} must be an object with a role", param=place)
        if role is None:
            return BadCall(f"{place}.role is missing; send {names}", param=f"{place}.role")
        if role not in _ROLES:
            return BadCall(f"{place}.role must be {names}", param=f"{place}.role")
    return BadCall("a message names its role twice", param="messages")


# -- single fields -------------------------------------------------------------------------------------


def _never(_fields: Fields, _name: str) -> bool:
    return False


def _token_limit(fields: Fields, name: str) -> bool:
    """-1 is LM Studio's and llama-server's word for no limit, which is what a call without the field has everywhere."""
    limit = _decoded(fields[name], _NUMBER, name, "a whole number")
    if limit is None or limit >= 1:
        if isinstance(limit, float) and not limit.is_integer():
            raise BadCall(f"{name} must be a whole number", param=name)
        return True
    if limit == -1:
        return False
    raise BadCall(f"{name} must be at least 1; leave it out for no limit", param=name)


def _prompt_limit(fields: Fields, name: str) -> bool:
    """With `echo` no token at all may be asked for: the answer is the prompt with its own logprobs."""
    is_echoed = "echo" in fields and bytes(fields["echo"]) == b"true"
    return (is_echoed and bytes(fields[name]) == b"0") or _token_limit(fields, name)


def _older_limit(fields: Fields, name: str) -> bool:
    """Of the two names of a chat's limit the newer one counts."""
    newer, limit = "max_completion_tokens", bytes(fields[name])
    if limit.isdigit() and limit != b"0" and newer not in fields:
        return True
    is_sent = _token_limit(fields, name)
    if not is_sent or newer not in fields:
        return is_sent
    return bytes(fields[newer]) == b"null" or not _token_limit(fields, newer)


def _within(low: float, high: float) -> Rule:
    """A number that OpenAI and vLLM bound and llama-server does not (seen); null says nothing."""

    def rule(fields: Fields, name: str) -> bool:
        number = _decoded(fields[name], _NUMBER, name, "a number")
        if number is not None and not low <= number <= high:
            raise BadCall(f"{name} must be between {low:g} and {high:g}", param=name)
        return True

    return rule


def _choices(fields: Fields, name: str) -> bool:
    number = _decoded(fields[name], _WHOLE, name, "a whole number")
    if number is not None and number < 1:
        raise BadCall(f"{name} must be at least 1", param=name)
    return True


def _prompt(fields: Fields, name: str) -> bool:
    """An empty one is nothing to go on from: llama-server answers it with nothing, vLLM with a 400."""
    if bytes(memoryview(fields[name])[:4]) in (b'""', b"null", b"[]", b'[""]'):
        raise BadCall(f"{name} must not be empty", param=name)
    return True


def _suffix(fields: Fields, name: str) -> bool:
    """An empty one says nothing, and vLLM refuses it all the same."""
    return bool(_decoded(fields[name], _TEXT, name, "a string"))


def _format(fields: Fields, name: str) -> bool:
    """llama-server takes a form in one word for none at all (seen), vLLM refuses it; which types there are is theirs to judge."""
    _decoded(fields[name], _FORMAT, name, "an object with a type")
    return True


def _stop(fields: Fields, name: str) -> bool:
    stop = _decoded(fields[name], _STOP, name, "a string or a list of strings")
    words = [stop] if isinstance(stop, str) else stop or []
    if len(words) > MAX_STOP_STRINGS:
        raise BadCall(f"{name} must have at most {MAX_STOP_STRINGS} strings, not {len(words)}", param=name)
    if "" in words:  # vLLM refuses it, and llama-server stops before the first token
        raise BadCall(f"{name} must not hold an empty string; leave it out to stop at none", param=name)
    return True


def _effort(fields: Fields, name: str) -> bool:
    effort = _decoded(fields[name], _TEXT, name, "a string")
    if effort is not None and effort not in EFFORTS:
        raise BadCall(f"{name} must be one of none, minimal, low, medium, high, xhigh and max", param=name)
    return True


def _stream_options(fields: Fields, name: str) -> bool:
    if bytes(fields[name]) != USAGE_ASKED:
        _decoded(fields[name], _OBJECT, name, "an object")
    return "stream" in fields and bytes(fields["stream"]) == b"true"


def _offered(kind: str) -> Rule:
    """The tools themselves, as an API has them."""

    def rule(fields: Fields, name: str) -> bool:
        if is_filled(fields[name]):
            check_offer(kind, fields[name])
        return True

    return rule


def _filled_offer(fields: Fields, name: str) -> bool:
    """Where there are no tools some servers refuse the field, others ignore it."""
    if not is_filled(fields[name]):
        return False
    check_offer("chat", fields[name])
    return True


def _tools_only(fields: Fields, _name: str) -> bool:
    """What is said about tools, likewise."""
    return _has_tools(fields)


def _tool_choice(fields: Fields, name: str) -> bool:
    choice = _decoded(fields[name], _ANY, name, "a string or an object")
    if not _has_tools(fields):
        if choice in (None, "none", "auto"):
            return False
        raise BadCall(f"{name} asks for a tool, and tools has none", param=name)
    named = choice.get("function") if isinstance(choice, dict) else None
    wanted = named.get("name") if isinstance(named, dict) else None
    if wanted is not None and wanted not in _names(fields["tools"]):
        raise BadCall(f"{name} names a function that is not among the tools", param=name)
    return True


def _closed(fields: Fields, name: str) -> bool:
    """Engines disagree on a message left open: some continue it, some begin another silently, some repeat it in their answer."""
    if _decoded(fields[name], _FLAG, name, "true or false") is (name == "continue_final_message"):
        raise BadCall(f"{name} is not supported: an answer is always a message of its own", param=name)
    return False


def _has_tools(fields: Fields) -> bool:
    return is_filled(fields.get("tools"))


class _Format(msgspec.Struct):
    type: str


class _Function(msgspec.Struct):
    name: str = ""


class _Tool(msgspec.Struct):
    function: _Function = msgspec.field(default_factory=_Function)


def _names(tools: msgspec.Raw) -> list[str]:
    check_offer("chat", tools)
    return [tool.function.name for tool in _decoded(tools, _TOOLS, "tools", "a list of tools")]


# -- reading values ------------------------------------------------------------------------------------


_NUMBER = msgspec.json.Decoder(int | float | None)
_WHOLE = msgspec.json.Decoder(int | None)
_TEXT = msgspec.json.Decoder(str | None)
_FLAG = msgspec.json.Decoder(bool | None)
_FORMAT = msgspec.json.Decoder(_Format | None)
_STOP = msgspec.json.Decoder(list[str] | str | None)
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)
_ANY: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Any)
_TOOLS = msgspec.json.Decoder(list[_Tool])
_WHITESPACE = b" \t\r\n"

Value = TypeVar("Value")


def _decoded(raw: msgspec.Raw, form: msgspec.json.Decoder[Value], name: str, form_name: str) -> Value:
    try:
        return form.decode(raw)
    except MALFORMED as exc:
        raise BadCall(f"{name} must be {form_name}", param=name) from exc


def is_filled(value: msgspec.Raw | None) -> bool:
    """Whether it is a list with something in it."""
    if value is None:
        return False
    opening = opening_of(value)
    return opening[:1] == b"[" and opening[1:].lstrip(_WHITESPACE)[:1] != b"]"


def opening_of(value: msgspec.Raw) -> bytes:
    """How it begins; a long value is not copied for it."""
    return memoryview(value)[:64].tobytes()


_STEERED: dict[str, Rule] = dict.fromkeys(STEERING, _never)
_SAMPLED: dict[str, Rule] = _STEERED | {"temperature": _within(0, 2), "top_p": _within(0, 1)}
_WRITING: dict[str, Rule] = _SAMPLED | {
    "frequency_penalty": _within(-2, 2),
    "presence_penalty": _within(-2, 2),
    "n": _choices,
    "response_format": _format,
    "stop": _stop,
    "stream_options": _stream_options,
}
_RULES: dict[str, dict[str, Rule]] = {
    "chat": _WRITING
    | {
        "max_tokens": _older_limit,
        "max_completion_tokens": _token_limit,
        "reasoning_effort": _effort,
        "tools": _filled_offer,
        "tool_choice": _tool_choice,
        "parallel_tool_calls": _tools_only,
        "continue_final_message": _closed,
        "add_generation_prompt": _closed,
    },
    "completions": _WRITING | {"max_tokens": _prompt_limit, "best_of": _choices, "prompt": _prompt, "suffix": _suffix},
    "responses": _SAMPLED | {"tools": _offered("responses")},
    "messages": _SAMPLED | {"tools": _offered("messages")},
    "count_tokens": _STEERED | {"tools": _offered("messages")},
}
