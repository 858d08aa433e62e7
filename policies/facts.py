"""What a decision may know of a call."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec


class Need(StrEnum):
    """What a call asks for beyond its kind, and not every backend has; the values are the names in the configuration's `can`.

    A backend without it would not refuse: it would answer poorer and say nothing of it, blame the client, or fail.
    """

    MANY_CHOICES = "n"  # above 1
    BEST_OF = "best_of"  # above n: more is written than is answered
    ECHO = "echo"  # the prompt before its completion
    SUFFIX = "suffix"  # what comes after the completion
    FUNCTIONS = "functions"  # a chat's form before tools
    LOGPROBS = "logprobs"
    IMAGES = "images"
    AUDIO = "audio"  # heard or spoken
    VIDEO = "video"
    FILES = "files"
    TOOLS = "tools"  # offered, and not forbidden by `tool_choice`
    CUSTOM_TOOLS = "custom_tools"  # of chat: offered, of another type than `function`, whatever `tool_choice` says


NO_NEEDS: frozenset[Need] = frozenset()  # of a plain call: one and the same object

# These cost few tokens and many bytes: a prompt that holds them may be short, however long its body is.
MEDIA = frozenset({Need.IMAGES, Need.AUDIO, Need.VIDEO, Need.FILES})


class CallFacts(msgspec.Struct, frozen=True, gc=False):
    """The facts of one call, read once.

    `model` is the public name. `kind` is chat, completions, embeddings, responses, messages, tokenize or pass; `path` tells calls of
    the kind pass apart, and is empty for all others. `headers` are keyed by lower-case names. `prompt_bytes` is the size of the
    request's body. `messages` is the raw JSON of the field, empty where there is none. `needs` is NO_NEEDS for a plain call. `pin`
    names a backend that the caller asked for and may ask for; who may is not decided here.
    """

    model: str
    kind: str
    headers: Mapping[str, str]
    stream: bool
    tools: bool
    prompt_bytes: int
    user: str | None
    messages: bytes | msgspec.Raw
    pin: str | None = None
    needs: frozenset[Need] = NO_NEEDS
    path: str = ""

    @property
    def api(self) -> str:
        """What a backend has or lacks as a whole: the kind, or the path that is sent on as it is."""
        return self.path or self.kind
