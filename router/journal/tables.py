"""The store's tables and how an older store becomes a newer one: each step once, in order, in one transaction with its number."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

METADATA = sa.MetaData()

SCHEMA = sa.Table("crossfade_schema", METADATA, sa.Column("version", sa.Integer, primary_key=True))

REVISIONS = sa.Table(
    "crossfade_revisions",
    METADATA,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at_s", sa.Double, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("restores", sa.BigInteger),
    sa.Column("part_of", sa.BigInteger),
    sa.Column("state", sa.Text, nullable=False),  # JSON of policies.revisions.RoutingState
    sa.Column("file", sa.Text),  # JSON of the state that the file asked for, where a file made the revision
    sa.Column("key", sa.Text, unique=True),  # the idempotency key of the request
    sa.Column("asked", sa.Text),  # a digest of what that request asked for
)

STEPS = (
    ("CREATE TABLE crossfade_revisions (number BIGINT PRIMARY KEY, at_s DOUBLE PRECISION NOT NULL, actor TEXT NOT NULL,"
     " reason TEXT NOT NULL, kind TEXT NOT NULL, model TEXT NOT NULL, restores BIGINT, part_of BIGINT, state TEXT NOT NULL, file TEXT, key TEXT UNIQUE,"
     " asked TEXT)",),
)  # fmt: skip
LATEST = len(STEPS)


class TooNew(Exception):
    """The store was written by a newer version; the message is one sentence."""


async def migrate(connection: AsyncConnection) -> int:
    """Bring the store up to `LATEST`, inside the caller's transaction, which must keep others out; the version that it had. Raises TooNew."""
    await connection.execute(sa.text("CREATE TABLE IF NOT EXISTS crossfade_schema (version INTEGER PRIMARY KEY)"))
    had = (await connection.execute(sa.select(sa.func.max(SCHEMA.c.version)))).scalar() or 0
    if had > LATEST:
        raise TooNew(f"the store has schema {had}, and this version of Crossfade knows up to {LATEST}; use a newer one")
    for version in range(had, LATEST):
        for statement in STEPS[version]:
            await connection.execute(sa.text(statement))
        await connection.execute(SCHEMA.insert().values(version=version + 1))
    return had
