"""What is wrong with a call itself, found before any backend is asked."""

from __future__ import annotations


class BadCall(Exception):
    """The call is the client's to mend: `param` names the field, `code` is what SDKs key on."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.param = param
        self.code = code
