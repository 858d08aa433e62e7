"""What can stand in the demo's way; each message is a sentence with its remedy."""

from __future__ import annotations


class DemoFailed(Exception):
    """The demo cannot go on."""


class Unavailable(Exception):
    """One engine cannot be had here; the demo goes on with another in its part."""


class Stopped(Exception):
    """The user asked to stop while something was being set up."""
