"""One case of a table: what the backend does, what the client is told, and the outcome of every attempt."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest

from tests.clients.captured import packets
from tests.dialects.stage import CHAT, Scene
from tests.faults.stage import Told, told
from tests.hearing import Heard, heard_in
from tests.rawclient import Answer
from tests.upstream import Script, says, sends

Check = Callable[[Scene, Answer], None]


@dataclass(frozen=True, slots=True)
class Case:
    """`tries` are the attempts in any order, "vllm failed, b ok". `forms`: w(hole), s(tream). `also`: what else must hold."""

    number: int
    what: str
    plays: Script
    told: Told
    tries: str
    forms: str = "s"
    model: str = "vllm"
    b: Script | None = None
    also: Check | None = None
    asks: tuple[tuple[str, object], ...] = ()

    @property
    def id(self) -> str:
        """The case's number, and the case as a sentence."""
        return f"{self.number:02}-{self.what}"


def each_form(cases: Iterable[Case]) -> pytest.MarkDecorator:
    """The decorator of the test that plays a table."""
    pairs = [(case, form == "s") for case in cases for form in case.forms]
    ids = [f"{case.id} ({'a stream' if stream else 'whole'}, {case.model})" for case, stream in pairs]
    return pytest.mark.parametrize(("case", "stream"), pairs, ids=ids)


async def play(case: Case, stream: bool, scene: Scene) -> None:
    """One call of the case, and all that it says of it."""
    kind = case.model.split(" ")[0]
    scene.begin(**{kind.replace("-", "_"): case.plays, "b": case.b or says("from b")})
    answer = await scene.ask(case.model, CHAT, stream=stream or None, headers=None, **dict(case.asks))
    heard = told(answer)
    assert (heard.status, heard.text, heard.code, heard.retry_after_s) == (
        case.told.status,
        case.told.text,
        case.told.code,
        case.told.retry_after_s,
    ), answer.body
    assert case.told.backend in (None, heard.backend)
    assert scene.tries() == sorted(case.tries.split(", ") if case.tries else [])
    if case.also is not None:
        case.also(scene, answer)


def captured(name: str) -> Script:
    """A backend that sends the bytes of this capture."""
    return sends(*packets(name))


def stream_of(answer: Answer) -> Heard:
    """What a client hears in a streamed answer."""
    return heard_in(answer.body.decode())
