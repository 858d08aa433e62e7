"""A second backend's stream, made the rest of the first's: same id, model and created, one role, no character twice, usage that adds up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from backends.errors import Diverged
from backends.transcript import Said

_EVENT = msgspec.json.Decoder(dict[str, Any])
_REASONING = ("reasoning", "reasoning_content")


@dataclass(frozen=True, slots=True)
class Counted:
    """Tokens that the second backend was given as its prompt and the client has as its answer; `reasoning` of them are reasoning.

    `prompt`: the conversation's own, None where it is known only as the rest.
    """

    answer: int = 0
    reasoning: int = 0
    prompt: int | None = None

    def add_up(self, usage: Mapping[str, Any]) -> dict[str, Any]:
        """The usage of the whole answer: the tokens sent move from the prompt's side to the answer's, the total stays."""
        added = dict(usage)
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if not isinstance(prompt, int) or not isinstance(completion, int):
            return added
        own = max(1, prompt - self.answer) if self.prompt is None else min(self.prompt, prompt)
        added["prompt_tokens"], added["completion_tokens"] = own, completion + prompt - own
        added["total_tokens"] = prompt + completion
        _change(added, "prompt_tokens_details", "cached_tokens", lambda cached: min(cached, own))
        _change(added, "completion_tokens_details", "reasoning_tokens", lambda tokens: tokens + self.reasoning)
        return added


def _change(usage: dict[str, Any], details: str, name: str, change: Any) -> None:
    found = usage.get(details)
    if isinstance(found, dict) and isinstance(found.get(name), int):
        usage[details] = {**found, name: change(found[name])}


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
    """Turns each event of the second stream into one of the first's, or into nothing.

    `is_continued`: the second stream goes on in mid-answer. Then it has nothing to swallow, and if it reasons although the answer had
    begun, it has begun a new one.
    """

    __slots__ = ("_counted", "_is_chat", "_is_continued", "_said", "_swallowing", "has_heard", "has_new")

    def __init__(self, said: Said, counted: Counted, *, is_continued: bool, is_chat: bool):
        self._said = said
        self._counted = counted
        self._is_continued = is_continued
        self._is_chat = is_chat
        self._swallowing = Swallowing("", "") if is_continued else Swallowing(said.content, said.reasoning)
        self.has_heard = False  # whether the latest event had text, known or not
        self.has_new = False  # whether it has text that goes to the client

    def take(self, data: bytes) -> bytes | None:
        """The event for the client; None where it says nothing new. Raises Diverged."""
        event = _EVENT.decode(data)
        self.has_heard = self.has_new = False
        choices = [self._choice(choice) for choice in event.get("choices") or ()]
        if choices and not any(choices):
            return None
        event["choices"] = [choice for choice in choices if choice]
        if usage := event.get("usage"):
            event["usage"] = self._counted.add_up(usage)
        return msgspec.json.encode(self._as_first(event))

    def _as_first(self, event: dict[str, Any]) -> dict[str, Any]:
        identity = self._said.identity
        if "system_fingerprint" not in identity:
            event.pop("system_fingerprint", None)  # nor may a second one appear
        return {**event, **identity}

    def _choice(self, choice: dict[str, Any]) -> dict[str, Any] | None:
        """The choice with what is new in it; None where there is nothing."""
        new = self._new_texts(choice)
        self.has_new = self.has_new or bool(new)
        delta = dict(choice.get("delta") or {}) if self._is_chat else {}
        for name in ("role", "content", *_REASONING):
            delta.pop(name, None)
        says_more = any(delta.values()) or bool(choice.get("finish_reason"))
        if not new and not says_more:
            return None
        if says_more:
            self._swallowing.must_be_over()
        self.has_new = self.has_new or any(delta.values())
        return self._written(choice, {**new, **delta})

    def _written(self, choice: dict[str, Any], delta: dict[str, Any]) -> dict[str, Any]:
        written = {name: value for name, value in choice.items() if name not in ("delta", "text")}
        if not self._is_chat:
            return {"text": delta.get("content", ""), **written}
        return {"index": 0, "delta": delta, **{name: value for name, value in written.items() if name != "index"}}

    def _new_texts(self, choice: dict[str, Any]) -> dict[str, str]:
        delta = choice.get("delta") or {}
        reasoning = next((delta[name] for name in _REASONING if delta.get(name)), "")
        content = delta.get("content") or choice.get("text") or ""
        self.has_heard = self.has_heard or bool(reasoning or content)
        if not isinstance(content, str):
            raise Diverged("it answers in parts, not in text")
        if reasoning and self._is_continued and self._said.content:
            raise Diverged("asked to continue, it begins anew")
        texts = {
            self._said.reasoning_name: self._swallowing.new_in("reasoning", reasoning),
            "content": self._swallowing.new_in("content", content),
        }
        return {name: text for name, text in texts.items() if text}
