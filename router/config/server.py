"""The sections `server` and `store`: where Crossfade listens, whom it lets in, what it keeps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from router.config.parts import (
    NOT_BOOL,
    AcceptedHost,
    Count,
    EnvName,
    ListenHost,
    Network,
    PassPath,
    Pattern,
    Seconds,
    SecondsOrZero,
    Section,
    StoreUrl,
)

Port = Annotated[int, Field(ge=1, le=65535), NOT_BOOL]

PASS_PATHS = ("/v1/rerank", "/v1/score", "/v1/audio/transcriptions", "/v1/audio/speech")


class ClientKeys(Section):
    """A group of clients with keys of their own."""

    key_env: EnvName = Field(description="Environment variable with this group's keys, comma-separated.")
    may_pin: bool = Field(
        default=False, description="Whether these clients may choose a backend with x-crossfade-backend."
    )
    priority: Literal["interactive", "batch"] = Field(
        default="interactive", description="Who waits when there is not enough room: batch waits first."
    )
    max_in_flight: Count | None = Field(
        default=None, description="Calls this group may have running at once; unset: no limit."
    )
    calls_per_min: Count | None = Field(
        default=None, description="Calls this group may begin per minute; unset: no limit."
    )


class Admin(Section):
    """The listener and the keys of the admin API."""

    host: ListenHost | None = Field(
        default=None, description="Address of the admin API's own listener; unset: the server's."
    )
    port: Port | None = Field(default=None, description="Port of the admin API's own listener; unset: the server's.")
    key_env: EnvName = Field(
        default="CROSSFADE_ADMIN_KEY",
        description="Environment variable with the admin key. If it is not set, a key is made at the first start.",
    )
    viewer_key_env: EnvName | None = Field(
        default=None, description="Environment variable with a key that may look at everything and change nothing."
    )


class Server(Section):
    """Where Crossfade listens, whom it lets in and how much it takes on."""

    host: ListenHost = Field(
        default="127.0.0.1",
        description="Address to listen on. Beyond loopback, keys (keys_env) or client networks (allow_from) are required.",
    )
    port: Port = Field(default=8000, description="Port to listen on.")
    workers: Annotated[int, Field(ge=1, le=256), NOT_BOOL] = Field(
        default=1, description="Processes; they share one routing state."
    )
    keys_env: EnvName | None = Field(
        default="CROSSFADE_KEYS",
        description="Environment variable with the clients' keys, comma-separated. If it is not set, no key is needed.",
    )
    clients: tuple[ClientKeys, ...] = Field(
        default=(), description="Groups of clients with keys and limits of their own."
    )
    allow_from: tuple[Network, ...] = Field(
        default=(), description="Networks (CIDR) whose clients need no key. Never valid for the admin API."
    )
    hosts: tuple[AcceptedHost, ...] = Field(
        default=(),
        description="Further Host headers to accept. Addresses, loopback, names without a dot, .local and .internal need no entry.",
    )
    admin: Admin = Field(default_factory=Admin, description="The admin API's own listener and keys.")
    drain_s: SecondsOrZero = Field(
        default=30, description="Seconds that running calls get to finish when the server stops; 0 ends them at once."
    )
    max_body_bytes: Count = Field(
        default=10_485_760, description="Largest request body in bytes; larger ones get a 413."
    )
    max_in_flight: Count = Field(
        default=512, description="Calls running at once, over all workers; further ones wait in the queue."
    )
    queue_size: Annotated[int, Field(ge=0, le=1_000_000), NOT_BOOL] = Field(
        default=1024,
        description="Calls that may wait for room, divided among the workers; further ones get a 503 at once.",
    )
    queue_wait_s: Seconds = Field(
        default=10,
        description="Seconds a call may wait for room; one that would most likely wait in vain gets a 503 at once.",
    )
    pass_paths: tuple[PassPath, ...] = Field(
        default=PASS_PATHS, description="Further paths that are sent on by their `model`, exactly as they are."
    )


class Store(Section):
    """What is kept of the calls, where, and for how long."""

    url: StoreUrl = Field(
        default="sqlite:///crossfade.db",
        repr=False,
        description="Where state and history are kept: sqlite:///FILE (relative to this file), or postgresql://… for several machines.",
    )
    keep_days: Annotated[int, Field(ge=1, le=3650), NOT_BOOL] = Field(
        default=14, description="Days that calls and comparisons are kept."
    )
    keep_bodies: Literal["none", "shadowed", "all"] = Field(
        default="shadowed",
        description="Whose request and answer texts are kept: nobody's, only shadowed calls', or all.",
    )
    redact: tuple[Pattern, ...] = Field(
        default=(), description="Regular expressions; what they match is blacked out before anything is written."
    )
