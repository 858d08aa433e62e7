"""The types that keys are made of: shares, seconds, names, addresses; and the base of every section."""

from __future__ import annotations

import ipaddress
import math
import re
from types import NoneType
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from router.config.scalars import FromEnvironment, interpreted, is_null

MAX_S = 2_592_000.0  # 30 days: longer is a slip of the unit (milliseconds)
MAX_COUNT = 1 << 50  # keeps sums exact in doubles, and timers and sizes inside 64 bits

_BACKEND_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_ENV_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,127}"
_HEADER_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}"  # RFC 9110, token
_HOST_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9_])?"
_FURTHER_PATH = r"/v1(?:/[A-Za-z0-9_-]+)+"


def invalid(message: str, remedy: str) -> PydanticCustomError:
    """The error of our own checks: `message` reads on from the key's name."""
    return PydanticCustomError("crossfade", "{message}", {"message": message, "remedy": remedy})


class Section(BaseModel):
    """A mapping of the file: frozen, unknown keys are errors, a key left empty keeps its default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_keeps_the_default(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        kept = {}
        fields = {field.alias or name: field for name, field in cls.model_fields.items()}
        for key, value in given.items():
            field = fields.get(key)
            if field is None or not is_null(value):
                kept[key] = value
            elif NoneType in get_args(field.annotation):
                kept[key] = None
        return kept


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise invalid(f"is {str(value).lower()}; a number is needed.", "Write a number.")
    return value


NOT_BOOL = BeforeValidator(_number)  # pydantic would read `true` as 1

Seconds = Annotated[float, Field(gt=0, le=MAX_S), NOT_BOOL]
SecondsOrZero = Annotated[float, Field(ge=0, le=MAX_S), NOT_BOOL]
Share = Annotated[float, Field(ge=0, le=1), NOT_BOOL]
PositiveShare = Annotated[float, Field(gt=0, le=1), NOT_BOOL]
Ratio = Annotated[float, Field(ge=0, le=MAX_COUNT), NOT_BOOL]
Count = Annotated[int, Field(ge=1, le=MAX_COUNT), NOT_BOOL]
CountOrZero = Annotated[int, Field(ge=0, le=MAX_COUNT), NOT_BOOL]


def _two(value: Any) -> Any:
    if isinstance(value, list) and len(value) != 2:
        raise invalid(f"has {len(value)} values; a shortest and a longest are needed.", "Write two: [0.1, 2.0].")
    return value


def _rising(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise invalid(f"begins with {value[0]:g} and ends with {value[1]:g}.", "Put the smaller one first.")
    return value


SecondsRange = Annotated[tuple[Seconds, Seconds], BeforeValidator(_two), AfterValidator(_rising)]


def _backend_name(value: str) -> str:
    if re.fullmatch(_BACKEND_NAME, value):
        return value
    message = "cannot name a backend: it stands in headers, commands and metrics."
    raise invalid(message, "Use letters, digits, '.', '_' and '-', at most 64, beginning with a letter or digit.")


def _public_name(value: str) -> str:
    if 1 <= len(value) <= 200 and value.isprintable() and value == value.strip():
        return value
    message = "cannot name a model: it is empty, too long, or holds characters that cannot be seen."
    raise invalid(message, "Use 1 to 200 printable characters, with no space at the ends.")


def _env_name(value: str) -> str:
    if re.fullmatch(_ENV_NAME, value):
        return value
    # The value is not repeated: people paste the secret itself here.
    message = "is not the name of an environment variable."
    raise invalid(message, "Put the secret into a variable, and write the variable's name here, such as MY_API_KEY.")


def _header_name(value: str) -> str:
    if re.fullmatch(_HEADER_NAME, value):
        return value.lower()
    raise invalid("is not a header's name.", "Write it as in x-user-id.")


def _stick_by(value: str) -> str:
    kind, _, name = value.partition(":")
    if value in ("user", "conversation"):
        return value
    if kind == "header" and re.fullmatch(_HEADER_NAME, name):
        return f"header:{name.lower()}"
    message = f"is {value[:60]!r}; a caller is recognised by a header, the `user` field or the conversation."
    raise invalid(message, "Write header:NAME, user or conversation.")


def _network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value, strict=False))
    except ValueError:
        raise invalid(f"is {value[:60]!r}, which is no network.", "Write it as 10.0.0.0/8 or fd00::/8.") from None


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _listen_host(value: str) -> str:
    if _is_ip(value) or re.fullmatch(_HOST_NAME, value):
        return value
    message = f"is {value[:60]!r}, which is no address to listen on."
    raise invalid(message, "Write an IP address or a host name without scheme and port, such as 127.0.0.1.")


def _accepted_host(value: str) -> str:
    bare = re.sub(r":[0-9]{1,5}$", "", value) if not _is_ip(value) else value
    if re.fullmatch(_HOST_NAME, bare) or _is_ip(bare.removeprefix("[").removesuffix("]")):
        return value.lower()
    message = f"is {value[:60]!r}, which is no Host header."
    raise invalid(message, "Write a host name, with its port if it has one: llm.example.org or llm.example.org:8080.")


def _pass_path(value: str) -> str:
    if re.fullmatch(_FURTHER_PATH, value) and len(value) <= 200:
        return value
    raise invalid(f"is {value[:60]!r}; only exact paths below /v1/ are passed on.", "Write it as in /v1/rerank.")


def _store_url(value: str) -> str:
    # The value is not repeated: it may hold a password.
    if re.fullmatch(r"sqlite:///[^?#\s]+", value) or re.fullmatch(r"postgres(?:ql)?://\S+", value):
        return value
    raise invalid("is no store that Crossfade knows.", "Write sqlite:///FILE or postgresql://HOST/DATABASE.")


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as exc:
        raise invalid(f"is no regular expression: {exc}.", "Correct the expression.") from None
    return value


def origin(value: str) -> str:
    """A server's scheme, host and port, from a URL as people paste it: `/` and `/v1` at the end are taken off."""
    remedy = "Write it as http://HOST:PORT."
    if not value.isascii() or not value.isprintable() or " " in value:
        raise invalid("holds spaces or characters that no URL has.", remedy)
    if "@" in value:  # not repeated: what stands before the @ may be a password
        raise invalid("carries a user name or password.", "Write it without, and name the key's variable in key_env.")
    wrong = f"is {value[:80]!r}, which"
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise invalid(f"{wrong} is no URL.", remedy) from None
    if parts.scheme not in ("http", "https"):
        raise invalid(f"{wrong} does not begin with http:// or https://.", remedy)
    host = parts.hostname or ""
    if not (re.fullmatch(_HOST_NAME, host) or _is_ip(host)) or port == 0:
        raise invalid(f"{wrong} names no server.", remedy)
    if "?" in value or "#" in value:
        raise invalid(f"{wrong} has a query or a fragment.", remedy)
    name = f"[{host}]" if ":" in host else host
    result = f"{parts.scheme}://{name}" + (f":{port}" if port is not None else "")
    if parts.path.rstrip("/") not in ("", "/v1"):
        raise invalid(
            f"{wrong} has the path {parts.path[:60]}.", f"Write only {result}; the paths of the API are added."
        )
    return result


