"""Benchmarks of Crossfade. They run from a checkout and are no part of the package."""
