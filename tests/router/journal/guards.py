"""The guards of the store, for `tests.faults.guards`: name, file, what becomes what, and the tests that must notice."""

from __future__ import annotations

_STORE = "router/journal/store.py"
_SQLITE = "router/journal/sqlite.py"
_POSTGRES = "router/journal/postgres.py"
_JOURNAL = "router/journal/journal.py"
_SIDECAR = "router/journal/sidecar.py"
_BOTH = "tests/router/journal/test_store.py"
_BROKEN = "tests/router/journal/test_broken_files.py"
_SERVER = "tests/router/journal/test_postgres.py"
_FOLLOWING = "tests/router/journal/test_following.py"
_LAST = "tests/router/journal/test_sidecar.py"

GUARDS_OF_THE_STORE = [
    ("what went into a deleted file is not acknowledged", _STORE, "await self._place.check()  # what went", "pass  # what went", _BROKEN),
    ("a deleted file is not written", _STORE, "await self._place.check()\n        try", "pass\n        try", _BROKEN),
    ("a store that has lost revisions is noticed", _STORE, "if last < number - 1:", "if False:", _BOTH),
    ("writers keep each other out of a file", _SQLITE, '"BEGIN IMMEDIATE"', '"BEGIN"', _BOTH),
    ("writers keep each other out of a database", _POSTGRES,
     'await connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})', "pass", _BOTH),
    ("what is committed is on the disk", _SQLITE, "synchronous=FULL", "synchronous=NORMAL", _BROKEN),
    ("a log that outlived its file is not played into the next", _SQLITE, 'for suffix in ("", *BESIDE):', 'for suffix in ("",):', _BROKEN),
    ("damage is found wherever it is", _SQLITE, "await self._judge()", "pass", _BROKEN),
    ("a damaged file is set aside once", _SQLITE, "return await self._use(fill)  # somebody", 'raise Lost("")  # somebody', _BROKEN),
    ("an empty file is none", _SQLITE, "if found.st_size else None", "", _FOLLOWING),
    ("what a dead process left is in nobody's way", _SQLITE, "await asyncio.to_thread(_remove, new)", "pass", _BROKEN),
    ("a revision is announced", _POSTGRES, '"SELECT pg_notify(:channel, :n)"', '"SELECT :channel || CAST(:n AS TEXT)"', _BOTH),
    ("who listens hears that he was cut off", _POSTGRES, "connection.add_termination_listener(self._heard)", "pass", _SERVER),
    ("what was made before one listened is read", _POSTGRES,
     "await self._listen()\n            return", "await self._listen()", _FOLLOWING),
    ("connections cut while idle fail nobody", _POSTGRES, "pool_pre_ping=True", "pool_pre_ping=False", _SERVER),
    ("a newer schema is not touched", "router/journal/tables.py", "if had > LATEST:", "if False:", _BOTH),
    ("a lost store gets back at once what is known", _JOURNAL, "await self._open()  # what it has", "raise  # what it has", _FOLLOWING),
    ("a store that failed is read anew", _JOURNAL, "self.is_open = False\n            if self", "if self", _FOLLOWING),
    ("a router starts without its store", _JOURNAL, "if not self._kept:\n                self._take",
     "if False:\n                self._take", _FOLLOWING),
    ("a ramp pushes out no state to go back to", _SIDECAR, "if kept.revision.part_of is None", "if True", _LAST),
    ("the last of many revisions is written", _SIDECAR, "while written is not self._latest:", "if written is not self._latest:", _LAST),
]  # fmt: skip
