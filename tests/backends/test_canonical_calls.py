"""Tool calls in the one form of streams: who is called, once, with an id that any engine takes back, and nothing that says nothing."""

from __future__ import annotations

from typing import Any

import pytest

from backends.canonical import Canonical
from tests.backends.told import begun, deltas, sent
from tests.upstream import event


def calls(*pieces: dict[str, Any]) -> bytes:
    return deltas({"tool_calls": list(pieces)})[0]


def pieces_of(canonical: Canonical, *events: bytes) -> list[dict[str, Any]]:
    told = [one["choices"][0]["delta"] for one in sent(canonical, *events) if one["choices"]]
    return [piece for delta in told for piece in delta.get("tool_calls", ())]


FIRST = {"index": 0, "id": "814890118", "type": "function", "function": {"name": "f", "arguments": "{"}}
REST = {"index": 0, "function": {"arguments": "}"}}


def test_a_call_of_a_tool_has_one_form_and_says_who_it_is_once() -> None:
    """However often the engine says so, and whatever else it adds."""
    again = {**FIRST, "function": {"name": "f", "arguments": "}"}, "extra": 1}
    for events in ((calls(FIRST), calls(REST)), (calls(FIRST), calls(again)), (calls(FIRST), calls(REST), calls())):
        canonical = begun()
        first, rest = pieces_of(canonical, *events)
        made = canonical.answer.call_id("814890118", 0, 0)
        assert made.startswith("call_") and len(made) == 29
        function = {"name": "f", "arguments": "{"}
        assert first == {"index": 0, "id": made, "type": "function", "function": function}
        assert list(first) == ["index", "id", "type", "function"] and rest == REST


SPARSE: list[tuple[str, bytes, dict[str, Any]]] = [
    ("no arguments", calls({"index": 0, "id": "call_1", "function": {"name": "f"}}), {"name": "f", "arguments": ""}),
    (
        "no index",
        calls({"id": "call_1", "function": {"name": "f", "arguments": "{}"}}),
        {"name": "f", "arguments": "{}"},
    ),
    (
        "arguments that are an object",
        calls({"id": "call_1", "function": {"name": "f", "arguments": {"a": 1}}}),
        {"name": "f", "arguments": '{"a":1}'},
    ),
    (
        "null for what is missing",
        calls({"index": None, "id": "call_1", "type": None, "function": {"name": "f", "arguments": None}}),
        {"name": "f", "arguments": ""},
    ),
]


@pytest.mark.parametrize(("given", "function"), [row[1:] for row in SPARSE], ids=[row[0] for row in SPARSE])
def test_what_an_engine_leaves_out_of_a_call_is_there(given: bytes, function: dict[str, Any]) -> None:
    assert pieces_of(begun(), given) == [{"index": 0, "id": "call_1", "type": "function", "function": function}]


def test_a_name_that_comes_late_is_told_once() -> None:
    late = [{"index": 0, "function": {"name": "f", "arguments": each}} for each in ("{", "}")]
    told = pieces_of(begun(), calls({"index": 0, "id": "call_1"}), *map(calls, late))
    assert [each["function"].get("name") for each in told] == ["", "f", None]


def test_a_piece_of_a_call_that_adds_nothing_is_left_out() -> None:
    nothing = [calls({"index": 0}), calls({"index": 0, "function": {"name": "f", "arguments": ""}})]
    told = sent(begun(), calls(FIRST), *nothing, calls(REST))
    assert [one["choices"][0]["delta"].get("tool_calls") for one in told[2:]] == [[REST]]


def test_a_call_of_another_kind_is_told_piece_by_piece() -> None:
    first, *rest = pieces_of(
        begun(),
        calls({"index": 0, "id": "call_1", "type": "custom", "custom": {"name": "c", "input": "a"}}),
        calls({"index": 0, "custom": {"input": "b"}}),
    )
    assert first == {"index": 0, "id": "call_1", "type": "custom", "custom": {"name": "c", "input": "a"}}
    assert rest == [{"index": 0, "custom": {"input": "b"}}]


def test_ids_that_are_call_ids_stay_and_others_are_told_apart() -> None:
    ids = ["call_mine", "x", 7, "7", None, ""]
    pieces = [{"index": place, "id": each, "function": {"name": "f"}} for place, each in enumerate(ids)]
    made = [piece["id"] for piece in pieces_of(begun(), calls(*pieces))]
    assert made[0] == "call_mine" and len(set(made)) == len(ids) and all(each.startswith("call_") for each in made)
    again = [piece["id"] for piece in pieces_of(begun(), calls(*pieces))]
    assert not set(again[1:]) & set(made[1:]), (
        "an id of another answer is another id: some engines begin at 0 each time"
    )


def test_a_client_that_takes_one_call_gets_one() -> None:
    second = {"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}
    told = sent(begun(one_tool_only=True), calls(FIRST, second), calls(second), event({}, "stop")[6:-2])
    (piece,) = told[1]["choices"][0]["delta"]["tool_calls"]
    assert piece["index"] == 0 and len(told) == 3
