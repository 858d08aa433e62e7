"""The demo: two real engines on this machine with Crossfade in front, set up from nothing."""
