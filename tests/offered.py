"""What clients offer to be called, in the form of each API."""

from __future__ import annotations

A_TOOL = {"type": "function", "function": {"name": "sky", "parameters": {"type": "object"}}}
"""Of chat."""

A_RESPONSES_TOOL = {"type": "function", "name": "sky", "parameters": {"type": "object"}}
A_MESSAGES_TOOL = {"name": "sky", "input_schema": {"type": "object"}}
