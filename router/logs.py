"""What is logged, one record a line on stderr: what a client or a backend said can neither forge a record nor reach the terminal."""

from __future__ import annotations

import logging
import re
import sys

# C0 and C1 (ANSI sequences begin with one of them), and what else some viewer takes for a line's end or turns the text around.
_UNSEEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_FURTHER_LINE = "\n    | "  # of a traceback; a record begins with its time


class OneRecord(logging.Formatter):
    """A record is one line; a traceback's further lines are set off so that none can be taken for another record."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's text."""
        text = super().format(record)
        if text.isprintable() and text.isascii():
            return text
        return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text).replace("\n", _FURTHER_LINE)

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The record without its traceback: a line break in it is no line's end."""
        return super().formatMessage(record).replace("\n", "\\n")


def set_up_logging(level: int = logging.INFO) -> None:
    """Everything goes to stderr; of uvicorn and asyncio only errors: a client's malformed request is counted, not logged."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneRecord("%(asctime)s %(levelname)s %(name)s %(message)s"))
    for name in ("crossfade", "uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level if name == "crossfade" else logging.ERROR)
        logger.propagate = False
