"""The section `backends`: the servers that answer calls."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from router.config.parts import Count, EnvName, Freeform, Origin, Seconds, SecondsOrZero, Section, Text


class Engine(Section):
    """A vLLM engine that Crossfade starts and supervises."""

    model: Text = Field(description="What the engine loads: a name on the model hub, or a folder.")
    profile: Text | None = Field(default=None, description="Name of a set of engine arguments for a kind of machine.")
    args: Freeform = Field(
        default_factory=dict, description="Further engine arguments by their long names, such as max-model-len: 32768."
    )
    start_s: Seconds = Field(default=900, description="Seconds the engine may take until it answers.")


class BackendTimeouts(Section):
    """Timeouts of one backend; what is not set here is taken from the model."""

    connect_s: Seconds | None = Field(default=None, description="Overrides the model's connect_s (seconds).")
    first_token_s: Seconds | None = Field(default=None, description="Overrides the model's first_token_s (seconds).")
    first_token_per_kib_s: SecondsOrZero | None = Field(
        default=None, description="Overrides the model's first_token_per_kib_s (seconds)."
    )
    between_tokens_s: Seconds | None = Field(
        default=None, description="Overrides the model's between_tokens_s (seconds)."
    )
    answer_s: Seconds | None = Field(default=None, description="Overrides the model's answer_s (seconds).")
    total_s: Seconds | None = Field(
        default=None,
        description="Seconds for one attempt on this backend; the model's total_s holds for the whole call.",
    )
    ping_after_s: Seconds | None = Field(default=None, description="Overrides the model's ping_after_s (seconds).")


def _replicas(given: dict[str, Any]) -> tuple[str, ...]:
    return (given["url"],) if given.get("url") else ()


class BackendConfig(Section):
    """A server, or a group of equal servers, that can answer calls."""

    kind: Literal["openai", "vllm", "lmstudio", "llama-server", "litellm"] = Field(
        description="What speaks there; openai is any compatible server, litellm any provider that LiteLLM knows."
    )
    url: Origin | None = Field(default=None, description="Address of the server, such as http://127.0.0.1:8001.")
    urls: tuple[Origin, ...] = Field(
        default_factory=_replicas, description="Addresses of several equal servers (replicas), instead of url."
    )
    provider: Text | None = Field(default=None, description="Only for kind litellm: LiteLLM's name of the provider.")
    key_env: EnvName | None = Field(
        default=None, description="Environment variable with the key that this backend asks for; unset: none is sent."
    )
    max_in_flight: Count | None = Field(
        default=None,
        description="Calls running at once, for each replica in rotation; unset: no limit. LM Studio: its parallel slots.",
    )
    on_client_gone: Literal["cancel", "drain"] = Field(
        default="cancel",
        description="When a client leaves: cancel the call on the backend, or read its answer to the end, holding its place (drain).",
    )
    verify: bool = Field(default=True, description="Whether the server's TLS certificate is checked (https only).")
    ca_file: Text | None = Field(
        default=None, description="PEM file of the authority that signed the server's certificate; unset: the system's."
    )
    engine: Engine | None = Field(
        default=None, description="Only for kind vllm: Crossfade starts and supervises the engine."
    )
    timeouts: BackendTimeouts = Field(
        default_factory=BackendTimeouts, description="Timeouts of this backend, each overriding the model's."
    )
