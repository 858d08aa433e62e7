"""The items of a response (messages, reasoning, calls of functions) in one form: one set of keys in one order, whatever engine wrote them.

An item of another kind (a search, code that was run) is one engine's own affair, and is passed on as it was written.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

Fields = dict[str, msgspec.Raw]

_OBJECT = msgspec.json.Decoder(Fields)
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_NULL = b"null"


def _form(**defaults: bytes) -> Mapping[str, msgspec.Raw]:
    return MappingProxyType({name: msgspec.Raw(default) for name, default in defaults.items()})


# By their type: the keys in their order, each with what stands for "not said".
_ITEMS: Mapping[bytes, Mapping[str, msgspec.Raw]] = {
    b'"message"': _form(id=b'""', type=_NULL, status=b'"completed"', role=b'"assistant"', content=b"[]"),
    b'"reasoning"': _form(
        id=b'""', type=_NULL, summary=b"[]", content=_NULL, encrypted_content=_NULL, status=b'"completed"'
    ),
    b'"function_call"': _form(id=b'""', type=_NULL, call_id=b'""', name=b'""', arguments=b'""', status=b'"completed"'),
}
_PARTS: Mapping[bytes, Mapping[str, msgspec.Raw]] = {
    b'"output_text"': _form(type=_NULL, text=b'""', annotations=b"[]", logprobs=b"[]"),
    b'"reasoning_text"': _form(type=_NULL, text=b'""'),
    b'"summary_text"': _form(type=_NULL, text=b'""'),
    b'"refusal"': _form(type=_NULL, refusal=b'""'),
}


def shown_items(output: msgspec.Raw) -> msgspec.Raw:
    """A list of items. Raises msgspec's errors where it is none."""
    return _raw([shown_item(item) for item in _LIST.decode(output)])


def shown_item(item: msgspec.Raw) -> msgspec.Raw:
    """One item. Raises msgspec's errors where it is no object."""
    fields = _OBJECT.decode(item)
    form = _ITEMS.get(bytes(fields.get("type", b"")))
    if form is None:
        return item
    shows = _in_form(fields, form)
    if bytes(memoryview(shows.get("content", b""))[:1]) == b"[":
        shows["content"] = _raw([shown_part(part) for part in _LIST.decode(shows["content"])])
    return _raw(shows)


def shown_part(part: msgspec.Raw) -> msgspec.Raw:
    """One part of an item's content. Raises msgspec's errors where it is no object."""
    fields = _OBJECT.decode(part)
    form = _PARTS.get(bytes(fields.get("type", b"")))
    return part if form is None else _raw(_in_form(fields, form))


def _in_form(fields: Fields, form: Mapping[str, msgspec.Raw]) -> Fields:
    return {
        name: value if (value := fields.get(name)) is not None and bytes(value) != _NULL else default
        for name, default in form.items()
    }


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
