"""What operators change over HTTP is in force with the next call, kept with its actor and reason, and undone in the same way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.router.admin.operators import Admin, administered, error_of


async def test_a_shift_is_answered_with_its_revision_its_etag_and_what_it_means_for_callers(admin: Admin) -> None:
    answer = await admin.shift(0.25, x_crossfade_actor="alice")
    assert (answer.status_code, answer.headers["etag"]) == (200, '"2"')
    said = answer.json()
    assert said["changes"] == ["jane: a 95 % -> 75 %, b 5 % -> 25 %; about 20 % of callers move, none back"]
    assert said["changed"] is True
    revision = said["revision"]
    assert (revision["number"], revision["kind"], revision["model"]) == (2, "shift", "jane")
    assert (revision["actor"], revision["reason"]) == ("operator: alice", "it looks well")
    assert (revision["before"]["split"], revision["after"]["split"]) == ({"a": 0.95, "b": 0.05}, {"a": 0.75, "b": 0.25})
    assert (await admin.router.chat()).headers["x-crossfade-revision"] == "2"


async def test_a_rollback_goes_to_the_state_before_and_a_second_one_further_back_or_to_the_revision_named(
    admin: Admin,
) -> None:
    await admin.shift(0.5)
    await admin.shift(0.9)
    first, second, named = [await admin.post("models/jane/rollback", body) for body in ({}, {}, {"to": 3})]
    restored = [answer.json()["revision"]["after"]["split"]["b"] for answer in (first, second, named)]
    assert restored == [0.5, 0.05, 0.9]
    assert error_of(await admin.post("models/jane/rollback", {"to": 99})) == (422, "not_possible")


async def test_a_ramp_moves_in_steps_and_is_paused_and_resumed(admin: Admin) -> None:
    answer = await admin.post("models/jane/shift", {"shares": {"b": 1.0}, "over_s": 7200})
    assert answer.json()["revision"]["after"]["ramp"]["target"] == {"a": 0.0, "b": 1.0}
    assert (await admin.post("models/jane/ramp", {"action": "pause"})).status_code == 200
    ramp = (await admin.get("status")).json()["models"]["jane"]["ramp"]
    assert (ramp["is_paused"], ramp["next_s"], ramp["done_share"], ramp["over_s"]) == (True, None, 0.0, 7200)
    assert (await admin.post("models/jane/ramp", {"action": "resume"})).status_code == 200
    ramp = (await admin.get("status")).json()["models"]["jane"]["ramp"]
    assert not ramp["is_paused"] and 0 < ramp["next_s"] <= 72
    assert error_of(await admin.post("models/jane/ramp", {"action": "resume"})) == (422, "not_possible")


async def test_a_drained_backend_takes_no_new_calls_until_it_is_undrained(admin: Admin) -> None:
    drained = await admin.post("drain", {"target": "a"})
    assert drained.json()["changes"] == ["a: takes no new calls"]
    assert (await admin.router.chat()).headers["x-crossfade-backend"] == "b"
    status = (await admin.get("status")).json()
    assert status["draining"] == ["a"]
    assert status["models"]["jane"]["backends"]["a"]["draining"] is True
    assert (await admin.post("undrain", {"target": "a"})).json()["changes"] == ["a: takes calls again"]
    assert error_of(await admin.post("drain", {"target": "nobody"})) == (422, "not_possible")


async def test_a_shift_to_what_is_there_already_makes_no_revision(admin: Admin) -> None:
    answer = (await admin.shift(0.05)).json()
    assert (answer["changed"], answer["revision"]["number"]) == (False, 1)
    assert await admin.revision() == 1


async def test_a_repeat_with_the_same_key_is_answered_alike_and_changes_nothing(admin: Admin) -> None:
    first = await admin.shift(0.5, idempotency_key="a-1")
    await admin.shift(0.1)
    again = await admin.shift(0.5, idempotency_key="a-1")
    assert (again.json(), again.headers["etag"]) == (first.json(), '"2"')
    assert await admin.revision() == 3
    assert error_of(await admin.shift(0.6, idempotency_key="a-1")) == (409, "idempotency_key_reused")
    assert await admin.revision() == 3


async def test_of_two_at_once_with_one_key_one_revision_is_made(admin: Admin) -> None:
    answers = await asyncio.gather(*(admin.shift(0.5, idempotency_key="once") for _ in range(8)))
    assert {answer.json()["revision"]["number"] for answer in answers} == {2}
    assert await admin.revision() == 2


async def test_a_change_that_was_thought_out_for_another_revision_is_refused_with_what_happened(admin: Admin) -> None:
    assert (await admin.shift(0.25, if_match='"1"')).status_code == 200
    late = await admin.shift(0.5, if_match='"1"', x_crossfade_actor="bob")
    assert error_of(late) == (412, "overtaken")
    assert "about 20 % of callers move" in late.json()["error"]["message"]
    assert [each["number"] for each in late.json()["revisions"]] == [2]
    assert await admin.revision() == 2
    assert (await admin.shift(0.5, if_match='"2"')).status_code == 200
    assert (await admin.shift(0.6, if_match="*")).status_code == 200


async def test_concurrent_shifts_of_one_model_end_in_one_of_them_whole_and_the_others_hear_of_it(admin: Admin) -> None:
    answers = await asyncio.gather(*(admin.shift(n / 10, if_match='"1"') for n in range(1, 9)))
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 7
    winner = next(answer for answer in answers if answer.status_code == 200).json()
    status = (await admin.get("status")).json()
    assert status["models"]["jane"]["split"] == winner["revision"]["after"]["split"]


async def test_of_shifts_of_one_model_at_two_routers_one_is_made_and_the_other_hears_what_happened(
    tmp_path: Path,
) -> None:
    more = f"\nstore: {{url: 'sqlite:///{tmp_path}/crossfade.db'}}\n"
    async with administered(more=more) as one, administered(more=more) as other:
        for n in range(1, 100):
            answers = await asyncio.gather(one.shift(n / 200), other.shift(n / 200 + 0.5))
            made = max(answer.json()["revision"]["number"] for answer in answers if answer.status_code == 200)
            assert await one.revision() == await other.revision() == made
            late = [answer for answer in answers if answer.status_code != 200]
            if late:  # both had read before either had written
                assert error_of(late[0], "revisions") == (409, "overtaken")
                assert [each["number"] for each in late[0].json()["revisions"]] == [made]
                assert "shift of jane by operator" in late[0].json()["error"]["message"]
                return
    raise AssertionError("they never met")


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("models/jane/shift", {"shares": {"b": 1.5}}, "1.5"),
        ("models/jane/shift", {"shares": {"a": 0.7, "b": 0.7}}, "sum to 1.4"),
        ("models/jane/shift", {"shares": {"c": 0.5}}, "not served by c"),
        ("models/jane/shift", {"shares": {"b": "0.5"}}, "shares.b must be a number"),
        ("models/jane/shift", {"shares": {}}, "shares must name at least one backend"),
        ("models/jane/shift", {"shares": {"b": 0.5}, "role": "operator"}, "role is no field of this request"),
        ("models/jane/shift", {"shares": {"b": 0.5}, "reason": " "}, "reason must not be blank"),
        ("models/jane/shift", {"shares": {"b": 0.5}, "reason": "\x1b[2J"}, "reason must be one line"),
        ("models/jane/shift", {"shares": {"b": 0.5}, "reason": None}, "reason must be text"),
        ("models/jane/shift", {"shares": {"b": 0.5}, "over_s": 0}, "over_s is too small"),
        ("models/jane/shift", {"shares": {"b": 0.5}, "force": 1}, "force must be true or false"),
        ("models/jane/rollback", {"to": 1.0}, "to must be a whole number"),
        ("models/jane/ramp", {"action": "stop"}, "action must be 'pause' or 'resume'"),
        ("drain", {}, "target is missing"),
    ],
)
async def test_what_makes_no_sense_is_one_sentence_and_changes_nothing(
    admin: Admin, path: str, body: dict[str, object], said: str
) -> None:
    answer = await admin.post(path, body)
    assert answer.status_code == 422
    error_of(answer)
    assert said in answer.json()["error"]["message"]
    assert await admin.revision() == 1


async def test_an_unknown_model_is_a_404_that_names_those_there_are(admin: Admin) -> None:
    for action, body in (("shift", {"shares": {"b": 1}}), ("rollback", {}), ("ramp", {"action": "pause"})):
        answer = await admin.post(f"models/joe/{action}", body)
        assert error_of(answer) == (404, "model_not_found")
        assert "there are jane" in answer.json()["error"]["message"]


async def test_while_the_store_cannot_be_used_changes_are_refused_and_everything_is_shown() -> None:
    async with administered(more="\nstore: {url: sqlite:////nowhere/at/all/crossfade.db}\n") as admin:
        answer = await admin.shift(0.5)
        assert error_of(answer) == (503, "store_failed")
        assert "nothing was changed" in answer.json()["error"]["message"]
        status = await admin.get("status")
        assert (status.status_code, status.json()["models"]["jane"]["split"]) == (200, {"a": 0.95, "b": 0.05})
        assert "cannot be used" in status.json()["store"]["trouble"]
