"""The rule for Host headers: no page on the internet can own a name that is accepted unasked."""

from __future__ import annotations

import pytest

from router.doors import Hosts

RULE = Hosts(("LLM.example.org", "gpu.example.org:8080", "dotted.example.org."))

ACCEPTED = [
    "localhost", "LOCALHOST:8000", "localhost.", "app.localhost", "127.0.0.1", "127.0.0.1:8000", "127.9.9.9:1", "[::1]", "[::1]:8000",
    "192.168.1.85:1234", "10.0.0.1", "[fd00::7]:8000", "[::ffff:127.0.0.1]", "0.0.0.0:8000", "8.8.8.8",
    "crossfade", "crossfade:8000", "my_service-1:80", "gpu.local", "host.docker.internal:8000", "nas.home.arpa",
    "crossfade.default.svc.cluster.local", "llm.example.org", "llm.example.org:443", "LLM.EXAMPLE.ORG.", "gpu.example.org:8080",
    "dotted.example.org", "127.0.0.1:",
]  # fmt: skip
WRONG = [
    "evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "evil.localhost.com", "evillocal.com",
    "llm.example.org.evil.example", "x.llm.example.org", "gpu.example.org", "gpu.example.org:8081", "127.1.evil", "1.2.3", "127.1", "a.b",
    "1.example.org", "internal.example", "[1.2]",
]  # fmt: skip
POISONED = [
    "", " ", ":8000", "a/evil?", "a#", "a?b", "user@127.0.0.1", "user:pw@localhost", "http://localhost", "localhost:8000/x", "localhost:x",
    "localhost:123456", "localhost:80:80", "local host", "localhost,evil.example", "127.0.0.1\\@evil", "[::1", "::1]", "[::1]x",
    "[fe80::1%eth0]",     "[evil]", "ex\u00e4mple", "a%00b", "a;b", "<script>", "x" * 256, "*", "localhost\t", "[]", "..", ".",
]  # fmt: skip


@pytest.mark.parametrize("host", ACCEPTED)
def test_a_name_that_no_stranger_can_own_or_that_is_listed_is_accepted(host: str) -> None:
    assert RULE.fault_of(host) is None


@pytest.mark.parametrize("host", WRONG)
def test_a_name_that_somebody_may_own_is_misdirected_and_the_answer_says_the_remedy(host: str) -> None:
    fault = RULE.fault_of(host)
    assert fault is not None and fault.status == 421 and "server.hosts" in fault.message


@pytest.mark.parametrize("host", POISONED, ids=lambda host: repr(host)[:30])
def test_what_is_no_host_is_refused_and_not_repeated(host: str) -> None:
    fault = RULE.fault_of(host)
    assert fault is not None and fault.status == 400 and fault.message == "The Host header is not valid."


ORIGINS: list[tuple[str, bool]] = [
    ("http://127.0.0.1:8000", False),
    ("http://localhost:3000", False),
    ("https://llm.example.org", False),
    ("https://evil.example", True),
    ("null", True),
    ("", True),
    ("http://[::1", True),
    ("file://", True),
    ("http://user@localhost", True),
]


@pytest.mark.parametrize(("origin", "is_foreign"), ORIGINS, ids=[repr(row[0]) for row in ORIGINS])
def test_a_page_is_foreign_unless_its_name_is_one_of_ours(origin: str, is_foreign: bool) -> None:
    assert RULE.is_foreign(origin) is is_foreign
