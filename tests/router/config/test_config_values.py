"""Each single value that can be wrong, or that is taken in another form than it is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from router.config import Loaded, Problem

Problems = Callable[..., tuple[Problem, ...]]
Load = Callable[..., Loaded]
JANE = "models/jane/"

# path, value, what the sentence says
WRONG: dict[str, tuple[str, Any, str]] = {
    "a port that is text": ("server/port", "x", 'is "x"; a whole number is needed'),
    "a port that is true": ("server/port", True, "is true; a number is needed"),
    "a port beyond 65535": ("server/port", 65536, "at most 65535"),
    "seconds with a unit": ("server/drain_s", "30s", "Write seconds as a number, such as 30."),
    "zero seconds": (JANE + "timeouts/connect_s", 0, "must be more than 0"),
    "milliseconds instead of seconds": (JANE + "timeouts/total_s", 300_000_000, "The unit is seconds"),
    "zero seconds on a backend": ("backends/vllm/timeouts/answer_s", 0, "must be more than 0"),
    "a section that is a list": (JANE + "retry", [1], "is a list; a mapping of keys is needed"),
    "a list that is text": (JANE + "fallback", "vllm", "a list is needed. Put it in [ ]."),
    "a range from long to short": (JANE + "retry/backoff_s", [2, 1], "Put the smaller one first."),
    "a range of one": (JANE + "eject/for_s", [5], "has 1 values"),
    "no attempts at all": (JANE + "retry/attempts_per_backend", 0, "must be at least 1"),
    "an eject share above 1": (JANE + "eject/at_most_share", 1.5, "must be at most 1"),
    "an unknown choice": (JANE + "report_model", "publik", "Did you mean `public`?"),
    "a header value that is a number": (
        JANE + "rules",
        [{"when": {"header": {"x-a": 1}}, "use": "vllm"}],
        'Put it in quotes: "1".',
    ),
    "a header's name with a space": (
        JANE + "rules",
        [{"when": {"header": {"x a": "1"}}, "use": "vllm"}],
        "is not a header's name",
    ),
    "an unknown way to recognise callers": (JANE + "stick_by", ["cookie"], "Write header:NAME, user or conversation."),
    "a header without a name": (JANE + "stick_by", ["header:"], "Write header:NAME"),
    "a network that is none": ("server/allow_from", ["10.0.0.0/64"], "which is no network"),
    "a Host header with a scheme": ("server/hosts", ["http://x"], "which is no Host header"),
    "a listening address with a port": ("server/host", "127.0.0.1:8000", "which is no address to listen on"),
    "a path that is not below /v1": ("server/pass_paths", ["/metrics"], "only exact paths below /v1/"),
    "a path that climbs": ("server/pass_paths", ["/v1/../admin"], "only exact paths below /v1/"),
    "a store that is unknown": ("store/url", "mysql://u:secret@h/d", "is no store"),
    "a pattern that does not compile": ("store/redact", ["("], "is no regular expression"),
    "a webhook that cannot be called": (
        JANE + "rollout",
        {"baseline": "lmstudio", "candidate": "vllm", "webhooks": ["x"]},
        "is no URL",
    ),
    "a key where a variable's name belongs": (
        "backends/vllm/key_env",
        "sk-secret",
        "is not the name of an environment variable",
    ),
    "an URL of another scheme": ("backends/lmstudio/url", "ftp://x", "does not begin with http:// or https://"),
    "an URL without a scheme": ("backends/lmstudio/url", "localhost:1234", "does not begin with http:// or https://"),
    "an URL without a host": ("backends/lmstudio/url", "http://", "names no server"),
    "an URL with port 0": ("backends/lmstudio/url", "http://x:0", "names no server"),
    "an URL with a port that is none": ("backends/lmstudio/url", "http://x:99999", "is no URL"),
    "an URL with half an address": ("backends/lmstudio/url", "http://[::1", "is no URL"),
    "an URL with a password": ("backends/lmstudio/url", "http://u:secret@x", "carries a user name or password"),
    "an URL with a query": ("backends/lmstudio/url", "http://x/?a=1", "has a query or a fragment"),
    "an URL with a fragment": ("backends/lmstudio/url", "http://x/#a", "has a query or a fragment"),
    "an URL with a space": ("backends/lmstudio/url", "http://x y", "holds spaces"),
    "an URL of an endpoint": (
        "backends/lmstudio/url",
        "http://x:1/v1/chat/completions",
        "has the path /v1/chat/completions. Write only http://x:1;",
    ),
    "seconds that are not a number": (JANE + "hedge", {"after_s": float("nan")}, "finite number is needed"),
    "a free value that JSON cannot carry": (
        JANE + "sampling",
        {"x": [float("inf")]},
        "holds a number that is not finite",
    ),
    "a name on a backend that is empty": (JANE + "on/vllm", "", "must not be empty"),
    "a name on a backend that is a number": (JANE + "on/vllm", 5, "a mapping of keys is needed"),
}


@pytest.mark.parametrize(("path", "value", "words"), WRONG.values(), ids=WRONG.keys())
def test_each_wrong_value_is_one_sentence(problems_with: Problems, path: str, value: Any, words: str) -> None:
    problems = problems_with({path: value})
    assert len(problems) == 1, problems
    assert words in str(problems[0])
    assert problems[0].key.startswith(path.replace("/", "."))


LEAKS = [
    *(
        (path, value)
        for path in ("backends/vllm/key_env", "server/keys_env")
        for value in ("sk-hunter2", "sk_hunter2", ["hunter2"])
    ),
    ("backends/lmstudio/url", "http://u:hunter2@host"),
    ("store/url", "mysql://u:hunter2@host/db"),
    ("store/url", ["hunter2"]),
    (JANE + "rollout", {"baseline": "lmstudio", "candidate": "vllm", "webhooks": ["https://u:hunter2@host/x"]}),
]


@pytest.mark.parametrize(("path", "value"), LEAKS, ids=str)
def test_a_secret_at_the_wrong_place_is_not_repeated(problems_with: Problems, path: str, value: Any) -> None:
    problems = problems_with({path: value, "server/host": "0.0.0.0"})
    assert all("hunter2" not in str(problem) for problem in problems)
    assert problems


TAKEN: dict[str, tuple[str, str]] = {
    "as it is": ("http://127.0.0.1:8001", "http://127.0.0.1:8001"),
    "a slash at the end": ("http://h:1/", "http://h:1"),
    "/v1 at the end": ("http://h:1/v1", "http://h:1"),
    "/v1/ at the end": ("https://h/v1/", "https://h"),
    "capitals": ("HTTP://Host.LAN:1", "http://host.lan:1"),
    "IPv6": ("http://[::1]:8001", "http://[::1]:8001"),
    "a name with an underscore": ("http://my_engine:8001", "http://my_engine:8001"),
}


@pytest.mark.parametrize(("given", "taken"), TAKEN.values(), ids=TAKEN.keys())
def test_an_address_is_taken_as_its_origin(load_with: Load, given: str, taken: str) -> None:
    assert load_with({"backends/lmstudio/url": given}).config.backends["lmstudio"].urls == (taken,)


def test_headers_are_taken_in_small_letters(load_with: Load) -> None:
    rules = [{"when": {"header": {"X-Canary": "Always"}}, "use": "vllm"}]
    jane = load_with({JANE + "stick_by": ["header:X-User-Id"], JANE + "rules": rules}).config.models["jane"]
    assert jane.stick_by == ("header:x-user-id",)
    assert jane.rules[0].when.header == {"x-canary": "Always"}


@pytest.mark.parametrize("given", ["crossfade.lan", "LLM.example.org:8080", "10.0.0.5", "[::1]:8000", "::1"])
def test_host_headers_that_are_accepted(load_with: Load, given: str) -> None:
    assert load_with({"server/hosts": [given]}).config.server.hosts == (given.lower(),)


@pytest.mark.parametrize(("given", "taken"), [("yes", "yes"), (True, "yes"), (False, "no"), ("auto", "auto")])
def test_continues_is_taken_as_a_word_or_a_boolean(load_with: Load, given: Any, taken: str) -> None:
    on = load_with({JANE + "on/vllm": {"name": "m", "continues": given}}).config.models["jane"].on
    assert on["vllm"].continues == taken


@pytest.mark.parametrize(
    "sampling",
    [{"temperature": 0, "top_p": 0}, {"temperature": 2, "top_p": 1.0}, {"presence_penalty": -2, "frequency_penalty": 2},
     {"max_tokens": 1, "max_completion_tokens": 1_000_000}, {"temperature": None, "max_tokens": None},
     {"top_k": 400, "min_p": 0.05, "repetition_penalty": 3}],
)  # fmt: skip
def test_sampling_takes_what_openais_api_takes_and_what_it_does_not_know(load_with: Load, sampling: Any) -> None:
    assert load_with({JANE + "sampling": sampling}).config.models["jane"].sampling == sampling


def test_shares_may_miss_1_by_their_rounding(load_with: Load) -> None:
    load_with({JANE + "split": {"lmstudio": 0.3333333, "vllm": 0.6666666}})
