"""A second backend's stream, made the rest of the first's: same id, model and created, one role, no character twice, usage that adds up."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from backends.answers import Choice, Chunk, Delta
from backends.errors import Diverged
from backends.transcript import Said
from backends.usage import Usage


@dataclass(frozen=True, slots=True)
class Counted:
    """Tokens that the second backend was given as its prompt and the client has as its answer; `reasoning` of them are reasoning.

    `prompt`: the conversation's own, None where it is known only as the rest.
    """

    answer: int = 0
    reasoning: int = 0
    prompt: int | None = None

    def add_up(self, usage: Usage) -> Usage:
        """The usage of the whole answer: the tokens sent move from the prompt's side to the answer's, the total stays."""
        own = max(1, usage.prompt - self.answer) if self.prompt is None else min(self.prompt, usage.prompt)
        return Usage(
            prompt=own,
            answer=usage.answer + usage.prompt - own,
            cached=min(usage.cached, own),
            reasoning=usage.reasoning + self.reasoning,
            total=usage.prompt + usage.answer,
        )


class Swallowing:
    """What of the second stream's text the client has already. Raises Diverged where it is not what was sent, to the byte."""

    __slots__ = ("_at", "_sent")

    def __init__(self, content: str, reasoning: str):
        self._sent = {"content": content, "reasoning": reasoning}
        self._at = {"content": 0, "reasoning": 0}

    @property
    def is_over(self) -> bool:
        """Whether all has been repeated that was sent."""
        return all(self._at[channel] == len(self._sent[channel]) for channel in self._sent)

    def new_in(self, channel: str, text: str) -> str:
        """The part of `text` that the client has not seen."""
        sent, at = self._sent[channel], self._at[channel]
        known = min(len(text), len(sent) - at)
        if not sent.startswith(text[:known], at):
            raise Diverged(f"asked again, it says something else after {at} characters of {channel}")
        self._at[channel] = at + known
        if known < len(text):
            self.must_be_over()
        return text[known:]

    def must_be_over(self) -> None:
        """Call before anything goes to the client. Raises Diverged where part of what was sent has not been repeated."""
        if not self.is_over:
            raise Diverged("asked again, it goes on otherwise than the stream that broke")


class Merging:
    """Turns each chunk of the second stream into one of the first's, or into nothing.

    `is_continued`: the second stream goes on in mid-answer. Then it has nothing to swallow, and if it reasons although the answer had
    begun, it has begun a new one. A chat may be continued by a completion: its texts become the chat's.
    """

    __slots__ = ("_is_chat", "_is_continued", "_said", "_swallowing", "has_heard", "has_new")

    def __init__(self, said: Said, *, is_continued: bool, is_chat: bool):
        self._said = said
        self._is_continued = is_continued
        self._is_chat = is_chat
        self._swallowing = Swallowing("", "") if is_continued else Swallowing(said.content, said.reasoning)
        self.has_heard = False  # whether the latest chunk had text, known or not
        self.has_new = False  # whether it has text that goes to the client

    def take(self, chunk: Chunk) -> Chunk:
        """What is new in it. Raises Diverged."""
        self.has_heard = self.has_new = False
        choices = [choice for old in chunk.choices or () if (choice := self._choice(old)) is not None]
        return Chunk(chunk.model, choices, chunk.usage)

    def _choice(self, choice: Choice) -> Choice | None:
        """The choice with what is new in it; None where there is nothing."""
        said = choice.delta or Delta()
        content, reasoning = self._new_texts(choice, said)
        rest = msgspec.structs.replace(said, content=None, reasoning=None, reasoning_content=None)
        says_more = Chunk(choices=[Choice(delta=rest)]).has_content
        self.has_new = self.has_new or bool(content or reasoning or says_more)
        if says_more or choice.finish_reason:
            self._swallowing.must_be_over()
        elif not content and not reasoning:
            return None
        rest.content, rest.reasoning = content, reasoning
        if self._is_chat:
            return Choice(0, rest, None, choice.finish_reason, choice.logprobs)
        return Choice(choice.index, None, content, choice.finish_reason, choice.logprobs)

    def _new_texts(self, choice: Choice, delta: Delta) -> tuple[str, str]:
        reasoning = delta.thought or ""
        content = delta.content or choice.text or ""
        self.has_heard = self.has_heard or bool(reasoning or content)
        if not isinstance(content, str):
            raise Diverged("it answers in parts, not in text")
        if reasoning and self._is_continued and self._said.content:
            raise Diverged("asked to continue, it begins anew")
        reasoning = self._swallowing.new_in("reasoning", reasoning)
        return self._swallowing.new_in("content", content), reasoning