def _webhook(value: str) -> str:
    # The value is not repeated: a webhook's path is often its secret.
    try:
        parts = urlsplit(value)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
    except ValueError:
        is_usable = False
    if is_usable and value.isascii() and value.isprintable() and " " not in value:
        return value
    raise invalid("is no URL that can be called.", "Write it as https://HOST/PATH, without user name and password.")


def _yes_or_no(value: Any) -> Any:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value  # as tools that write YAML 1.1 do


def _retyped(value: Any) -> Any:
    """Free-form values have no type of their own: what came from the environment is read as YAML."""
    if isinstance(value, FromEnvironment):
        return _retyped(interpreted(str(value)))
    if isinstance(value, float) and not math.isfinite(value):
        raise invalid("holds a number that is not finite, which JSON cannot carry.", "Write a finite number.")
    if isinstance(value, dict):
        return {key: _retyped(item) for key, item in value.items()}
    return [_retyped(item) for item in value] if isinstance(value, list) else value


Text = Annotated[str, Field(min_length=1, max_length=1000)]
BackendName = Annotated[str, AfterValidator(_backend_name), Field(json_schema_extra={"pattern": f"^{_BACKEND_NAME}$"})]
PublicName = Annotated[str, AfterValidator(_public_name), Field(json_schema_extra={"minLength": 1, "maxLength": 200})]
EnvName = Annotated[str, AfterValidator(_env_name), Field(json_schema_extra={"pattern": f"^{_ENV_NAME}$"})]
HeaderName = Annotated[str, AfterValidator(_header_name)]
StickBy = Annotated[str, AfterValidator(_stick_by)]
Network = Annotated[str, AfterValidator(_network)]
ListenHost = Annotated[str, AfterValidator(_listen_host)]
AcceptedHost = Annotated[str, AfterValidator(_accepted_host)]
PassPath = Annotated[str, AfterValidator(_pass_path), Field(json_schema_extra={"pattern": f"^{_FURTHER_PATH}$"})]
StoreUrl = Annotated[str, AfterValidator(_store_url)]
Pattern = Annotated[str, AfterValidator(_pattern), Field(max_length=1000)]
Origin = Annotated[str, AfterValidator(origin)]
Webhook = Annotated[str, AfterValidator(_webhook)]
Freeform = Annotated[dict[str, JsonValue], BeforeValidator(_retyped)]
YesNoAuto = Annotated[Literal["auto", "yes", "no"], BeforeValidator(_yes_or_no)]
