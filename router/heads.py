"""What may be wrong with the head of a request that the parser lets through: its size, its framing, the host it asks for."""

from __future__ import annotations

from router.doors import Hosts
from router.faults import Fault

MAX_HEADERS = 100  # Apache's default
MAX_HEAD_BYTES = 32_768  # the sum of nginx's default buffers
MAX_URL_BYTES = 8_192  # RFC 9110 asks for 8,000 at least; nginx's default for a line

VERSIONS = ("1.1", "1.0")

Lines = list[tuple[bytes, bytes]]


def bad(status: int, message: str) -> Fault:
    """What came is no request that can be answered."""
    return Fault(status, message, "invalid_request_error", "bad_request")


NOT_HTTP = bad(400, "The request is not valid HTTP/1.1.")
ONE_HOST = bad(400, "A request needs one Host header.")
NO_SUCH_CODING = bad(400, "Of the transfer codings only `chunked` is read, and only in HTTP/1.1.")
URL_TOO_LONG = bad(414, f"The URL is longer than {MAX_URL_BYTES} bytes.")
HEAD_TOO_LONG = bad(431, f"The head of the request is longer than {MAX_HEAD_BYTES} bytes.")
TOO_MANY_HEADERS = bad(431, f"A request may carry {MAX_HEADERS} headers.")


def fault_of_head(url: bytes, lines: Lines, version: str, hosts: Hosts) -> Fault | None:
    """Why a request with these header lines (names in small letters) must not become one; None where nothing is wrong."""
    return _fault_of_size(url, lines) or _fault_of_framing(url, lines, version) or _fault_of_host(lines, version, hosts)


def _fault_of_size(url: bytes, lines: Lines) -> Fault | None:
    if len(url) > MAX_URL_BYTES:
        return URL_TOO_LONG
    if len(lines) > MAX_HEADERS:
        return TOO_MANY_HEADERS
    size = sum(len(name) + len(value) + 4 for name, value in lines)
    return HEAD_TOO_LONG if size > MAX_HEAD_BYTES else None


def _fault_of_framing(url: bytes, lines: Lines, version: str) -> Fault | None:
    if version not in VERSIONS or b"#" in url:
        return NOT_HTTP
    codings = [value.lower() for name, value in lines if name == b"transfer-encoding"]
    if codings and (
        codings != [b"chunked"] or version == "1.0"
    ):  # RFC 9112 section 6.1: in HTTP/1.0 its framing is faulty
        return NO_SUCH_CODING
    return None


def _fault_of_host(lines: Lines, version: str, hosts: Hosts) -> Fault | None:
    asked = [value for name, value in lines if name == b"host"]
    if not asked and version == "1.0":  # which knew no Host; RFC 9112 section 3.2
        return None
    return hosts.fault_of(asked[0].decode("latin-1")) if len(asked) == 1 else ONE_HOST
