"""Decisions: pure functions and values, with no I/O, clock or global chance."""
