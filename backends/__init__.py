"""Talking to servers: transport, streams, dialects, probes and engine processes."""
