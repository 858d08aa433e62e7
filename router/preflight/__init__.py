"""`crossfade preflight`: asks every backend of a model the same small calls, and shows where the application could tell them apart."""
